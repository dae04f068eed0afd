"""Real processes harmed at system calls: here at a few, by `python -m tests.crashpoints` at each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashpoints import killed
from tests.crashpoints.killed import Failure, Kill

pytestmark = pytest.mark.slow

KILLS = (
    (Kill("pwrite64", 30), Kill("fdatasync", 3)),
    (Kill("pwrite64", 333), Kill("pwrite64", 200), Kill("unlink", 2)),
    (Kill("fdatasync", 55), Kill("pwrite64", 77)),
    (Kill("fdatasync", 171), Kill("fdatasync", 20)),
    (Kill("rename", 2), Kill("fsync", 1)),
)
"""Of one life after the other."""

FAILURES = (
    Failure("pwrite64", 400, 3, "EIO"),
    Failure("pwrite64", 77, 1, "ENOSPC"),
    Failure("fdatasync", 60, 1, "EIO"),
    Failure("fsync", 2, 1, "EIO"),
)


@pytest.fixture(scope="module", autouse=True)
def _strace_works() -> None:
    reason = killed.missing()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: ", ".join(f"{each.call} {each.at}" for each in kills))
def test_a_process_killed_at_a_system_call_loses_and_doubles_nothing(
    memory_path: Path, kills: tuple[Kill, ...]
) -> None:
    ended = killed.lives(memory_path, *kills)
    assert [each.status for each in ended[: len(kills)]].count(0) < len(kills)
    assert ended[-1].status == 0


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: f"{failure.call} {failure.at} {failure.error}")
def test_a_process_whose_system_calls_fail_loses_and_doubles_nothing(memory_path: Path, failure: Failure) -> None:
    killed.fail(memory_path, failure)
