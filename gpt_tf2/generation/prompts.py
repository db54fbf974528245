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
    answered = zip(example.turns, answers, strict=False)
    allow_added = not isinstance(example.passage, ChatText)  # in a chat no reply holds a control token
    history = [
        encode_text(turn.prompt, tokenizer) + tokenizer.encode(answer, allow_added=allow_added)
        for turn, answer in answered
    ]
    own_prompt = encode_text(example.turns[len(answers)].prompt, tokenizer)
    turns = len(history)
    while history and room - len(own_prompt) - sum(map(len, history)) < min(len(passage), room // 2):
        history.pop(0)
    room_for_passage = max(0, room - len(own_prompt) - sum(map(len, history)))
    ids = passage[:room_for_passage] + [id for turn in history for id in turn] + own_prompt
    is_whole = len(history) == turns and len(passage) <= room_for_passage and len(ids) <= room
    return ids[-room:] or [tokenizer.end_of_text], is_whole
