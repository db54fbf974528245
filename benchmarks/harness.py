"""Wall times of lm-evaluation-harness at the 124M shape, on local data: our model beside transformers'.

    python benchmarks/harness.py

Each model runs in a process of its own. The weights are random; the text is Python's language reference.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from gpt_tf2 import Tokenizer
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.config import SIZES
from gpt_tf2.data.reference_text import read_reference_text
from models import write_model
from processes import run_alone, vocabulary

MODELS = {"gpt-tf2": {}, "gpt-tf2 int8": {"quantize": "int8"}, "hf": {"device": "cpu"}}
TASK = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
ROLLING = 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
CHOICES = 'output_type: multiple_choice\ndoc_to_text: "{{text}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: 0\n'


def write_tasks(folder: Path) -> None:
    """Ten long texts, a hundred texts with four endings of 60 characters, and a hundred questions with four letters."""
    text = read_reference_text()
    texts = [line.replace("\n", " ") for line in text.split("\n\n") if 200 < len(line) < 600][:103]
    rows = {
        "texts": (ROLLING, "word_perplexity", [{"text": text[i * 7000 : i * 7000 + 6500]} for i in range(10)]),
        "endings": (
            CHOICES,
            "acc",
            [
                {"text": a[:140], "choices": [x[140:200] for x in (a, *texts[i : i + 3])]}
                for i, a in enumerate(texts[3:])
            ],
        ),
        "letters": (
            CHOICES,
            "acc",
            [{"text": f"{line[:300]}\nAnswer:", "choices": list("ABCD")} for line in texts[3:]],
        ),
    }
    for name, (task, metric, items) in rows.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(item) + "\n" for item in items))
        head = f"task: {name}\n" + TASK.format(file=file)
        (folder / f"{name}.yaml").write_text(f"{head}{task}metric_list: [{{metric: {metric}}}]\n")


def measure(folder: Path, model: str) -> dict[str, list[float]]:
    """Seconds, and the figure, of each task."""
    import lm_eval
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    import gpt_tf2.lm_eval  # noqa: F401 - registers itself

    loaded = get_model(model.split()[0])(pretrained=str(folder), batch_size=8, **MODELS[model])
    manager, results = TaskManager(include_path=str(folder), include_defaults=False), {}
    for task, metric in (("letters", "acc"), ("letters", "acc"), ("endings", "acc"), ("texts", "word_perplexity")):
        began = time.monotonic()
        result = lm_eval.simple_evaluate(loaded, tasks=[task], task_manager=manager, bootstrap_iters=0)
        results[task] = [time.monotonic() - began, result["results"][task][f"{metric},none"]]  # the first warms up
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, help="the folder, and the model to measure in this process")
    only = parser.parse_args().only
    if only:
        print(json.dumps(measure(Path(only[0]), only[1])))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = vocabulary()
        write_model(folder, SIZES["124M"], files)
        save_vocabulary(Tokenizer(*files), folder / "model.safetensors")
        write_tasks(folder)
        for model in MODELS:
            figures = run_alone(__file__, "--only", name, model)
            print(model, {task: (round(s, 1), round(figure, 4)) for task, (s, figure) in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
