"""The prompt for a turn of an example: passage, earlier turns with their answers, and the turn's own prompt."""

from collections.abc import Sequence

from gpt_tf2.data.encoding import encode_text
from gpt_tf2.tasks.task import ChatText, Example
from gpt_tf2.tokenizer import Tokenizer


def build_prompt(
    passage: list[int], example: Example, answers: Sequence[str], room: int, tokenizer: Tokenizer
) -> tuple[list[int], bool]:
    """The prompt of the first turn without an answer, shortened to `room` tokens.

    What does not fit is dropped in this order: the oldest turns, while the passage has less than half of the room; the
    end of the passage; the beginning of the turn's own prompt.

    Args:
        passage: the ids of the example's passage.
        answers: of the earlier turns, one each, fewer than the example has turns.
        room: the most tokens that the prompt may have.

    Returns:
        The ids, at least one, and whether nothing was dropped.

    Example:
        >>> passage = tokenizer.encode(example.passage)
        >>> ids, is_whole = build_prompt(passage, example, answers=[" red"], room=900, tokenizer=tokenizer)
    """
    allow_added = not isinstance(example.passage, ChatText)  # in a chat no reply holds a control token
    ends = [*(tokenizer.encode(answer, allow_added=allow_added) for answer in answers), []]
    turns = [encode_text(turn.prompt, tokenizer) + end for turn, end in zip(example.turns, ends, strict=False)]
    first = 0  # of the turns that stay
    while first < len(answers) and room - sum(map(len, turns[first:])) < min(len(passage), room // 2):
        first += 1
        prompt = example.turns[first].prompt.removeprefix(example.reply_end)
        turns[first] = encode_text(prompt, tokenizer) + ends[first]
    spoken = [id for turn in turns[first:] for id in turn]
    room_for_passage = max(0, room - len(spoken))
    ids = passage[:room_for_passage] + spoken
    is_whole = first == 0 and len(passage) <= room_for_passage and len(ids) <= room
    return ids[-room:] or [tokenizer.end_of_text], is_whole
