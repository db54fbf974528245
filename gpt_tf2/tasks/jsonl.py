"""The task `jsonl`: pairs of prompt and completion, texts and chats, one JSON object per line."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.scoring.coqa import average, score_turn
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.chats import SHAREGPT, Message, add_system, check_no_system, make_chat, read_messages
from gpt_tf2.tasks.json_lines import SPLITS as SPLITS
from gpt_tf2.tasks.json_lines import Line, Lines, get_text, list_keys, list_lines, parse_line
from gpt_tf2.tasks.task import DEFAULT_READING, Example, Note, Prediction, Reading, Scores, Turn, Unusable

READS = ("encoding", "chat_template")
STOP = ""  # a completion may have line breaks: only the end-of-text token ends it
PERPLEXITY = True
NAMES = None
SUFFIX = ".jsonl"
FORMS = '{"prompt", "completion"}, {"messages"} or {"text"}'
REPLIES = ("completion", "messages", "conversations", "output")  # where replies to learn stand
Item = tuple[Line, ChatTemplate]


class Items:
    """The lines of a split, each with the template for chats, and the notes among them."""

    def __init__(self, lines: Lines | list[Line], template: ChatTemplate):
        self.lines, self.template = lines, template

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Item | Note]:
        return (line if isinstance(line, Note) else (line, self.template) for line in self.lines)


def items(dataset_path: str, split: str, reading: Reading = DEFAULT_READING) -> Iterable[Item | Note]:
    """The lines of a split that are not blank; see `list_lines`."""
    return Items(list_lines(dataset_path, split, reading.encoding), reading.chat_template)


def example(item: Item) -> Example:
    """The example on a line; see `to_example`."""
    line, template = item
    return to_example(parse_line(line), line.name, template)


def to_example(value: Mapping[str, Any], name: str, template: ChatTemplate) -> Example:
    """A chat, a pair or a text as an example. Pairs and texts stand as they are.

    Raises InputError, naming the line, if it is none, or malformed. Raises Unusable for an empty completion.
    """
    check_no_preferences(value, name)
    if (messages := read_chat(value, name)) is not None:
        return make_chat(messages, template, name)
    if "prompt" in value or "completion" in value:
        check_no_system(value, name)
        prompt, completion = get_text(value, "prompt", name), get_text(value, "completion", name)
    elif "text" in value:
        prompt, completion = "", get_text(value, "text", name)
    else:
        raise InputError(f"{name}: there is {list_keys(value)}, but none of {FORMS}: rename what stands for them")
    if not completion:
        raise Unusable("a completion is empty", name)
    return Example(name, "", (Turn(prompt, (completion,)),))


def check_no_preferences(value: Mapping[str, Any], name: str) -> None:
    """Raises InputError for preferences, paired or not: the worse completions would be learned as good ones."""
    is_message = isinstance(value.get("chosen"), Mapping)  # in LLaMA-Factory's form, beside an unanswered chat
    if "chosen" in value and "rejected" in value and (is_message or not {*REPLIES, "text"} & value.keys()):
        fix = "give `task` preferences, to train with `objective` dpo"
        raise InputError(f"{name}: these are preferences, chosen and rejected: {fix}")
    if isinstance(value.get("label"), bool) and set(REPLIES) & value.keys():
        fix = 'keep only lines whose label is true, and leave out "label"'
        raise InputError(f'{name}: a "label" of true or false marks unpaired preferences, which are not read: {fix}')


def read_chat(value: Mapping[str, Any], name: str) -> list[Message] | None:
    """The messages of a line in one of the forms of chats; None if it has another form.

    These are `messages`, `prompt` and `completion` as lists of messages, ShareGPT's `conversations`, and Alpaca's
    `instruction`, `input`, `output` and `history`; the system's message may stand beside each.
    """
    if "messages" in value:
        messages = read_messages(value["messages"], name)
    elif "conversations" in value:
        messages = read_messages(value["conversations"], name, SHAREGPT)
    elif isinstance(value.get("prompt"), list):
        given = read_messages(value["prompt"], f"{name}: prompt")
        replies = read_messages(value.get("completion"), f"{name}: completion")
        messages = [*(message._replace(is_learned=False) for message in given), *replies]
    elif "instruction" in value and "output" in value:
        messages = [*read_instruction(value, name), Message("assistant", get_text(value, "output", name), True)]
    else:
        return None
    return add_system(messages, value, name)


def read_instruction(value: Mapping[str, Any], name: str) -> list[Message]:
    """The messages of an Alpaca line before its last reply."""
    asked = "\n".join(get_text(value, key, name) for key in ("instruction", "input") if value.get(key))
    return [*read_history(value, name), Message("user", asked, False)]


def read_history(value: Mapping[str, Any], name: str) -> list[Message]:
    """The earlier turns of an Alpaca line, `history`: a list of prompts with their replies, which are learned too."""
    turns = value.get("history") or []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise InputError(f'{name}: "history" is no list of pairs: write [["prompt", "reply"], …]')
    messages = []
    for number, (asked, reply) in enumerate(turns, start=1):
        texts = {"prompt": asked, "reply": reply}
        place = f"{name}: history: turn {number}"
        messages += [
            Message("user", get_text(texts, "prompt", place), False),
            Message("assistant", get_text(texts, "reply", place), True),
        ]
    return messages


def write(predictions: Sequence[Prediction]) -> str:
    """A JSON object per line for each completion: id, turn, prompt, completion, and the data's own as expected."""
    return "".join(
        json.dumps(
            {
                "id": prediction.example.id,
                "turn": number,
                "prompt": turn.prompt,
                "completion": completion,
                "expected": turn.completions[0],
            },
            ensure_ascii=False,
        )
        + "\n"
        for prediction in predictions
        for number, (turn, completion) in enumerate(
            zip(prediction.example.turns, prediction.completions, strict=True), start=1
        )
    )


def score(predictions: Sequence[Prediction], dataset_path: str, split: str, references: str | None) -> Scores:
    """Exact match and F1 of the completions, with SQuAD's normalization, which CoQA's evaluator shares."""
    pairs = [
        score_turn(list(turn.completions), completion)
        for prediction in predictions
        for turn, completion in zip(prediction.example.turns, prediction.completions, strict=True)
    ]
    if not pairs:  # there are texts only
        return {}
    scores = average(pairs)
    return {"completions": {"all": {"em": scores.em, "f1": scores.f1, "turns": scores.turns}}}


def check(examples: Sequence[tuple[int, Example]], dataset_path: str, split: str, references: str | None) -> None:
    """Raises InputError for references: each line has its own completion."""
    if references:
        message = "does not apply to `task` jsonl, whose lines have their own completions: leave it out"
        raise InputError(message, "references", references)
