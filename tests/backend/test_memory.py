"""What the system says of memory."""

from pathlib import Path

import pytest

from gpt_tf2.backend.memory import measure_group_rooms


@pytest.mark.parametrize(
    ("groups", "rooms"),
    [
        ("0::/system.slice/serve.service\n", [600.0, 900.0]),
        ("1:cpu:/\n0::/system.slice/other.service\n", [900.0]),
        ("0::/\n", []),
        ("0::/../host\n", []),  # a container that sees its own group alone
        ("4:memory:/user\n", []),
        ("", []),
    ],
)
def test_every_group_that_a_process_is_in_limits_it(groups: str, rooms: list[float], tmp_path: Path) -> None:
    service = tmp_path / "system.slice" / "serve.service"
    service.mkdir(parents=True)
    for folder, limit, used in ((service, "1000", "400"), (service.parent, "1000", "100"), (tmp_path, "max", "500")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    assert measure_group_rooms(tmp_path, groups) == rooms


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("8000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert measure_group_rooms(tmp_path, "0::/\n") == [5000.0]
