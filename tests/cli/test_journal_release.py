"""`zmqkit journal release`: give what is in doubt to anybody, in a closed journal and in one that is open."""

from __future__ import annotations

from pathlib import Path

import pytest

import zmqkit as library
from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE

PATIENCE_S = 20.0


@pytest.fixture
def doubtful(tmp_path: Path) -> list[str]:
    """The ids of two messages in doubt in jobs.db; a third one is not."""
    push = library.Pusher(ANYWHERE, journal=tmp_path / "jobs.db", linger=0)
    push.open()
    push.send_many(["a", "b"])
    with library.Puller(push.addresses[0], inbox=tmp_path / "state.db", prefetch=2) as pull:
        found = [pull.receive(PATIENCE_S), pull.receive(PATIENCE_S)]
    push.send("c")
    with pytest.warns(RuntimeWarning, match="not settled"):
        push.close()
    return [job.id for job in found if job is not None]


def in_doubt(zmqkit: Start) -> dict[str, str]:
    """By id: at which inbox, as ``journal show`` says."""
    shown = zmqkit("journal", "show", "jobs.db", "--json").finish_lines()
    assert [each["body"] for each in shown] == ["a", "b", "c"]
    return {each["id"]: each["in_doubt_at"] for each in shown if "in_doubt_at" in each}


def test_what_is_in_doubt_is_shown_with_its_inbox(zmqkit: Start, doubtful: list[str]) -> None:
    found = in_doubt(zmqkit)
    assert list(found) == doubtful
    (inbox,) = set(found.values())
    show = zmqkit("journal", "show", "jobs.db")
    show.finish()
    assert f"2 in doubt: only the inbox {inbox}" in show.err.text


def test_an_inbox_is_released_and_all_goes_to_anybody(zmqkit: Start, tmp_path: Path, doubtful: list[str]) -> None:
    inbox = in_doubt(zmqkit)[doubtful[0]]
    release = zmqkit("journal", "release", "jobs.db", "--inbox", inbox)
    release.finish()
    assert "2 jobs may go to anybody" in release.err.text
    assert in_doubt(zmqkit) == {}
    with (
        library.Pusher(ANYWHERE, journal=tmp_path / "jobs.db") as push,
        library.Puller(push.addresses[0]) as pull,
    ):
        for _ in range(3):
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack()
        push.flush(PATIENCE_S)


def test_a_program_that_runs_releases_an_inbox_and_hands_out_what_waited(
    zmqkit: Start, tmp_path: Path, doubtful: list[str]
) -> None:
    inbox = in_doubt(zmqkit)[doubtful[0]]
    with (
        library.Pusher(ANYWHERE, journal=tmp_path / "jobs.db") as push,
        library.Puller(push.addresses[0]) as pull,
    ):
        release = zmqkit("journal", "release", "jobs.db", "--id", doubtful[0])
        release.finish(1)
        assert "give --inbox ID" in release.err.text
        release = zmqkit("journal", "release", "jobs.db", "--inbox", "ffff")
        release.finish(1)
        assert "knows no inbox ffff" in release.err.text
        release = zmqkit("journal", "release", "jobs.db", "--inbox", inbox[:8])
        release.finish()
        assert "2 jobs may go to anybody" in release.err.text
        for _ in range(3):
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack()
        push.flush(PATIENCE_S)
        assert push.stats()["in_doubt"] == 0


def test_one_message_is_released_alone(zmqkit: Start, doubtful: list[str]) -> None:
    zmqkit("journal", "release", "jobs.db", "--id", doubtful[1]).finish()
    assert list(in_doubt(zmqkit)) == doubtful[:1]


def test_what_is_not_in_doubt_cannot_be_released(zmqkit: Start, doubtful: list[str]) -> None:
    release = zmqkit("journal", "release", "jobs.db", "--id", "nothing")
    release.finish(1)
    assert "1 of the ids are of no job in doubt" in release.err.text
    release = zmqkit("journal", "release", "jobs.db", "--inbox", "ffff")
    release.finish(1)
    assert "knows no inbox ffff" in release.err.text
    zmqkit("journal", "release", "jobs.db").finish(2)
