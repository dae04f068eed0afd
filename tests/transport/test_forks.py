"""Forks and exits: a child gets `Forked` at once and ends cleanly, a parent goes on, and no exit hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.transport.raw import PATIENCE_S, driver, take
from tests.transport.test_interrupts import ROOT, environment, run
from zmqkit.transport import forks

pytestmark = pytest.mark.usefixtures("tested")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["os_fork", "multiprocessing_fork"])
def test_a_forked_child_is_refused_at_once_and_ends_while_the_parent_goes_on(way: str) -> None:
    assert run(way) == {"wrong": [], "goes_on": True, "closed": True, "journal_closed": 1}


def test_what_was_not_open_at_the_fork_can_be_opened_on_both_sides() -> None:
    assert run("fork_unstarted") == {"child": 0, "parent": True}


def test_a_forked_child_keeps_no_port_of_its_parents_taken(tmp_path: Path) -> None:
    assert run("fork_ports", str(tmp_path)) == {"good": [True] * 3, "child": 0}


def test_a_program_that_ends_with_open_drivers_says_goodbye_first() -> None:
    with driver(binds=["tcp://127.0.0.1:0"]) as bound:
        assert run("exit_open", bound.addresses[0]) == {"ready": True}
        assert take(bound).frames == [b"goodbye"]


def test_an_exit_with_a_status_keeps_it() -> None:
    run("exit_by_exception", code=3)


@pytest.mark.slow
def test_cores_that_never_finish_and_a_hanging_disk_delay_the_exit_by_a_second_or_so() -> None:
    command = [sys.executable, "-m", "tests.transport.programs", "exit_endless"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment())
    with process:
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        # Bounded by 1 s; here only that it is bounded at all: the disk hangs for 1,000 s.
        assert process.wait(PATIENCE_S) == 0


def test_closing_all_open_drivers_is_bounded_as_a_whole() -> None:
    with driver() as first, driver() as second:
        assert forks.close_all(PATIENCE_S)
        assert first.ended.result() is True
        assert second.ended.result() is True
