"""Pushers, workers and sinks as real processes, killed and stopped at random. ``make chaos`` is the long form.

The plan follows from a seed (CHAOS_SEED gives another one); when exactly a signal meets what, the machine decides.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.fleet import ROOT, Died, Fleet
from tests.chaos.peers import make_databases
from tests.chaos.plan import SMALL_CREW
from tests.chaos.reader import judge
from tests.chaos.run import run

KILLS = 24
SEED = int(os.environ.get("CHAOS_SEED", "20"))
PATIENCE_S = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


DOCTORED = [
    ("delete from effects where n = 1", {"lost", "records"}),
    ("insert into effects (id, item, place) select id, item, place from effects where n = 1", {"doubled"}),
    ("insert into effects (id, item, place) values ('an-id', 'never-sent', 0)", {"invented", "records"}),
    ("delete from zmqkit_inbox_jobs where id = (select id from effects where n = 1)", {"records"}),
]
"""What the reader must say of a run when the results in it are not what they were."""


def test_what_was_confirmed_settles_and_counts_once_whoever_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    print(f"seed {SEED}; the same at length: python -m tests.chaos --small --kills {KILLS} --seed {SEED} --verbose")
    outcome = run(KILLS, SEED, folder, crew=SMALL_CREW, say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert set(outcome.kills) == set(SMALL_CREW)
    assert outcome.kills.total() == outcome.restarts.total() == KILLS
    assert min(outcome.kills.values()) >= KILLS // len(SMALL_CREW)
    assert min(outcome.kills_at_work.values()) >= 3
    verdict = outcome.verdict
    assert verdict.confirmed > verdict.ordered > 0
    assert outcome.redelivered > 0

    # A journal whose older copy was put back is refused, and what was lost is sent again.
    assert set(outcome.restores) == {"pusher", "sender"}
    assert verdict.restored["on"] >= 1
    assert verdict.restored["back"] >= 1
    assert verdict.again > 0

    # The same run, doctored, does not pass.
    for number, (statement, kinds) in enumerate(DOCTORED):
        copy = tmp_path / f"doctored-{number}"
        copy.mkdir()
        for path in folder.iterdir():
            if path.suffix in (".history", ".journal"):
                (copy / path.name).symlink_to(path)
            elif path.name.startswith(("effects.db", "sender-0.db")):
                shutil.copy(path, copy)
        assert judge(copy).violations == []
        with closing(sqlite3.connect(copy / "effects.db")) as effects, effects:
            effects.execute(statement)
        assert kinds <= set(judge(copy).kinds), statement


def test_a_process_that_ends_by_itself_is_told_and_all_others_are_ended(tmp_path: Path) -> None:
    make_databases(tmp_path, SEED, SMALL_CREW["sender"])
    with Fleet(tmp_path, "chaos-died", SEED, crew=SMALL_CREW) as fleet:
        processes = [each.process for each in fleet.members if each.process is not None]
        victim = next(each.process for each in fleet.members if each.name == "worker-1")
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)  # not by the fleet
        with pytest.raises(Died, match="worker-1 ended by itself"):
            fleet.pause(PATIENCE_S)
    assert len(processes) == sum(SMALL_CREW.values())
    assert all(each.poll() is not None for each in processes)


@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="finds children of children in /proc")
def test_children_end_when_their_parent_is_killed_also_a_stopped_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--small", "--kills", "100000", "--verbose"]
    command += ["--keep", str(tmp_path / "run")]
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
            while not stopped(children[0]) and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            parent.kill()
    assert len(children) >= sum(SMALL_CREW.values()) - len(SMALL_CREW)
    deadline = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in children if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)  # they are no children of ours: nothing tells
    assert not left


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stopped(pid: int) -> bool:
    """With all its threads: one may be in a call that the disk takes its time for."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(each in "TZX" for each in states)


def lives(pid: int) -> bool:
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    """As the kernel tells it: R, S, T (stopped)... X: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
