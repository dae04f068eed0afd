"""Streamers and queues between real processes, killed again and again. ``make chaos`` is the long form.

The plan follows from a seed (CHAOS_SEED gives another one); when exactly a signal meets what, the machine decides.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.devices.outcome import Length, Outcome
from tests.chaos.devices.plan import Spec, plan, row
from tests.chaos.devices.reader import Restart, absences, outages, restarts
from tests.chaos.devices.run import Ports, run_calls, run_jobs

SEED = int(os.environ.get("CHAOS_SEED", "20"))
SHORT = Length(seconds=1.0, steps=3, pause_s=(0.1, 0.5))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("devices", [1, 2])
def test_no_job_is_lost_or_done_twice_through_streamers_that_are_killed(devices: int, tmp_path: Path) -> None:
    seed = SEED + devices
    print(f"seed {seed}; at length: python -m tests.chaos --devices {devices} --seed {seed} --verbose")
    outcome = run_jobs(seed, tmp_path, devices, SHORT, say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert outcome.kills >= 2
    assert outcome.resumed > 0
    assert outcome.passed_on > 0
    assert outcome.disturbed > 0


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("devices", [1, 2])
def test_every_call_ends_with_a_true_outcome_through_queues_that_are_killed(devices: int, tmp_path: Path) -> None:
    seed = SEED + devices
    print(f"seed {seed}; at length: python -m tests.chaos.calls --devices {devices} --seed {seed} --verbose")
    outcome = run_calls(seed, tmp_path, devices, SHORT, say=print)
    print(outcome.table())
    assert outcome.failures == []
    assert outcome.kills >= 2
    assert outcome.resumed > 0
    assert outcome.passed_on > 0
    assert outcome.disturbed > 0


# ---- how devices stand in a row -----------------------------------------------------------


def ports() -> list[str]:
    """Addresses to be given, the first one last."""
    return [f"tcp://host:{number}" for number in (3, 2, 1)]


def test_each_device_of_a_row_dials_the_next_and_the_last_one_the_peers() -> None:
    first, last = row(2, 12, ports().pop, far=["tcp://far:1", "tcp://far:2"])
    assert (first.front, first.back) == (("@tcp://host:1",), (">tcp://host:2",))
    assert (last.front, last.back) == (("@tcp://host:2",), (">tcp://far:1", ">tcp://far:2"))
    assert Spec.read(str(last)) == last


def test_where_peers_in_front_are_dialled_the_first_device_dials_them_and_is_dialled_by_the_next() -> None:
    first, last = row(2, 12, ports().pop, near=["tcp://near:1"])
    assert (first.front, first.back) == ((">tcp://near:1",), ("@tcp://host:2",))
    assert (last.front, last.back) == ((">tcp://host:2",), ("@tcp://host:1",))


def test_where_nobody_is_dialled_both_ends_of_a_row_are_bound() -> None:
    (only,) = row(1, 12, ports().pop)
    assert (only.front, only.back) == (("@tcp://host:1",), ("@tcp://host:2",))


def test_each_round_kills_every_device_and_stops_one_but_not_first() -> None:
    steps = plan(SEED, "queue", 2, (0.0, 1.0))
    for _ in range(50):
        round_ = [next(steps) for _ in range(3)]
        assert sorted(step.index for step in round_ if step.kind == "kill") == [0, 1]
        assert [step.kind for step in round_].count("stop") == 1
        assert round_[0].kind == "kill"


def test_no_address_is_given_twice() -> None:
    port = Ports()
    given = [port() for _ in range(50)]
    assert len(set(given)) == 50


# ---- what is read of it ---------------------------------------------------------------------


WELL = Outcome(
    violations=[], complaints=[], counted={"calls": 100}, again={"calls repeated": 0}, work="calls", kills=3, stops=1,
    undisturbed=500.0, disturbed=300.0, resumed=4, passed_on=4, lost=0, away=[1.5], restarts=[], seconds=10.0,
)  # fmt: skip


def test_a_run_in_which_all_sessions_went_on_passes() -> None:
    assert WELL.failures == WELL.idle == []


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"violations": ["lost: a"]}, "lost: a"),
        ({"complaints": ["logged: b"]}, "logged: b"),
        ({"resumed": 0}, "no session went on through a device that was started again"),
        ({"passed_on": 0}, "no session went on through a device that was started again"),
        ({"lost": 2}, "2 sessions were lost, and no device was away for long"),
        ({"again": {"calls repeated": 3}}, "3 x calls repeated, and no session was lost"),
    ],
)
def test_a_run_in_which_something_is_wrong_does_not_pass(wrong: dict[str, Any], found: str) -> None:
    assert dataclasses.replace(WELL, **wrong).failures == [found]


def test_sessions_may_be_lost_and_work_repeated_where_a_device_was_away_for_long() -> None:
    assert dataclasses.replace(WELL, lost=2, again={"calls repeated": 3}, away=[1.5, 8.0]).failures == []


def test_a_run_that_does_less_than_half_of_the_work_is_told() -> None:
    assert dataclasses.replace(WELL, disturbed=200.0).idle == ["only 0.40 x the work of the undisturbed half was done"]


def written(folder: Path, *lines: str) -> Path:
    path = folder / "controller.history"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_absences_that_overlap_are_one_outage_and_those_of_peers_are_none(tmp_path: Path) -> None:
    history = written(
        tmp_path,
        "start queue-0 1 1.0", "open queue-0 1 1.5", "busy queue-0 1 2.0",
        "kill server-0 1 5.0",
        "kill queue-0 1 10.0", "start queue-0 2 10.1", "kill queue-1 1 10.5", "open queue-0 2 11.0",
        "busy queue-0 2 11.5", "start queue-1 2 11.6", "open queue-1 2 12.0", "busy queue-1 2 12.5",
        "stop queue-1 2 20.0", "go queue-1 2 21.0",
        "kill queue-0 2 30.0", "start queue-0 3 30.1", "kill queue-0 3 30.2", "start queue-0 4 30.3",
    )  # fmt: skip
    assert outages(absences(history)) == [(10.0, 12.5), (20.0, 21.0), (30.0, float("inf"))]


def test_a_restart_is_measured_to_the_first_answer_after_the_successor_was_open(tmp_path: Path) -> None:
    history = written(
        tmp_path,
        "kill queue-0 1 10.0", "start queue-0 2 10.25", "open queue-0 2 10.5", "busy queue-0 2 11.5",
        "kill queue-0 2 20.0", "start queue-0 3 20.0", "open queue-0 3 20.5", "stop queue-1 1 20.75",
        "busy queue-0 3 21.0", "go queue-1 1 22.0",
    )  # fmt: skip
    answered = [9.0, 10.1, 10.4, 10.75, 11.0, 22.5]
    assert restarts(absences(history), answered) == [Restart(open_s=0.5, answered_s=0.75)]
