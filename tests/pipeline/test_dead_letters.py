"""dead_letters(): to look at them, to send them again, to drop them; what crashes and full disks leave of that."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, take
from zmqkit import Limits, Puller, Pusher, Settled, UsageError
from zmqkit.errors import JournalFull
from zmqkit.patterns.pipeline import letters as limits
from zmqkit.patterns.pipeline.dead import letter_of
from zmqkit.patterns.pipeline.letters import Letters, Page
from zmqkit.patterns.pipeline.rows import DeadRow
from zmqkit.protocol.core import Outputs, Read, Row


async def bury(push: Any, pull: Any, bodies: list[Any]) -> None:
    """Send these, and reject each."""
    for body in bodies:
        await push.send(body, headers={"of": str(body)})
    for body in bodies:
        async with await take(pull) as job:
            await job.reject(f"no {body}")
    await push.flush(PATIENCE_S)


async def seen(push: Any) -> list[Any]:
    """The bodies of all dead letters."""
    return [each.body async for each in push.dead_letters()]


@pytest.mark.parametrize("journal", [True, False])
async def test_dead_letters_tell_what_died_and_why(face: Face, tmp_path: Path, journal: bool) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
        assert len(push.dead_letters()) == 0
        assert not push.dead_letters()
        await bury(push, pull, ["a", "b"])
        dead = push.dead_letters()
        assert len(dead) == 2
        (first, second) = [each async for each in dead]
        assert (first.body, first.reason, first.headers, first.traceback) == ("a", "no a", {"of": "a"}, None)
        assert second.id != first.id
        assert second.at >= first.at


@pytest.mark.parametrize("journal", [True, False])
async def test_a_letter_that_is_sent_again_keeps_its_id_and_begins_anew(
    face: Face, tmp_path: Path, journal: bool
) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
        receipt = await push.send({"n": 1}, headers={"a": "b"})
        async with await take(pull) as job:
            sent_at = job.sent_at
            await job.reject("not today")
        await push.flush(PATIENCE_S)
        assert [letter.sent_at async for letter in push.dead_letters()] == [sent_at]
        assert await push.dead_letters().retry() == 1
        async with await take(pull) as job:
            assert (job.id, job.body, job.headers, job.failures) == (receipt.id, {"n": 1}, {"a": "b"}, 0)
            assert job.sent_at == sent_at
        assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=1)
        assert await seen(push) == []
        assert len(push.dead_letters()) == 0


@pytest.mark.parametrize("journal", [True, False])
async def test_a_letter_that_is_sent_again_keeps_its_key_and_its_priority(
    face: Face, tmp_path: Path, journal: bool
) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0], prefetch=1) as pull:
        for body, more in (("low", {"priority": -5}), ("keyed", {"key": "k", "priority": 3}), ("plain", {})):
            await push.send(body, **more)
        for _ in range(3):
            async with await take(pull) as job:
                await job.reject("not now")
        await push.flush(PATIENCE_S)
        await pull.close()
        letters = {letter.body: (letter.key, letter.priority) async for letter in push.dead_letters()}
        assert letters == {"low": (None, -5), "keyed": ("k", 3), "plain": (None, 0)}
        assert await push.dead_letters().retry() == 3
        await push.send("behind", key="k")
        assert len(push.dead_letters()) == 0
        found = []
        async with face.Puller(push.addresses[0], prefetch=1) as pull:
            for _ in range(4):
                async with await take(pull) as job:
                    found.append((job.body, job.key))
        # The one behind is held until the journal has the ack; who has no key does not wait for that.
        assert (found[0], found[-1]) == (("keyed", "k"), ("low", None))
        assert sorted(found[1:3], key=str) == [("behind", "k"), ("plain", None)]
        assert (await push.flush(PATIENCE_S)).acked == 4


@pytest.mark.parametrize("journal", [True, False])
async def test_some_are_sent_again_and_some_dropped_by_their_ids(face: Face, tmp_path: Path, journal: bool) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
        await bury(push, pull, ["a", "b", "c", "d"])
        dead = push.dead_letters()
        ids = [each.id async for each in dead]
        assert await dead.drop(ids[1], ids[3], "nobody") == 2
        assert await dead.drop(ids[1]) == 0
        assert await dead.retry(ids[2], ids[2]) == 1
        assert await handle(pull, 1) == ["c"]
        assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=4)
        assert await seen(push) == ["a"]
        assert await dead.drop() == 1
        assert len(dead) == 0


async def test_letters_of_a_journal_are_there_again_when_it_is_opened(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    push = face.Pusher(LOCAL, journal=path)
    await push.open()
    async with face.Puller(push.addresses[0]) as pull:
        await bury(push, pull, list(range(5)))
    assert await push.dead_letters().retry() == 5
    with pytest.warns(RuntimeWarning, match="5 messages"):
        await push.close(0)
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
        assert len(push.dead_letters()) == 0
        assert await handle(pull, 5) == list(range(5))
        assert await push.flush(PATIENCE_S) == Settled(acked=5)
        await bury(push, pull, ["x"])
    push = face.Pusher(LOCAL, journal=path)
    assert len(push.dead_letters()) == 1  # opens it
    assert await seen(push) == ["x"]
    await push.close()


async def test_who_dies_again_is_a_dead_letter_again_and_not_sent_for_ever(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push, face.Puller(push.addresses[0]) as pull:
        await bury(push, pull, ["a"])
        for _ in range(3):
            assert await push.dead_letters().retry() == 1
            async with await take(pull) as job:
                await job.reject("still not")
            await push.flush(PATIENCE_S)
        assert await seen(push) == ["a"]


def test_a_body_whose_codec_is_not_known_any_more_is_shown_as_bytes() -> None:
    row = DeadRow("id", "gone", b"body", {}, "why", "", 1, 0, 0)
    letter = letter_of(row, Limits())
    assert (letter.body, letter.at) == (b"body", datetime.fromtimestamp(0, UTC))


async def test_ids_are_text(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(TypeError, match="text"):
            await push.dead_letters().retry(1)
        with pytest.raises(TypeError, match="text"):
            await push.dead_letters().drop(None)
    with pytest.raises(UsageError, match="closed"):
        await push.dead_letters().drop()


# ---- the core ----------------------------------------------------------------------


def page_of(out: Outputs, letters: Letters, ticket: str, rows: list[Row]) -> Page:
    letters.page(0, ticket, 0.0)
    (read,) = out.reads
    out.reads.clear()
    letters.loaded(read, rows)
    ((to, page),) = out.replies
    out.replies.clear()
    assert to == ticket
    assert isinstance(page, Page)
    return page


def test_two_who_claim_the_same_letter_get_it_once() -> None:
    out = Outputs()
    letters = Letters(out, durable=True)
    letters.count = 2
    page = page_of(out, letters, "page", [Row(3, 1, b""), Row(7, 1, b"")])
    letters.claim(page.version, [3, 7], "first", 0.0)
    letters.claim(page.version, [3, 7], "second", 0.0)
    assert out.replies == [("first", [3, 7]), ("second", [])]


def test_who_read_a_page_before_letters_went_reads_it_again() -> None:
    out = Outputs()
    letters = Letters(out, durable=True)
    letters.count = 2
    page = page_of(out, letters, "page", [Row(3, 1, b""), Row(7, 1, b"")])
    letters.claim(page.version, [3], "first", 0.0)
    letters.drop([3], "dropped", 0.0)
    out.replies.clear()
    letters.claim(page.version, [3, 7], "stale", 0.0)
    assert out.replies == [("stale", None)]
    out.replies.clear()
    between = page_of(out, letters, "page", [Row(3, 1, b""), Row(7, 1, b"")])  # it is not stored yet
    letters.stored(out.written)
    letters.claim(between.version, [3, 7], "stale, too", 0.0)
    assert out.replies == [("dropped", 1), ("stale, too", None)]
    assert letters.count == 1


def test_what_a_full_disk_did_not_drop_can_be_claimed_again() -> None:
    out = Outputs()
    letters = Letters(out, durable=True)
    letters.count = 1
    page = page_of(out, letters, "page", [Row(3, 1, b"")])
    letters.claim(page.version, [3], "claimed", 0.0)
    letters.drop([3], "dropped", 0.0)
    full = JournalFull("full")
    letters.store_failed(out.written, full)
    assert out.replies == [("claimed", [3]), ("dropped", full)]
    out.replies.clear()
    page = page_of(out, letters, "page", [Row(3, 1, b"")])
    letters.claim(page.version, [3], "again", 0.0)
    assert out.replies == [("again", [3])]
    assert letters.count == 1


def test_without_a_journal_the_last_are_kept_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMORY_LETTERS", 3)
    out = Outputs()
    letters = Letters(out, durable=False)
    for key in range(1, 6):
        letters.bury(key, b"%d" % key, f"reason {key}")
    assert (letters.count, letters.dropped) == (3, 2)
    letters.page(0, "page", 0.0)
    letters.ask(1, "asked")
    assert out.replies == [("page", Page(0, [(3, b"3"), (4, b"4"), (5, b"5")])), ("asked", ("dead", "reason 1"))]


def test_a_reader_of_a_broken_journal_is_told() -> None:
    out = Outputs()
    letters = Letters(out, durable=True)
    letters.page(0, "page", 0.0)
    letters.ask(5, "asked")
    error = JournalFull("gone")
    letters.stop(error)
    assert sorted(out.replies, key=str) == [("asked", error), ("page", error)]
    letters.loaded(Read("dead", 1, limits.MOST, 1), [])
    assert len(out.replies) == 2


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_letters_whose_sorting_is_interrupted_are_in_nobodys_hands(tmp_path: Path, verb: str) -> None:
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        push.send_many(range(3))
        for _ in range(3):
            pull.receive().reject("no")
        push.flush(PATIENCE_S)
        letters, real, waited = push.dead_letters(), push._wait, 0

        def wait(ticket: Any, timeout: float | None) -> Any:
            nonlocal waited
            waited += 1
            found = real(ticket, timeout)
            if waited == 2:  # it has what it claimed; before, it read a page
                raise KeyboardInterrupt
            return found

        push._wait = wait  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            getattr(letters, verb)()
        push._wait = real  # type: ignore[method-assign]
        assert getattr(letters, verb)() == 3
        if verb == "retry":
            for _ in range(3):
                with pull.receive():
                    pass
