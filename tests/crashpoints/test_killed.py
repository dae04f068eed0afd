"""Real processes killed at system calls: here at a few, by `python -m tests.crashpoints` at each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashpoints import killed
from tests.crashpoints.killed import Kill

KILLS = (
    (Kill("pwrite64", 30), Kill("fdatasync", 3)),
    (Kill("pwrite64", 333), Kill("pwrite64", 200), Kill("unlink", 2)),
    (Kill("fdatasync", 55), Kill("pwrite64", 77)),
    (Kill("fdatasync", 171), Kill("fdatasync", 20)),
    (Kill("rename", 2), Kill("fsync", 1)),
    (Kill("unlink", 20), Kill("ftruncate", 1)),
)


@pytest.mark.slow
def test_a_process_killed_at_a_system_call_loses_and_doubles_nothing(memory_path: Path) -> None:
    reason = killed.missing()
    if reason:
        pytest.skip(reason)
    deaths = 0
    for number, kills in enumerate(KILLS):
        folder = memory_path / str(number)
        folder.mkdir()
        deaths += sum(each.status != 0 for each in killed.lives(folder, *kills))
    assert deaths >= len(KILLS)
