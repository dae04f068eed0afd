"""Ctrl-C at random moments: KeyboardInterrupt loses nothing and leaves everything usable.

Real signals in a process of its own, thousands of them, at random distances.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.transport.raw import chosen

pytestmark = pytest.mark.usefixtures("tested")

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """In which a program uses the driver that is tried."""
    return {**os.environ, "ZMQKIT_TESTED_DRIVER": chosen.kind}


def run(name: str, *args: str, code: int = 0) -> dict[str, Any]:
    # From 3.12 on Python warns of forks beside threads; they are what is being tested.
    warnings = ["-W", "error::ResourceWarning", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *warnings, "-m", "tests.transport.programs", name, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


@pytest.mark.slow
def test_an_interrupt_while_taking_loses_and_doubles_nothing() -> None:
    said = run("interrupted_take")
    assert said["complete"], said
    assert said["ordered"]
    assert said["interrupts"] >= 3000


@pytest.mark.slow
def test_interrupted_waits_lose_nothing_beside_another_thread() -> None:
    said = run("interrupted_waits")
    assert said["complete"], said
    assert said["ordered"]
    assert said["waiters"] == said["left"] == 0
    assert said["interrupts"] >= 1500
    assert min(said["mine"], said["others"]) > 0


@pytest.mark.slow
def test_an_interrupted_wait_swallows_no_hint_that_another_thread_needs() -> None:
    said = run("interrupted_hints")
    assert not said["stuck"], said
    assert said["ordered"]
    assert said["interrupts"] >= 1500
    assert said["woken"] > 0


@pytest.mark.slow
def test_interrupted_calls_are_carried_out_once_and_no_result_is_lost() -> None:
    said = run("interrupted_calls")
    assert said["alive"] == "alive"
    assert said["wrong"] == said["missing"] == said["waiting"] == 0
    assert said["confirmed"] > 0
    assert said["closed"]


@pytest.mark.slow
def test_interrupted_round_trips_are_answered_once_each_and_leave_nobody_leading() -> None:
    said = run("interrupted_round_trips")
    assert said["answered"] == said["sent"], said
    assert said["doubled"] == 0
    assert not said["failed"]
    assert not said["leads"]
    assert said["interrupts"] >= 1500


@pytest.mark.slow
def test_an_interrupted_close_can_be_repeated() -> None:
    said = run("interrupted_close")
    assert said["closed"] == 100
    assert said["left"] == []
    assert said["interrupts"] > 0
