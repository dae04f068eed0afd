"""The demo of devices as a user runs it: real processes, real kills, exit codes, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from zmqkit.demo.devices import problems
from zmqkit.demo.networks import PREFIX, NoNamespaces, namespaces

WAIT_S = 150.0
"""How long a run may take on a machine that has other things to do."""

GOOD: dict[str, Any] = {
    "kills": 2, "calls": 100, "answered": 100, "failed": {}, "executed": 100, "executed_twice": 0,
    "published": 50, "read": 50, "out_of_order": 0, "losses": 0,
    "sessions_resumed": {"calls": 1, "recovery": 0}, "gaps_recovered": 1,
}  # fmt: skip


def command(*options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "zmqkit.demo.devices", *options]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), capture_output=True, text=True, timeout=WAIT_S)


def left_over(pid: int) -> list[str]:
    """Namespaces of the demo that ran in this process."""
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir("/run/netns") if name.startswith(f"{PREFIX}{pid}-")]
    return []


@contextlib.contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        try:
            yield demo
        finally:
            if demo.poll() is None:
                demo.kill()


def until(demo: subprocess.Popen[str], word: str) -> None:
    """Until a line of its output has this word."""
    assert demo.stdout is not None
    for line in demo.stdout:  # the test's timeout bounds it
        if word in line:
            return
    raise AssertionError(f"the demo did not say {word!r}")


@pytest.fixture
def may_make_namespaces() -> None:
    try:
        with namespaces():
            pass
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_devices_between_loopback_addresses_are_killed_and_nothing_is_lost() -> None:
    done = run("--network", "loopback", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["ok"], told["network"], told["kills"]) == (True, "loopback", 2)
    assert told["answered"] == told["calls"] == told["executed"]
    assert told["read"] == told["published"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_devices_between_network_namespaces_are_killed_and_nothing_is_lost(may_make_namespaces: None) -> None:
    with running("--network", "namespaces", "--rounds", "1") as demo:
        output, errors = demo.communicate(timeout=WAIT_S)
        assert demo.returncode == 0, output + errors
        assert "two network namespaces" in output
        assert "Nothing was lost" in output
        assert left_over(demo.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ctrl_c_ends_the_demo_and_removes_its_namespaces(may_make_namespaces: None) -> None:
    with running("--network", "namespaces") as demo:
        until(demo, "forwarder ")
        assert len(left_over(demo.pid)) == 3
        os.killpg(demo.pid, signal.SIGINT)
        _, errors = demo.communicate(timeout=WAIT_S)
        assert demo.returncode == 130
        assert "ended by Ctrl-C" in errors
        assert left_over(demo.pid) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_a_killed_demo_left_behind_is_removed_by_the_next(may_make_namespaces: None) -> None:
    with running("--network", "namespaces") as demo:
        until(demo, "forwarder ")
        demo.kill()
        demo.communicate(timeout=WAIT_S)
        assert left_over(demo.pid) != []
        with namespaces():
            assert left_over(demo.pid) == []


def test_a_run_in_which_all_went_well_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"answered": 99, "failed": {"OutcomeUnknown": 1}}, "OutcomeUnknown"),
        ({"executed": 99}, "were executed"),
        ({"executed_twice": 1}, "1 twice"),
        ({"read": 49}, "49 were read"),
        ({"out_of_order": 1}, "1 out of order"),
        ({"losses": 1}, "named as lost"),
        ({"sessions_resumed": {"calls": 0, "recovery": 3}}, "no session went on"),
        ({"gaps_recovered": 0}, "fetched from history"),
    ],
)
def test_whatever_is_lost_fails_the_run(wrong: dict[str, Any], complaint: str) -> None:
    (found,) = problems({**GOOD, **wrong})
    assert complaint in found
