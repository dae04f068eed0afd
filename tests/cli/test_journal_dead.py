"""`zmqkit journal dead`: look at dead letters, send them again, drop them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE

PATIENCE_S = 20.0


@pytest.fixture
def letters(tmp_path: Path) -> list[str]:
    """The ids of three dead letters in jobs.db: of "a", "b" and "c", which its handler could not do."""

    def clumsy(body: Any) -> None:
        raise LookupError(f"no {body}")

    path = tmp_path / "jobs.db"
    with library.Pusher(ANYWHERE, journal=path, max_failures=1) as push:
        push.send_many(["a", "b", "c"])
        with library.Puller(push.addresses[0], on_error="reject") as pull:
            for _ in range(3):
                job = pull.receive(PATIENCE_S)
                assert job is not None
                with job:
                    clumsy(job.body)
            push.flush(PATIENCE_S)
        return [each.id for each in push.dead_letters()]


def test_one_letter_is_shown_whole(zmqkit: Start, letters: list[str]) -> None:
    shown = zmqkit("journal", "dead", "show", "jobs.db", letters[1]).finish()
    assert letters[1] in shown
    assert "LookupError: no b" in shown
    assert 'raise LookupError(f"no {body}")' in shown
    (told,) = zmqkit("journal", "dead", "show", "jobs.db", letters[1], "--json").finish_lines()
    assert (told["id"], told["body"], told["failures"]) == (letters[1], "b", 0)
    assert "clumsy" in told["traceback"]


def test_a_letter_that_is_not_there_is_not_shown(zmqkit: Start, letters: list[str]) -> None:
    missing = zmqkit("journal", "dead", "show", "jobs.db", "nobody")
    missing.finish(1)
    assert "no dead letter nobody" in missing.err.text


def test_letters_are_sent_again_and_delivered(zmqkit: Start, letters: list[str]) -> None:
    retried = zmqkit("journal", "dead", "retry", "jobs.db", letters[0], letters[2])
    retried.finish()
    assert "2 wait again" in retried.err.text
    assert [each["id"] for each in zmqkit("journal", "show", "jobs.db", "--json").finish_lines()] == [
        letters[0], letters[2],
    ]  # fmt: skip
    serve = zmqkit("journal", "serve", "jobs.db", ANYWHERE)
    assert zmqkit("pull", serve.address, "--count", "2", "--raw").finish().split() == ["a", "c"]
    serve.finish()
    (left,) = zmqkit("journal", "dead", "ls", "jobs.db", "--json").finish_lines()
    assert left["id"] == letters[1]


def test_letters_are_dropped(zmqkit: Start, letters: list[str]) -> None:
    dropped = zmqkit("journal", "dead", "drop", "jobs.db", letters[0])
    dropped.finish()
    assert "1 was thrown away" in dropped.err.text
    zmqkit("journal", "dead", "drop", "jobs.db", "--all").finish()
    listed = zmqkit("journal", "ls", "jobs.db", "--json").finish_json()[0]
    assert (listed["waiting"], listed["dead"]) == (0, 0)


def test_ids_of_no_letter_are_told(zmqkit: Start, letters: list[str]) -> None:
    retried = zmqkit("journal", "dead", "retry", "jobs.db", letters[0], "nobody")
    retried.finish(1)
    assert "1 waits again" in retried.err.text
    assert "1 of the ids is of no dead letter" in retried.err.text
    retried = zmqkit("journal", "dead", "retry", "jobs.db", letters[0], "nobody")
    retried.finish(1)
    assert retried.err.text == "zmqkit: 2 of the ids are of no dead letter\n", "and nothing is to be delivered"


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_what_is_not_clear_changes_nothing(zmqkit: Start, letters: list[str], verb: str) -> None:
    neither, both = zmqkit("journal", "dead", verb, "jobs.db"), zmqkit("journal", "dead", verb, "jobs.db", "x", "--all")
    neither.finish(2)
    assert "--all" in neither.err.text
    both.finish(2)
    assert "not both" in both.err.text
    missing = zmqkit("journal", "dead", verb, "nowhere.db", "--all")
    missing.finish(5)
    assert not Path("nowhere.db").exists()
    assert zmqkit("journal", "ls", "jobs.db", "--json").finish_json()[0]["dead"] == 3


# ---- while its program runs --------------------------------------------------------------


def test_letters_of_a_program_that_runs_are_shown_sent_again_and_dropped_there(
    zmqkit: Start, letters: list[str]
) -> None:
    push = zmqkit("push", ANYWHERE, "--journal", "jobs.db", stdin=None)
    assert push.address
    listed = zmqkit("journal", "dead", "ls", "jobs.db", "--json").finish_lines()
    assert [(each["id"], each["body"]) for each in listed] == list(zip(letters, "abc", strict=True))
    shown = zmqkit("journal", "dead", "show", "jobs.db", letters[1]).finish()
    assert "LookupError: no b" in shown
    dropped = zmqkit("journal", "dead", "drop", "jobs.db", letters[0], "nobody")
    dropped.finish(1)
    assert "1 was thrown away" in dropped.err.text
    assert "1 of the ids" in dropped.err.text
    retried = zmqkit("journal", "dead", "retry", "jobs.db", "--all")
    retried.finish()
    assert "2 wait again; the program that has the journal open delivers them" in retried.err.text
    assert [each["body"] for each in zmqkit("journal", "show", "jobs.db", "--json").finish_lines()] == ["b", "c"]
    assert zmqkit("pull", push.address, "--count", "2", "--raw").finish().split() == ["b", "c"]
    nothing = zmqkit("journal", "dead", "ls", "jobs.db")
    nothing.finish()
    assert "no dead letters in jobs.db" in nothing.err.text
    push.finish()


def test_a_program_that_does_not_answer_is_named(zmqkit: Start, letters: list[str], tmp_path: Path) -> None:
    with library.Pusher(ANYWHERE, journal=tmp_path / "jobs.db", linger=0) as push:
        assert push._control is not None
        Path(push._control.removeprefix("ipc://")).unlink()
        refused = zmqkit("journal", "dead", "drop", "jobs.db", "--all")
        refused.finish(3)
        assert f"process {os.getpid()}" in refused.err.text
        assert len(push.dead_letters()) == 3
