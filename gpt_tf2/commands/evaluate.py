"""`evaluate`: a model's predictions on a task and their scores, or the perplexity of a text."""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.backend.workers import Workers, find_workers
from gpt_tf2.checkpoints.formats import try_to_locate
from gpt_tf2.checkpoints.hub import is_on_hub
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.commands.data_settings import HIGHLIGHTS
from gpt_tf2.commands.decoders import choose_max_new_tokens, find_model, load_decoder
from gpt_tf2.commands.evaluate_settings import EvaluateSettings
from gpt_tf2.commands.evaluation_output import (
    claim_output,
    identify,
    journal_path,
    name_temporary_output,
    write_scores,
)
from gpt_tf2.commands.find_model import find_model_path, find_on_machine, name_model
from gpt_tf2.commands.find_task import choose_template, find_task_of
from gpt_tf2.commands.progress import Counter, print_to_stderr
from gpt_tf2.commands.recipes import read_run
from gpt_tf2.commands.score import print_table
from gpt_tf2.commands.template_notes import note_unread
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.completion_perplexity import measure_completions
from gpt_tf2.evaluation.perplexity import measure_perplexity
from gpt_tf2.evaluation.predictions import EvaluationProtocol, predict
from gpt_tf2.evaluation.shared_journal import SharedJournal
from gpt_tf2.storage.files import write_text
from gpt_tf2.storage.kept import Sources
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.task import ChatText, Example, RunningText, Scores, Task


def run_evaluate(settings: EvaluateSettings, is_written: bool = True, is_shown: bool = True) -> Scores:
    """Scores a model on a task, or measures its perplexity on a text.

    The predictions go to `output`, the scores beside it with the suffix `.scores.json`. A journal,
    `OUTPUT_FILE.partial`, keeps what is done, so that the same evaluation resumes after a kill, with equal results. Of
    several processes the first prints and writes; each of the others has a journal `OUTPUT_FILE.partial.NUMBER`.

    Args:
        is_written: whether the files are left there.
        is_shown: whether anything is printed.

    Returns:
        Tables of figures, which are printed too.

    Raises InputError if a setting or a file is bad, the output cannot be written, or another process has ended.

    Example:
        >>> run_evaluate(EvaluateSettings(data="held_out.txt"))["text"]  # doctest: +SKIP
    """
    learned = find_learned_highlights(settings)
    settings = dataclasses.replace(settings, highlights=settings.highlights or learned)
    task = find_task_of(settings)
    if task.prefers:
        message = "is trained on, not scored: score prompts with one completion each, `task` jsonl"
        raise InputError(message, "task", task.name)
    split = settings.split or task.splits[-1]
    task.check_split(split)
    if settings.num_trials > 1:
        check_trials(settings, task)
    if task.running_text:
        check_whole(settings)
        settings = dataclasses.replace(settings, engine="graph")  # whatever suits this machine for generating
    called = name_model(settings.model) if is_on_hub(settings.model) else ""  # in the cache all have the same name
    path = find_model_path(settings.model, settings.offline, settings.base)
    settings = dataclasses.replace(settings, model=str(path))  # whatever it was called
    model, engine = find_model(settings)
    task, _ = choose_template(task, None, model.chat_template)
    if not task.running_text:
        choose_max_new_tokens(settings, model)  # now, not after hours of work
    workers = find_workers(settings.devices)
    is_shown = is_shown and workers.is_main
    of = settings.model, settings.data
    with (
        claim_output(settings.output, *of, task, split, called) if is_written else name_temporary_output() as output,
        Counter("evaluating", "batches" if task.running_text else "completions", shown=is_shown) as counter,
    ):
        if learned and learned != settings.highlights:
            counter.say(f"{model.path} learned --highlights {learned}, not {settings.highlights}")
        elif learned == "all":
            counter.say(f"--highlights all, as {model.path} learned")
        scores: Scores
        if task.running_text:
            scores = {task.name: score_text(settings, task.running_text, model, output, workers, counter, is_shown)}
        else:
            scores = score_task(settings, task, split, model, engine, output, workers, counter, is_shown)
            if is_written:
                counter.say(f"saved the predictions, {output}")
        if workers.is_main and is_written:
            saved = write_scores(output, scores, *of)
    if is_shown:
        for title, table in scores.items():
            print_table(title, table)
        if is_written:
            print(f"saved the scores, {saved}")
    return workers.exchange(scores)[0]


def find_learned_highlights(settings: EvaluateSettings) -> str | None:
    """What a summary was in the run that made the model, by its recipe; None if that is not known."""
    path = find_on_machine(settings.model) if settings.task == "cnndm" else None
    located = try_to_locate(str(path)) if path else None
    run = read_run(located) if located else {}
    highlights = run.get("highlights")
    return highlights if run.get("task") == "cnndm" and highlights in HIGHLIGHTS["choices"] else None


def check_whole(settings: EvaluateSettings) -> None:
    """Raises InputError for settings that do not apply to running text."""
    for name in ("limit", "references"):
        if getattr(settings, name) is not None:
            raise InputError("running text is scored whole: leave it out", name, getattr(settings, name))
    if settings.quantize:
        raise InputError("running text is scored by the Keras graph: leave it out", "quantize", settings.quantize)
    if settings.engine in ("native", "litert"):
        raise InputError("running text is scored by the Keras graph: leave it out", "engine", settings.engine)


