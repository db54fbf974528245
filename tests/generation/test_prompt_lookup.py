"""Draft tokens from the sequence itself."""

from gpt_tf2.generation.prompt_lookup import PromptLookup


def test_the_longest_and_then_latest_match_is_continued() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 8, 9, 3, 4, 5, 6, 1, 2, 3, 4], 3) == [8, 9, 3]  # four tokens match
    assert PromptLookup().propose([3, 4, 8, 3, 4, 5, 3, 4], 2) == [5, 3]  # two tokens match, twice
    assert PromptLookup().propose([3, 4, 8, 4], 2) == []  # one token is no match
    assert PromptLookup().propose([3], 2) == PromptLookup().propose([3, 4, 3, 4], 0) == []


def test_a_growing_sequence_gets_the_drafts_of_a_new_index() -> None:
    ids, lookup = [1, 2, 1, 3, 1, 2, 1, 3, 3, 1, 2, 1, 2, 3, 1], PromptLookup()
    for end in range(1, len(ids) + 1):
        assert lookup.propose(ids[:end], 4) == PromptLookup().propose(ids[:end], 4)
