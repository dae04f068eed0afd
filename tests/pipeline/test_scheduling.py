"""Keys, priorities, delays, times to live and ids, on every face, alone and together, in memory and over restarts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen, take
from zmqkit import Full, Outgoing, PartlySent, Settled, Unsettled, UsageError, WaitTimeout
from zmqkit.events import ClockJumped, JobExpired
from zmqkit.journal import SqliteJournal
from zmqkit.options import Window
from zmqkit.patterns.pipeline.sending import LOGS
from zmqkit.protocol import wire
from zmqkit.protocol.core import Read, Write

NOW = 0.05
"""Long enough for a wait to begin that is not to succeed."""

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"id": 5}, TypeError, "id must be text"),
    ({"id": b"x"}, TypeError, "id must be text"),
    ({"id": ""}, ValueError, "id must have 1 to 1000 characters, got 0"),
    ({"id": "x" * 1001}, ValueError, "id must have 1 to 1000 characters, got 1001"),
    ({"id": "\ud800"}, ValueError, "UTF-8"),
    ({"key": 5}, TypeError, "key must be text"),
    ({"key": ""}, ValueError, "key must have 1 to 200 characters, got 0"),
    ({"key": "x" * 201}, ValueError, "key must have 1 to 200 characters, got 201"),
    ({"key": "\ud800"}, ValueError, "UTF-8"),
    ({"priority": 1.5}, TypeError, "priority must be a whole number"),
    ({"priority": True}, TypeError, "priority must be a whole number"),
    ({"priority": None}, TypeError, "priority must be a whole number"),
    ({"priority": 2**31 + 1}, ValueError, "priority must be from"),
    ({"priority": -(2**31) - 1}, ValueError, "priority must be from"),
    ({"delay": -1}, ValueError, "delay must be 0 or more seconds"),
    ({"delay": 1e9}, ValueError, "delay must be 0 or more seconds"),
    ({"delay": float("nan")}, ValueError, "delay must be 0 or more seconds"),
    ({"delay": "soon"}, TypeError, "delay must be 0 or more seconds"),
    ({"ttl": 0}, ValueError, "ttl must be more than 0 seconds"),
    ({"ttl": -1}, ValueError, "ttl must be more than 0 seconds"),
    ({"ttl": 1e9}, ValueError, "ttl must be more than 0 seconds"),
    ({"ttl": "long"}, TypeError, "ttl must be more than 0 seconds"),
]


@pytest.fixture(params=[False, True], ids=["memory", "journal"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "jobs.db" if request.param else None


@pytest.mark.parametrize(("given", "kind", "complaint"), BAD)
async def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    face: Face, given: dict[str, Any], kind: type[Exception], complaint: str
) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(kind, match=complaint):
            await push.send("x", **given)
        with pytest.raises(kind, match=complaint):
            push.send_nowait("x", **given)
        with pytest.raises(PartlySent) as partly:
            await push.send_many([Outgoing("x", **given)])
        assert isinstance(partly.value.__cause__, kind)
        assert partly.value.confirmed == 0
        assert await push.flush(PATIENCE_S) == Settled()


def test_a_window_that_is_none_is_refused(face: Face) -> None:
    with pytest.raises(TypeError, match="dedupe"):
        face.Pusher(LOCAL, dedupe=600)


async def test_the_extremes_are_taken(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push:
        await push.send(1, id="x" * 1000, key="ü" * 200, priority=-(2**31), delay=0, ttl=999_999_999)
        await push.send(2, priority=2**31)
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 2) == [2, 1]
            assert await push.flush(PATIENCE_S) == Settled(acked=2)


async def test_what_is_sent_with_a_key_arrives_with_it(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("a", key="k", id="mine", headers={"h": "1"})
        async with await take(pull) as job:
            assert (job.key, job.id, job.headers, job.body) == ("k", "mine", {"h": "1"}, "a")
        await push.send("b")
        async with await take(pull) as job:
            assert job.key is None
        await push.flush(PATIENCE_S)


async def test_the_next_of_a_key_comes_when_the_one_before_has_settled_and_others_do_not_wait(
    face: Face, journal: Path | None
) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many([Outgoing(n, key="ab"[n % 2]) for n in range(4)])
        first, second = await take(pull), await take(pull)
        assert (first.body, second.body) == (0, 1)
        assert await pull.receive(NOW) is None
        await second.ack()
        third = await take(pull)
        assert (third.body, third.key) == (3, "b")
        await first.nack(delay=0)
        again = await take(pull)
        assert (again.body, again.failures) == (0, 1), "a failure holds its key"
        await again.reject("never")
        await third.ack()
        assert await handle(pull, 1) == [2]
        assert await push.flush(PATIENCE_S) == Settled(acked=3, dead=1)


async def test_the_highest_priority_goes_first_and_never_past_its_key(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push:
        await push.send_many(["plain 1", Outgoing("low", priority=-1), Outgoing("key 1", key="k", priority=1)])
        await push.send_many([Outgoing("key 2", key="k", priority=9), Outgoing("high", priority=5), "plain 2"])
        async with face.Puller(push.addresses[0], prefetch=1) as pull:
            bodies = await handle(pull, 6)
            assert bodies[:2] == ["high", "key 1"]
            # It is ready when the journal has the ack of the first; until then others go.
            assert "key 2" in bodies[2:]
            assert [each for each in bodies[2:] if each != "key 2"] == ["plain 1", "plain 2", "low"]
            await push.flush(PATIENCE_S)


async def test_alternating_priorities_share_rows_and_each_keeps_its_order(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        assert await push.send_many(Outgoing(n, priority=n % 3) for n in range(3_000)) == 3_000
        core = push.real if face.name == "sync" else push
        rows = core._core.backlog.lanes.entries
        assert sum(each.count for each in rows.values()) == 2_000
        assert len(rows) < 40
        async with face.Puller(push.addresses[0]) as pull:
            bodies = await handle(pull, 3_000)
            await push.flush(PATIENCE_S)
        assert bodies == [*range(2, 3_000, 3), *range(1, 3_000, 3), *range(0, 3_000, 3)]


async def test_of_alternating_priorities_what_is_confirmed_are_the_first_ones(face: Face) -> None:
    async with face.Pusher(LOCAL, max_waiting=40, linger=0) as push:
        with pytest.raises(PartlySent) as stopped:
            await push.send_many([Outgoing(n, priority=n % 3) for n in range(1000)], timeout=NOW)
        confirmed = stopped.value.confirmed
        assert 0 < confirmed <= 40
        assert push.stats()["sent"] == confirmed
        async with face.Puller(push.addresses[0]) as pull:
            assert sorted(await handle(pull, confirmed)) == list(range(confirmed))
            assert await push.flush(PATIENCE_S) == Settled(acked=confirmed)


async def test_flush_names_who_is_not_due_and_does_not_wait_for_them(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        late = await push.send("late", delay=3600, id="mine")
        derived = await push.send("late too", delay=3600, key="k")
        await push.send("behind it", key="k")
        await push.send("now")
        assert await handle(pull, 1) == ["now"]
        settled = await push.flush(PATIENCE_S)
        assert settled == Settled(acked=1, not_due=(late.id, derived.id))
        with pytest.raises(WaitTimeout):
            await late.wait(timeout=NOW)
        with (
            pytest.warns(RuntimeWarning, match="3 messages")
            if journal
            else pytest.raises(Exception, match="3 messages")
        ):
            await push.close()


async def test_a_delayed_message_comes_when_its_delay_is_over(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        before = time.monotonic()
        receipt = await push.send("later", delay=0.2)
        assert await handle(pull, 1) == ["later"]
        assert time.monotonic() - before >= 0.2
        await receipt.wait(timeout=PATIENCE_S)
        assert receipt.outcome == "acked"


async def test_what_outlives_its_time_expires_is_counted_and_never_comes(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push:
        expired = listen(face, push, JobExpired)
        receipt = await push.send("gone", ttl=0.05, id="mine")
        await push.send("stays", ttl=3600)
        assert (await expired.next()).id == "mine"
        assert (await receipt.wait(timeout=PATIENCE_S)).expired == 1
        assert receipt.outcome == "expired"
        again = await push.send("gone", id="mine")
        await again.wait(timeout=PATIENCE_S)
        assert again.outcome == "expired", "the receipt of the first one"
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["stays"]
            assert await push.flush(PATIENCE_S) == Settled(acked=1, expired=1)
        assert push.stats()["expired"] == 1


async def test_an_id_within_the_window_is_stored_once_also_after_it_settled(face: Face, journal: Path | None) -> None:
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(push.addresses[0]) as pull:
        first = await push.send(1, id="one")
        second = await push.send(2, id="one")
        assert first.id == second.id == "one"
        assert await push.send_many([Outgoing(3, id="one"), Outgoing(4, id="two"), Outgoing(5, id="two"), 6]) == 4
        assert await handle(pull, 3) == [1, 4, 6]
        await second.wait(timeout=PATIENCE_S)
        assert second.outcome == "acked"
        third = push.send_nowait(7, id="one")
        await third.wait(timeout=PATIENCE_S)
        assert third.outcome == "acked"
        assert await push.flush(PATIENCE_S) == Settled(acked=3)
        assert push.stats()["duplicates"] == 4


async def test_an_id_outside_the_window_is_stored_again(face: Face, journal: Path | None) -> None:
    async with (
        face.Pusher(LOCAL, journal=journal, dedupe=Window(count=1)) as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        for id in ("a", "b", "a"):
            await push.send(id, id=id)
        await push.send("a", id="a")
        assert await handle(pull, 3) == ["a", "b", "a"]
        assert await push.flush(PATIENCE_S) == Settled(acked=3)


async def test_all_of_it_together_survives_a_restart(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    push = await face.Pusher(LOCAL, journal=path, linger=0).open()
    await push.send("plain")
    await push.send("k1", key="k", priority=3, id="k1", ttl=3600, headers={"n": "1"})
    await push.send("k2", key="k", priority=9, id="k2")
    await push.send("late", delay=3600, id="late", priority=9)
    await push.send("gone", ttl=0.001, id="gone", key="other")
    with pytest.warns(RuntimeWarning, match="not settled"):
        await push.close()
    async with face.Pusher(LOCAL, journal=path, linger=0) as push:
        for id in ("k1", "late", "gone"):
            await push.send("again", id=id)
        async with face.Puller(push.addresses[0], prefetch=1) as pull:
            job = await take(pull)
            assert (job.body, job.key, job.id, job.headers) == ("k1", "k", "k1", {"n": "1"})
            await job.ack()
            assert sorted(await handle(pull, 2)) == ["k2", "plain"]
            settled = await push.flush(PATIENCE_S)
            assert (settled.acked, settled.not_due) == (3, ("late",))
        with pytest.warns(RuntimeWarning, match="1 message not settled"):
            await push.close()


async def test_a_backlog_on_disk_keeps_lanes_and_keys(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db", durability="process") as push:
        core = push.real if face.name == "sync" else push
        await push.open()
        core._core.backlog.lanes.window_messages = core._core.backlog.window_messages = 20
        sent = [Outgoing(n, key=f"k{n % 7}" if n % 3 else None, priority=n % 2) for n in range(300)]
        await push.send_many(sent)
        await push.send_many(range(300, 600))
        async with face.Puller(push.addresses[0], prefetch=5) as pull:
            bodies = await handle(pull, 600)
            assert sorted(bodies) == list(range(600))
            assert await push.flush(PATIENCE_S) == Settled(acked=600)
        for key in range(7):
            of_key = [n for n in bodies if n < 300 and n % 3 and n % 7 == key]
            assert of_key == sorted(of_key)
        high = [bodies.index(n) for n in range(300) if not n % 3 and n % 2]
        low = [bodies.index(n) for n in range(300) if not n % 3 and not n % 2]
        assert max(high) < max(low)
        assert not core._core.backlog.lanes.entries


async def test_a_clock_that_jumped_lets_nothing_expire(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    push = await face.Pusher(LOCAL, journal=path, linger=0).open()
    await push.send("x", ttl=3600)
    with pytest.warns(RuntimeWarning):
        await push.close()
    journal = SqliteJournal(path, logs=LOGS)
    try:
        ((key, _, value),) = journal.read(Read("state", 1, 9, 1 << 20))
        later = wire.unpack(value)[1] + 3_600_000_000
        ((row, weight, lane),) = journal.read(Read("lanes", 1, 1 << 62, 1 << 20))
        ended = wire.unpack(lane)
        ended[3] = 1  # in 1970
        journal.commit([Write("state", key, 0, wire.pack([1, later])), Write("lanes", row, weight, wire.pack(ended))])
    finally:
        journal.close()
    push = face.Pusher(LOCAL, journal=path)
    jumped = listen(face, push, ClockJumped)
    async with push:
        assert -3700 < (await jumped.next()).seconds < -3500
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["x"]
            assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_plain_pullers_get_lanes_and_times_but_neither_keys_nor_headers(face: Face) -> None:
    async with face.Pusher(LOCAL, plain=True) as push:
        with pytest.raises(UsageError, match="key="):
            await push.send("x", key="k")
        await push.send("low", priority=-1)
        await push.send("gone", ttl=0.01)
        await push.send("high", priority=1)
        await face.until(lambda: push.stats()["expired"] == 1)
        async with face.Puller(push.addresses[0], plain=True) as pull:
            assert await handle(pull, 2) == ["high", "low"]
            await push.flush(PATIENCE_S)


async def test_a_full_pusher_refuses_what_has_a_plan_too(face: Face) -> None:
    push = await face.Pusher(LOCAL, max_waiting=1, linger=0).open()
    await push.send(1, key="k")
    with pytest.raises(Full):
        await push.send(2, key="k", timeout=0)
    with pytest.raises(Full):
        push.send_nowait(3, priority=1)
    with pytest.raises(Unsettled, match="1 message"):
        await push.close()