def check_trials(settings: EvaluateSettings, task: Task) -> None:
    """Raises InputError for several samples that would be the same, or that are not joined."""
    if not task.joins:
        raise InputError(f"does not apply to `task` {task.name}: leave it out", "num_trials", settings.num_trials)
    if settings.highlights == "all":
        raise InputError(
            "joins sentences, not whole summaries: drop it, or give `highlights` one", "num_trials", settings.num_trials
        )
    if settings.sampler().greedy:
        message = "the samples would be the same: raise `temperature` above 0, and `top_k` above 1"
        raise InputError(message, "num_trials", settings.num_trials)


def score_task(
    settings: EvaluateSettings,
    task: Task,
    split: str,
    model: OpenedModel,
    engine: str,
    output: Path,
    workers: Workers,
    counter: Counter,
    is_shown: bool,
) -> Scores:
    """Writes the predictions for a split's examples, and scores them; the main process does, the others return {}."""
    skipped = Skipped()
    examples = list(itertools.islice(read_examples(task, settings.data, split, skipped), settings.limit))
    for line in skipped.lines():
        counter.say(line)
    has_chats = any(isinstance(example.passage, ChatText) for _, example in examples)
    for line in note_unread(model, "asking") if has_chats else []:
        counter.say(line)
    task.check(examples, settings.data, split, settings.references)  # now, not after hours of work
    decoders = workers.make_on_each(lambda: load_decoder(settings, model, engine, counter.say, is_shown))
    name = decoders[0].name + workers.describe()
    counter.say(f"{model.path}: {len(examples):,} examples of {settings.data}, {split}; {name}")
    protocol = EvaluationProtocol(
        slots=settings.batch_size,
        max_new_tokens=choose_max_new_tokens(settings, model),
        sampler=settings.sampler(),
        seed=settings.seed,
        stop=task.stop,
        gold_history=settings.gold_answers,
        draft=settings.drafts(task.drafts),
        num_trials=settings.num_trials,
    )
    work = [protocol, engine, decoders[0].precision, digest(example for _, example in examples)]
    journal = begin_journal(settings, output, counter, model, work, workers, is_shown)
    asked = [(number, example) for number, example in examples if not (task.perplexity and is_bare(example))]
    predictions, shortened = predict(decoders, model.tokenizer, asked, protocol, workers, journal, counter.show)
    if shortened:
        counter.say(f"{shortened:,} prompts did not fit into {model.config.n_ctx} tokens and were shortened")
    scores: Scores = {}
    if workers.is_main:
        write_text(output, task.write(predictions))
        scores = task.score(predictions, settings.data, split, settings.references)
    if task.perplexity:
        known = [example for _, example in examples]
        figures = measure_completions(decoders, model.tokenizer, known, workers, journal, counter.show)
        scores = {**scores, "the data's completions": {"all": figures}} if workers.is_main else {}
    journal.remove()
    return scores


def is_bare(example: Example) -> bool:
    """Whether nothing is asked: a text without a prompt."""
    return not example.passage and not example.turns[0].prompt


def score_text(
    settings: EvaluateSettings,
    running_text: RunningText,
    model: OpenedModel,
    output: Path,
    workers: Workers,
    counter: Counter,
    is_shown: bool,
) -> dict[str, dict[str, float]]:
    """The perplexity of a text."""
    skipped = Skipped()
    streams = read_streams(running_text, settings.data, model.tokenizer, skipped)
    for line in [*skipped.lines(), *filter(None, [model.remark])]:
        counter.say(line)
    start_backend()
    from gpt_tf2.training.blockwise import BlockwiseModel

    # A perplexity is exact, also on a GPU, unless bfloat16 is asked for by name.
    precision = "float32" if settings.precision == "auto" else settings.precision
    losses = workers.make_on_each(
        lambda: BlockwiseModel(model.load(precision=precision, held=precision), trained=()).loss
    )
    work = [settings.batch_size, digest(s.tobytes() for s in streams)]
    if precision != "float32":
        work.append(precision)
    journal = begin_journal(settings, output, counter, model, work, workers, is_shown)
    figures = measure_perplexity(
        streams, model.tokenizer, model.config.n_ctx, settings.batch_size, losses, workers, journal, counter.show
    )
    journal.remove()
    return {settings.data: figures}


def begin_journal(
    settings: EvaluateSettings,
    output: Path,
    counter: Counter,
    model: OpenedModel,
    work: list,
    workers: Workers,
    is_shown: bool,
) -> SharedJournal:
    """The journal of an evaluation of this model; says where it resumes."""
    of = identify(settings.model, settings.data)
    weights = Sources(lambda: map(os.path.abspath, model.sources)).digest()
    journal = SharedJournal(journal_path(output), f"{of} {weights} {work}", workers)
    if journal.damage and is_shown:
        print_to_stderr(journal.damage)
    if journal.results:
        counter.say(f"{journal.path}: resuming after {len(journal.results):,} {counter.unit}")
    return journal


def digest(parts: Iterable[Example | bytes]) -> str:
    """A digest of bytes, or of examples."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part if isinstance(part, bytes) else repr(part).encode())
    return sha256.hexdigest()
