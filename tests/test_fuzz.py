"""Every reader gets files damaged at random: each is read, or refused in one line, quickly and in little memory."""

from pathlib import Path

import pytest

from helpers.fuzzing import KEPT, TARGETS, fuzz
from helpers.markers import skip_on_jax

pytestmark = skip_on_jax


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, name: str, rounds: int) -> None:
    count = fuzz(TARGETS[name], tmp_path / "files", rounds, seed=rounds)
    print(f"{name}: {count}")
    assert count.read + count.refused == rounds and count.refused


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_work_is_never_used(tmp_path: Path, name: str, rounds: int) -> None:
    count = fuzz(KEPT[name], tmp_path / "files", rounds, seed=rounds)
    print(f"{name}: {count}")
    assert count.read == rounds
