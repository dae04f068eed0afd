"""Servers as real processes, killed, stopped and drained under calls. ``make chaos`` is the long form.

The plan follows from a seed (CHAOS_SEED gives another one); when exactly a signal meets what, the machine decides.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.calls.plan import CALLERS, ROUND, THREADS
from tests.chaos.calls.reader import judge
from tests.chaos.calls.run import run

SEED = int(os.environ.get("CHAOS_SEED", "20"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_every_call_ends_with_a_true_outcome_whatever_is_done_to_servers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    print(f"seed {SEED}; the same again: python -m tests.chaos.calls --rounds 1 --seed {SEED} --verbose")
    outcome = run(SEED, folder, rounds=1, pause_s=(0.1, 0.6), say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert outcome.harms == Counter(ROUND)
    assert outcome.verdict.harms >= ROUND.count("kill") + 1
    assert outcome.verdict.outcomes["result"] > CALLERS * THREADS
    assert outcome.verdict.outcomes["raised"] > 0
    assert outcome.verdict.executions >= outcome.verdict.outcomes["result"]

    # The same run, doctored, does not pass.
    for kind, doctors in DOCTORS.items():
        for doctor in doctors:
            copy = tmp_path / doctor.__name__
            copy.mkdir()
            for path in folder.iterdir():
                if path.suffix in (".history", ".executions"):
                    (copy / path.name).symlink_to(path)
            doctor(copy)
            assert kind in {each.split(":")[0] for each in judge(copy).violations}, doctor.__name__


def of_a_result(folder: Path) -> tuple[Path, str]:
    """A server's log, and the line of an execution that was answered."""
    for path in sorted(folder.glob("server-*.executions")):
        found = re.search(r"^begin \d+ add (caller-\d+\.\d+\.\d+) .*$", path.read_text(), re.MULTILINE)
        if found and any(
            f"ended {found[1]} " in each.read_text()
            and re.search(rf"^ended {found[1]} \S+ result ", each.read_text(), re.M)
            for each in folder.glob("caller-*.history")
        ):
            return path, found[0]
    raise AssertionError("nothing was executed and answered")


def forget_an_execution(folder: Path) -> None:
    path, line = of_a_result(folder)
    replace(path, path.read_text().replace(f"{line}\n", "", 1))


def execute_twice(folder: Path) -> None:
    path, line = of_a_result(folder)
    _, _, rest = line.split(" ", 2)
    replace(path, f"{path.read_text()}begin 999999 {rest}\n")


def execute_at_another(folder: Path) -> None:
    path, line = of_a_result(folder)
    _, _, rest = line.split(" ", 2)
    other = next(each for each in sorted(folder.glob("server-*.executions")) if each.name[:8] != path.name[:8])
    replace(other, f"{other.read_text()}begin 999999 {rest}\n")


def deny(folder: Path) -> None:
    for path in folder.glob("caller-*.history"):
        replace(path, re.sub(r" result server-\S+ .*$", " rejected overloaded", path.read_text(), count=1, flags=re.M))


def lose_an_end(folder: Path) -> None:
    for path in folder.glob("caller-*.history"):
        replace(path, re.sub(r"^ended .*\n", "", path.read_text(), count=1, flags=re.M))


def replace(path: Path, text: str) -> None:
    path.unlink()  # a link
    path.write_text(text)


DOCTORS: dict[str, list[Callable[[Path], None]]] = {
    "invented": [forget_an_execution],
    "doubled": [execute_twice, execute_at_another],
    "untrue": [deny],
    "unended": [lose_an_end],
}
"""What the reader must say of a run that each of these has been at."""
