"""Pushers, workers and sinks as real processes, killed and stopped at random. ``make chaos`` is the long form.

The plan follows from a seed (CHAOS_SEED gives another one); when exactly a signal meets what, the machine decides.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import ROOT, Died, Fleet
from tests.chaos.plan import CREW
from tests.chaos.reader import judge
from tests.chaos.run import Outcome, run

KILLS = 30
SEED = int(os.environ.get("CHAOS_SEED", "20"))
PATIENCE_S = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("chaos")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Outcome:
    print(f"seed {SEED}; the same at length: python -m tests.chaos --kills {KILLS} --seed {SEED} --verbose")
    outcome = run(KILLS, SEED, folder, say=print)
    print(outcome.table())
    return outcome


def test_what_was_confirmed_settles_and_counts_once_whoever_is_killed(outcome: Outcome) -> None:
    assert outcome.failures == []
    assert set(outcome.kills) == set(CREW)
    assert outcome.kills.total() == outcome.restarts.total() == KILLS
    assert min(outcome.kills.values()) >= KILLS // 3
    assert min(outcome.kills_at_work.values()) >= 3
    assert outcome.verdict.confirmed > 0
    assert outcome.redelivered > 0


def drop_first(path: Path) -> None:
    path.write_text(path.read_text().split("\n", 1)[1])


def repeat_first(path: Path) -> None:
    text = path.read_text()
    path.write_text(text + text.split("\n", 1)[0] + "\n")


def invent(path: Path) -> None:
    path.write_text(path.read_text() + "an-id never-sent 0\n")


@pytest.mark.parametrize(("doctor", "kind"), [(drop_first, "lost"), (repeat_first, "doubled"), (invent, "invented")])
def test_the_same_run_doctored_does_not_pass(
    outcome: Outcome, folder: Path, tmp_path: Path, doctor: Callable[[Path], None], kind: str
) -> None:
    assert outcome.failures == []
    for path in folder.iterdir():
        if path.suffix in (".history", ".journal"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copy(folder / "ledger", tmp_path)
    assert judge(tmp_path).violations == []
    doctor(tmp_path / "ledger")
    assert kind in {each.split(":")[0] for each in judge(tmp_path).violations}


def test_a_process_that_ends_by_itself_is_told_and_all_others_are_ended(tmp_path: Path) -> None:
    with Fleet(tmp_path, "chaos-died", SEED) as fleet:
        processes = [each.process for each in fleet.members if each.process is not None]
        victim = next(each.process for each in fleet.members if each.name == "worker-1")
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)  # not by the fleet
        with pytest.raises(Died, match="worker-1 ended by itself"):
            fleet.pause(PATIENCE_S)
    assert len(processes) == sum(CREW.values())
    assert all(each.returncode is not None for each in processes)


@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="finds children of children in /proc")
def test_children_end_when_their_parent_is_killed_also_a_stopped_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kills", "100000", "--keep", str(tmp_path / "run"), "--verbose"]
    # A session of its own: when its leader is gone, the kernel wakes and hangs up what is stopped in it.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as parent:
        try:
            assert parent.stdout is not None
            for line in parent.stdout:
                if b"SIGKILL" in line:
                    break
            parent.send_signal(signal.SIGSTOP)  # so that no child comes or goes meanwhile
            children = children_of(parent.pid)
            os.kill(children[0], signal.SIGSTOP)
            # The kernel looks for those that are stopped when the parent ends; all threads must have come to it.
            deadline = time.monotonic() + PATIENCE_S
            while state(children[0]) not in "TZX" and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            parent.kill()
    assert len(children) >= sum(CREW.values()) - len(CREW)
    deadline = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in children if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)  # they are no children of ours: nothing tells
    assert not left


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    """As the kernel tells it: R, S, T (stopped)... X: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
