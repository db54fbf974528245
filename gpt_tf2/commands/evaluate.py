"""`evaluate`: checkpoint → model → decoder → text → score."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from gpt_tf2.backend.starting import start
from gpt_tf2.checkpoints import files_of, read_model
from gpt_tf2.commands.engine import Source, find_source, open_decoder
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import ModelSettings
from gpt_tf2.commands.progress import Counter
from gpt_tf2.commands.score import print_table
from gpt_tf2.decoding.litert.conversion import content
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.predictions import Asking, predict
from gpt_tf2.storage.files import check_writable, read_utf8, write_text
from gpt_tf2.storage.journal import Journal
from gpt_tf2.tasks import check_split, find_task, text
from gpt_tf2.tasks.task import Example, LeftOut, Scores, Task, read_examples
from gpt_tf2.tokenizer import Tokenizer

DRAFTED = ("cnndm", "coqa")  # whose completions copy from the passage


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ModelSettings):
    """The flags of `evaluate.py`, under their own names."""

    dataset_path: str = flag(dataclasses.MISSING, "the data: a file, a folder or a glob", short="data")
    data_loader: str = flag("text", "what the data is: text, cnndm, coqa, or a task of your own, FILE.py")
    split: str | None = flag(None, "which part of it: train, val or test of cnndm, train or dev of coqa (the last)")
    limit: int | None = flag(None, "most examples to evaluate (all)", kind=int)
    output_file: str | None = flag(None, "the file of predictions (output/MODEL_LOADER_SPLIT.txt, or .json for coqa)")
    references: str | None = flag(
        None, "score against these: for cnndm a line of <t> … </t> a story (its highlights), for coqa a gold file"
    )
    gold_answers: bool = flag(False, "show earlier turns with the data's answers, not the model's own", kind=bool)
    batch_size: int = flag(8, "rows at a time", kind=int)
    seed: int = flag(0, "of the draws", kind=int)

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        super().__post_init__()
        task = find_task(self.data_loader)
        check_split(task, self.data_loader, self.split_of(task))
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: give at least 1")
        if self.data_loader == "text":
            for name in ("limit", "references"):
                if getattr(self, name) is not None:
                    raise InputError(f"--{name} {getattr(self, name)}: a text is scored whole: leave it out")
            if self.quantize:
                raise InputError(f"--quantize {self.quantize}: a text is scored by the Keras graph: leave it out")

    def split_of(self, task: Task) -> str:
        """The split that is evaluated."""
        return self.split or task.SPLITS[-1]

    def output(self, task: Task) -> Path:
        """The file of predictions."""
        model = Path(self.model_path)
        stem = model.name if model.is_dir() else model.stem
        name = f"{stem}_{Path(self.data_loader).stem}_{self.split_of(task)}{task.SUFFIX}"
        return Path(self.output_file) if self.output_file else Path("output") / name


def evaluate(settings: EvaluateSettings) -> Scores:
    """Scores a model on a task, or its perplexity on a text.

    The predictions go to `output_file`, the figures beside it with the ending `.scores.json`. What is done is kept in
    `OUTPUT_FILE.partial`, so that the same evaluation goes on after a kill, with the same predictions.

    Returns:
        Tables of figures, which are printed too.

    Raises InputError if a setting or a file is bad, or the output cannot be written.
    """
    task = find_task(settings.data_loader)
    source = find_source(settings)
    if settings.data_loader != "text":
        source.check_room()
    tokenizer = source.tokenizer()
    output = settings.output(task)
    check_writable(output.parent, 0, "choose another --output_file, or mend the permissions")
    with Counter("evaluating", "batches" if settings.data_loader == "text" else "completions") as counter:
        if settings.data_loader == "text":
            scores = score_text(settings, source, tokenizer, output, counter)
        else:
            scores = score_task(settings, task, source, tokenizer, output, counter)
    for title, rows in scores.items():
        print_table(title, rows)
    write_text(output.with_suffix(".scores.json"), json.dumps(scores, indent=1) + "\n")
    print(f"{output.with_suffix('.scores.json')}: the figures")
    return scores


def score_task(
    settings: EvaluateSettings,
    task: Task,
    source: Source,
    tokenizer: Tokenizer,
    output: Path,
    counter: Counter,
) -> Scores:
    """Writes the predictions and scores them."""
    split = settings.split_of(task)
    left_out = LeftOut()
    found = read_examples(task, settings.dataset_path, split, left_out)
    examples = list(itertools.islice(found, settings.limit))
    for line in left_out.lines():
        counter.say(line)
    if settings.references:
        read_utf8(settings.references)  # before hours of work

    decoder = open_decoder(source, counter.say)
    counter.say(f"{source.path}: {len(examples):,} examples of {settings.dataset_path}, {split}; {decoder.name}")
    asking = Asking(
        settings.batch_size,
        settings.output_length,
        settings.sampler(),
        settings.seed,
        task.STOP,
        settings.gold_answers,
        settings.drafts(settings.data_loader in DRAFTED),
    )
    work = [asking, source.engine, source.precision, digest(example for _, example in examples)]
    journal = begin_journal(output, counter, source, work)
    predictions, shortened = predict(decoder, tokenizer, examples, asking, journal, counter.show)
    if shortened:
        counter.say(f"{shortened:,} prompts did not fit into {source.config.n_ctx} tokens and were shortened")
    write_text(output, task.write(predictions))
    scores = task.score(predictions, settings.dataset_path, split, settings.references)
    journal.remove()
    counter.say(f"{output}: the predictions")
    return scores


def score_text(
    settings: EvaluateSettings,
    source: Source,
    tokenizer: Tokenizer,
    output: Path,
    counter: Counter,
) -> Scores:
    """The perplexity of a text."""
    from gpt_tf2.evaluation import perplexity

    streams = text.read_streams(settings.dataset_path, tokenizer)
    start()
    from gpt_tf2.training.blockwise import BlockwiseModel

    blockwise = BlockwiseModel(read_model(source.opened(), source.config), trained=())
    journal = begin_journal(output, counter, source, [settings.batch_size, digest(s.tobytes() for s in streams)])
    batches = list(perplexity.windows(streams, tokenizer.end_of_text, source.config.n_ctx, settings.batch_size))
    for number, batch in enumerate(batches):
        if journal.get(str(number)) is None:
            journal.put(str(number), float(blockwise.loss(batch)))
        counter.show(number + 1, len(batches))
    nats = sum(journal.results[str(number)] for number in range(len(batches)))
    tokens = sum(len(stream) for stream in streams)
    figures = perplexity.figures(nats, tokens, sum(tokenizer.size(stream) for stream in streams))
    journal.remove()
    return {"text": {settings.dataset_path: figures}}


def begin_journal(output: Path, counter: Counter, source: Source, work: list) -> Journal:
    """The journal of an evaluation of this model; says where it goes on."""
    weights = content(files_of(source.path, source.settings.json_hparams))
    journal = Journal(output.with_name(output.name + ".partial"), f"{weights} {work}")
    if journal.results:
        counter.say(f"{journal.path}: going on after {len(journal.results):,} {counter.unit}")
    return journal


def digest(parts: Iterable[Example | bytes]) -> str:
    """A digest of bytes, or of what examples hold."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.hexdigest()
