"""``zmqkit pull --exec``: a command a job, whose exit status settles it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE


def test_the_body_is_on_stdin_and_status_0_acks(zmqkit: Start) -> None:
    lines = '"plain text"\n{"n": [1, null]}\n""\n7\n'
    push = zmqkit("push", ANYWHERE, "--json-lines", "--json", stdin=lines)
    pull = zmqkit("pull", push.address, "--count", "4", "--exec", 'cat; printf "|"')
    assert pull.finish() == 'plain text|{"n": [1, null]}||7|'
    assert push.finish_json()["acked"] == 4


def test_a_large_body_is_read_late_or_not_at_all(zmqkit: Start, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("x" * 1_000_000 + "\n" + "y" * 1_000_000 + "\n")
    push = zmqkit("push", ANYWHERE, "lines", "--json")
    command = "if test -e once; then wc -c; else touch once; fi"
    assert zmqkit("pull", push.address, "--count", "2", "--exec", command).finish().strip() == "1000000"
    assert push.finish_json()["acked"] == 2


def test_the_environment_names_the_job(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="x\n")
    command = 'test -n "$ZMQKIT_JOB_ID" && echo "$ZMQKIT_JOB_FAILURES $ZMQKIT_JOB_DELIVERIES $ZMQKIT_JOB_HEADERS"'
    assert zmqkit("pull", push.address, "--count", "1", "--exec", command).finish() == "0 1 {}\n"
    push.finish()


def test_a_failing_command_nacks_until_the_job_is_a_dead_letter(zmqkit: Start) -> None:
    push = zmqkit(
        "push", ANYWHERE, "--journal", "jobs.db", "--max-failures", "2", "--json", stdin="good\nbad\n"
    )  # fmt: skip
    command = 'read -r word; test "$word" = good || { echo first >&2; echo "no $word" >&2; exit 3; }'
    pull = zmqkit("pull", push.address, "--json", "--count", "3", "--exec", command)
    outcomes = [(job["outcome"], job["status"]) for job in pull.finish_lines(1)]
    assert sorted(outcomes) == [("acked", 0), ("nacked", 3), ("nacked", 3)]
    assert push.finish_json(1) == {
        "found": 0, "sent": 2, "acked": 1, "dead": 1, "expired": 0, "waiting": 0, "journal": "jobs.db"
    }  # fmt: skip
    assert "exit status 3: first / no bad" in push.said("dead letter")
    (dead,) = zmqkit("journal", "dead", "ls", "jobs.db", "--json").finish_lines()
    assert (dead["body"], dead["failures"], dead["reason"]) == ("bad", 2, "exit status 3: first / no bad")
    table = zmqkit("journal", "dead", "ls", "jobs.db").finish()
    assert dead["id"] in table
    assert "first / no bad" in table


def test_a_chosen_status_rejects_at_once(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", stdin="bad\n")
    zmqkit("pull", push.address, "--count", "1", "--exec", "exit 65", "--reject-status", "65").finish(1)
    push.finish(1)
    (dead,) = zmqkit("journal", "dead", "ls", "jobs.db", "--json").finish_lines()
    assert dead["reason"] == "exit status 65"


def test_a_command_that_a_signal_kills_nacks(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--max-failures", "1", stdin="x\n")
    zmqkit("pull", push.address, "--count", "1", "--exec", "kill -KILL $$").finish(1)
    push.finish(1)
    assert "killed by SIGKILL" in push.said("dead letter")


def test_a_command_that_does_not_exist_costs_no_job(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, "--max-failures", "1", stdin="x\n")
    address = push.address
    pull = zmqkit("pull", address, "--exec", "no-such-command-anywhere")
    pull.finish(1)
    assert "cannot be run" in pull.err.text
    (job,) = zmqkit("pull", address, "--count", "1").finish_lines()
    assert job["failures"] == 0
    push.finish()


def test_with_json_the_commands_own_output_goes_to_stderr(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="x\n")
    pull = zmqkit("pull", push.address, "--count", "1", "--json", "--exec", "echo noise")
    (line,) = pull.finish_lines()
    assert (line["outcome"], line["status"]) == ("acked", 0)
    assert "noise" in pull.err.text
    push.finish()


def test_what_a_command_leaves_running_holds_nobody_up(zmqkit: Start) -> None:
    push = zmqkit("push", ANYWHERE, stdin="x\n")
    pull = zmqkit("pull", push.address, "--count", "1", "--exec", "sleep 600 >/dev/null & echo pid $! >&2")
    try:
        pull.finish()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pull.said("pid").split()[1]), signal.SIGKILL)
    push.finish()


BLOCKING = "echo started >&2; cat go"
"""Runs until somebody has opened and closed the fifo."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_command_finish(zmqkit: Start, tmp_path: Path, number: signal.Signals) -> None:
    os.mkfifo(tmp_path / "go")
    push = zmqkit("push", ANYWHERE, "--json", stdin="one\ntwo\nthree\n")
    address = push.address
    pull = zmqkit("pull", address, "--drain", "600", "--prefetch", "3", "--exec", BLOCKING)
    pull.said("started")
    pull.signal(number)
    pull.said("stopping")
    (tmp_path / "go").write_text("done\n")
    assert pull.finish() == "done\n"
    # What it held besides is given back, and is nobody's failure.
    others = zmqkit("pull", address, "--count", "2").finish_lines()
    assert [(job["body"], job["failures"]) for job in others] == [("two", 0), ("three", 0)]
    assert push.finish_json()["acked"] == 3


@pytest.mark.parametrize(("drain", "signals", "code"), [("0", 1, 0), ("0.1", 1, 0), ("600", 2, 128 + signal.SIGTERM)])
def test_a_command_that_does_not_finish_is_ended_and_its_job_given_back(
    zmqkit: Start, tmp_path: Path, drain: str, signals: int, code: int
) -> None:
    os.mkfifo(tmp_path / "go")
    push = zmqkit("push", ANYWHERE, "--max-failures", "1", stdin="x\n")
    address = push.address
    pull = zmqkit("pull", address, "--drain", drain, "--exec", BLOCKING)
    pull.said("started")
    pull.signal(signal.SIGTERM)
    if signals > 1:
        pull.said("stopping")
        pull.signal(signal.SIGTERM)
    pull.finish(code)
    (job,) = zmqkit("pull", address, "--count", "1").finish_lines()
    assert (job["body"], job["failures"]) == ("x", 0)
    push.finish()
