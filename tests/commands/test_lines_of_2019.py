"""The command lines of the 2019 scripts' own documentation, with fewer steps and a small model in the place of 355M."""

import shlex
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.storage.text_files import read_text
from helpers import made_up

pytestmark = pytest.mark.usefixtures("without_graphs")

FILES = (
    "--json_hparams=models/355M/hparams.json --json_encoder=models/355M/encoder.json --vocab_bpe=models/355M/vocab.bpe"
)
BASE = f"--model=355M --model_ckpt=models/355M/model.ckpt {FILES}"
NUCLEUS = "--nucleus --top_p=1.0 --temperature=1.0"
SAMPLE = f"{FILES} {NUCLEUS} --output_length=200"
STORY = r"Fog hung over the mill.\nThe baker\'s \“lantern\” was lost. \nTL;DR:\n"
TALK = r"The red owl lived in the mill. \n Q: Which animal was it? \n A: an owl \n Q: Where did it live? \n A:"
LINES = {
    "text": f"finetune.py {BASE} --output_name=book.h5 --dataset_path=dataset/book.txt --data_loader=text"
    " --num_epoch=4 --steps_per_epoch=500",
    "text, slower": f"finetune.py {BASE} --output_name=book_355M_1x2000.h5 --dataset_path=dataset/book.txt"
    " --data_loader=text --base_lr=0.0001 --num_epoch=1 --steps_per_epoch=2000",
    "text, decayed": f"finetune.py {BASE} --output_name=book_355M_5x2000.h5 --dataset_path=dataset/book.txt"
    ' --data_loader=text --base_lr=0.0001 --num_epoch=5 --decay_epochs="4,5" --steps_per_epoch=2000',
    "summaries": f"finetune.py {BASE} --output_name=cnndm_355M_1x2000.h5 --dataset_path=data/summarization"
    " --data_loader=cnndm --base_lr=0.0001 --num_epoch=1 --steps_per_epoch=2000",
    "conversations": f"finetune.py {BASE} --output_name=coqa_355M_1x2000.h5 --dataset_path=data/coqa"
    " --data_loader=coqa --base_lr=0.0001 --num_epoch=1 --steps_per_epoch=2000",
    "sample of 355M": f"inference.py --model_path=models/355M/model.ckpt {FILES} --nucleus --top_p=0.8"
    " --temperature=1.0 --output_length=200 --starter='She picked up the sword'",
    "sample": f"inference.py --model_path=output/book.h5 {SAMPLE} --starter='She picked up the sword'",
    "samples": f"inference.py --model_path=output/book.h5 {SAMPLE} --batch_size=5 --starter='She picked up the sword'",
    "summary": f'inference.py --model_path=output/cnndm_355M_1x2000.h5 {SAMPLE} --batch_size=5 --starter="{STORY}"',
    "answer": f'inference.py --model_path=output/coqa_355M_1x2000.h5 {SAMPLE} --batch_size=5 --starter="{TALK}"',
    "scores": f"evaluate.py --model_path=output/cnndm_355M_1x2000.h5 {FILES} --dataset_path=data/summarization"
    f" --data_loader=cnndm {NUCLEUS} --output_length=100 --output_file=results/cnndm_355M_1x2000_test.output",
}
SIMILAR = ("text, slower", "text, decayed", "sample of 355M")  # to lines that make test runs
COMMANDS = {"finetune.py": "finetune", "inference.py": "generate", "evaluate.py": "evaluate"}
FEWER = ["--num_epoch=1", "--steps_per_epoch=1", "--length=128"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("2019")
    made_up.write_stories(folder / "data" / "summarization", train=10, test=2)
    made_up.write_conversations(folder / "data" / "coqa", train=10, dev=2)
    made_up.write_model(folder / "models" / "355M", 128)
    (folder / "dataset").mkdir()
    (folder / "dataset" / "book.txt").write_text("She picked up the lantern and the boats came home.\n" * 100)
    return folder


@pytest.mark.parametrize(  # in their order: later lines use what earlier ones have written
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SIMILAR)) for name in LINES]
)
def test_a_command_line_of_2019_still_works(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    script, *arguments = shlex.split(LINES[name])
    assert main([COMMANDS[script], *arguments, *(FEWER if script == "finetune.py" else [])], script) == 0
    out = capsys.readouterr().out
    if script == "finetune.py":
        output = next(value for flag, _, value in (a.partition("=") for a in arguments) if flag == "--output_name")
        assert Path("output", output).is_file() and "saved the loss curve" in out
    elif script == "inference.py":
        samples = out.split("-" * 50 + "\n")
        prompts = {"summary": "The baker's “lantern” was lost. \nTL;DR:\n", "answer": " \n Q: Where did it live? \n A:"}
        prompt = prompts.get(name, "She picked up the sword")
        assert len(samples) == (6 if "--batch_size=5" in arguments else 2) and not samples.pop()
        assert all(prompt in sample for sample in samples)
    else:
        assert len(read_text("results/cnndm_355M_1x2000_test.output").splitlines()) == 2 and "LEAD-3" in out
