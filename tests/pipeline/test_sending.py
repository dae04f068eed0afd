"""What a sender is told: confirm points, receipts, groups that stop midway, room, and what is left at the end."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen, take
from zmqkit import Closed, EncodeError, Full, Outgoing, PartlySent, Settled, Unsettled, UsageError, WaitTimeout, codec
from zmqkit.events import JobDead
from zmqkit.options import Limits


def repr_bytes(body: object) -> bytes:
    return repr(body).encode()


NOW = 0.05
"""Long enough for a wait to begin that is not to succeed; what is judged is that it does not."""


async def test_a_message_is_confirmed_at_each_point_in_turn(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        receipt = await push.send({"n": 1})
        for point in ("accepted", "journalled"):
            assert await receipt.wait(point, timeout=PATIENCE_S) == Settled()
        with pytest.raises(WaitTimeout, match=receipt.id) as late:
            await receipt.wait("received", timeout=NOW)
        assert late.value.id == receipt.id
        async with face.Puller(push.addresses[0]) as pull:
            job = await take(pull)
            assert await receipt.wait("received", timeout=PATIENCE_S) == Settled()
            with pytest.raises(WaitTimeout):
                await receipt.wait(timeout=NOW)
            await job.ack()
            assert await receipt.wait(timeout=PATIENCE_S) == Settled(acked=1)
            assert (receipt.outcome, receipt.id) == ("acked", job.id)


async def test_a_point_that_does_not_exist_is_refused(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(ValueError, match="accepted, journalled, received, settled"):
            await push.flush(until="eventually")


async def test_flush_returns_the_counts_of_what_settled(face: Face, tmp_path: Path) -> None:
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        assert await push.flush() == Settled()
        assert await push.send_many(range(5)) == 5
        assert await push.flush(until="journalled") == Settled()
        await handle(pull, 4)
        await (await take(pull)).reject("a bad one")
        assert await push.flush(PATIENCE_S) == Settled(acked=4, dead=1)


async def test_flush_does_not_wait_for_what_is_sent_after_it(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], prefetch=1) as pull:
        await push.send("before")
        done = []

        async def flush() -> None:
            done.append(await push.flush(PATIENCE_S))

        async with face.together() as start:
            start(flush)
            first = await take(pull)
            await face.until(lambda: push.real._core._waits if face.name == "sync" else push._core._waits)
            await push.send("after")
            await first.ack()
        assert done == [Settled(acked=1)]
        await handle(pull, 1)
        await push.flush(PATIENCE_S)


async def test_flush_out_of_time_says_how_many_are_left(face: Face) -> None:
    push = await face.Pusher(LOCAL, linger=0).open()
    await push.send_many(range(3))
    with pytest.raises(WaitTimeout, match=r"^3 messages are not settled after .* s; nobody came to tcp://"):
        await push.flush(NOW)
    with pytest.raises(WaitTimeout, match=r"^not all is received after .* s; 3 messages are not settled; nobody came"):
        await push.flush(NOW, until="received")
    with pytest.raises(TimeoutError):  # which it also is
        await push.flush(0)
    with pytest.raises(Unsettled) as left:
        await push.close()
    assert left.value.count == 3


async def test_what_ends_a_block_is_raised_and_what_it_leaves_behind_is_logged_in_a_line(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        async with face.Pusher(LOCAL, linger=0, name="leaving") as push:
            await push.send("a")
            raise LookupError

    with pytest.raises(LookupError):
        await leave()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message.startswith("leaving was closed with 1 message not settled, and no journal")
    assert record.exc_info is None


async def test_concurrent_sends_share_rows_and_commits(face: Face, tmp_path: Path) -> None:
    """Natural batching: while one group is being synced, the next one gathers."""
    senders, each = 16, 8
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0]) as pull,
    ):

        async def send(sender: int) -> None:
            for n in range(each):
                await push.send([sender, n])

        async with face.together() as start:
            for sender in range(senders):
                start(send, sender)
        assert push.stats()["io_commits"] < senders * each
        bodies = await handle(pull, senders * each)
        assert sorted(bodies) == [[sender, n] for sender in range(senders) for n in range(each)]
        for sender in range(senders):
            assert [n for which, n in bodies if which == sender] == list(range(each))
        await push.flush(PATIENCE_S)


async def test_headers_and_bodies_arrive_as_they_went(face: Face) -> None:
    bodies: list[Any] = [{1: "a"}, b"bytes", "text", None, 2.5, [1, [2]], {"deep": {"er": True}}]
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("one", headers={"trace": "1", "größe": "ü"})
        job = await take(pull)
        assert (job.headers, job.failures, job.deliveries) == ({"trace": "1", "größe": "ü"}, 0, 1)
        assert job.sent_at.utcoffset().total_seconds() == 0
        await job.ack()
        await push.send_many([Outgoing(bodies[0], headers={"first": "yes"}), *bodies[1:]])
        for body in bodies:
            async with await take(pull) as job:
                assert job.body == body
                assert job.headers == ({"first": "yes"} if body is bodies[0] else {})
        await push.flush(PATIENCE_S)


@pytest.mark.parametrize("codec", ["json", "raw"])
async def test_each_side_may_send_in_a_codec_of_its_own(face: Face, codec: str) -> None:
    body: Any = b"\x00raw" if codec == "raw" else {"a": [1, None]}
    async with face.Pusher(LOCAL, codec=codec) as push, face.Puller(push.addresses[0]) as pull:
        await push.send(body)
        assert await handle(pull, 1) == [body]
        await push.flush(PATIENCE_S)


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [({"zmqkit-x": "1"}, "reserved"), ({"n": 1}, "text to text"), ({"long": "x" * 9000}, "8192")],
)
async def test_headers_that_cannot_travel_are_refused_at_the_sender(
    face: Face, headers: dict[str, Any], complaint: str
) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(EncodeError, match=complaint):
            await push.send("x", headers=headers)
        with pytest.raises(EncodeError, match=complaint):
            push.send_nowait("x", headers=headers)
        with pytest.raises(PartlySent, match=complaint) as stopped:
            await push.send_many([Outgoing("x", headers=headers)])
        assert stopped.value.confirmed == 0
        assert push.stats()["sent"] == 0


async def test_a_body_that_cannot_travel_names_the_place(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(EncodeError, match=r'body\["when"\]'):
            await push.send({"when": object()})


async def test_a_body_that_the_receiver_cannot_decode_becomes_a_dead_letter(face: Face) -> None:
    codec.register("one-way", repr_bytes, int)
    async with face.Pusher(LOCAL, codec="one-way") as push, face.Puller(push.addresses[0]) as pull:
        dead = listen(face, push, JobDead)
        receipt = await push.send(b"x")
        deadline = time.monotonic() + PATIENCE_S
        while not pull.stats()["rejected"]:  # it may come later than a short look
            assert await pull.receive(NOW) is None
            assert time.monotonic() < deadline
        assert "DecodeError" in (await dead.next()).reason
        assert await receipt.wait(timeout=PATIENCE_S) == Settled(dead=1)
        assert receipt.outcome == "dead"


# ---- many ----------------------------------------------------------------------------


async def test_send_many_failing_midway_confirms_what_is_safe(face: Face, tmp_path: Path) -> None:
    def bodies() -> Iterator[Any]:
        yield from range(1000)
        yield object()
        yield from range(5)

    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push,
        face.Puller(push.addresses[0], prefetch=2000) as pull,
    ):
        with pytest.raises(PartlySent) as stopped:
            await push.send_many(bodies())
        assert isinstance(stopped.value.__cause__, EncodeError)
        confirmed = stopped.value.confirmed
        assert 0 < confirmed <= 1000
        assert await handle(pull, confirmed) == list(range(confirmed))
        assert await push.flush(PATIENCE_S) == Settled(acked=confirmed)
        assert push.stats()["sent"] == confirmed


async def test_send_many_passes_on_what_its_iterator_raises(face: Face) -> None:
    def bodies() -> Iterator[int]:
        yield from range(100)
        raise ZeroDivisionError("in the generator")

    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        with pytest.raises(PartlySent, match="in the generator") as stopped:
            await push.send_many(bodies())
        assert isinstance(stopped.value.__cause__, ZeroDivisionError)
        assert await handle(pull, stopped.value.confirmed) == list(range(stopped.value.confirmed))
        await push.flush(PATIENCE_S)


async def test_send_many_out_of_time_confirms_what_had_room(face: Face) -> None:
    async with face.Pusher(LOCAL, max_waiting=40, linger=0) as push:
        with pytest.raises(PartlySent) as stopped:
            await push.send_many(range(1000), timeout=NOW)
        confirmed = stopped.value.confirmed
        assert isinstance(stopped.value.__cause__, WaitTimeout)
        assert 0 < confirmed <= 40
        assert push.stats()["sent"] == confirmed
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, confirmed) == list(range(confirmed))
            assert await push.flush(PATIENCE_S) == Settled(acked=confirmed)


async def test_send_many_keeps_its_time_where_a_bad_body_comes_while_there_is_no_room(face: Face) -> None:
    async with face.Pusher(LOCAL, max_waiting=40, linger=0) as push:
        with pytest.raises(PartlySent) as stopped:
            await push.send_many(itertools.chain(range(100), [object()]), timeout=NOW)
        confirmed = stopped.value.confirmed
        assert confirmed <= 40
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, confirmed) == list(range(confirmed))
            assert await push.flush(PATIENCE_S) == Settled(acked=confirmed)


# ---- room ----------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "journal"])
async def test_a_full_pusher_stores_nothing_and_waits_for_room(face: Face, tmp_path: Path, durable: bool) -> None:
    journal = tmp_path / "jobs.db" if durable else None
    async with face.Pusher(LOCAL, journal=journal, max_waiting=2) as push:
        await push.send(0)
        await push.send(1, timeout=0)
        with pytest.raises(Full, match="nothing was stored"):
            await push.send("no", timeout=0)
        with pytest.raises(Full, match="nothing was stored"):
            await push.send("no", timeout=NOW)
        with pytest.raises(Full):
            push.send_nowait("no")
        sent = []

        async def send() -> None:
            sent.append(await push.send(2, timeout=PATIENCE_S))

        async with face.together() as start:
            start(send)
            async with face.Puller(push.addresses[0]) as pull:
                assert await handle(pull, 3) == [0, 1, 2]
                assert await push.flush(PATIENCE_S) == Settled(acked=3)
        assert len(sent) == 1
        assert push.stats()["sent"] == 3


async def test_send_with_timeout_0_is_not_refused_because_others_send_too(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        for n in range(0, 200, 2):
            push.send_nowait(n)
            await push.send(n + 1, timeout=0)
        assert await handle(pull, 200) == list(range(200))
        await push.flush(PATIENCE_S)


async def test_what_waits_in_memory_is_bounded_by_the_limits(face: Face) -> None:
    limits = Limits(queued_messages=10, queued_bytes=1000)
    push = await face.Pusher(LOCAL, limits=limits, linger=0).open()
    for n in range(10):
        push.send_nowait(n)
    with pytest.raises(Full):
        push.send_nowait(10)
    await push.flush(PATIENCE_S, until="journalled")
    with pytest.raises(Full):
        await push.send(10, timeout=0)
    with pytest.raises(Unsettled, match="10 messages"):
        await push.close()
    push = await face.Pusher(LOCAL, limits=limits, linger=0).open()
    await push.send(b"x" * 900)
    with pytest.raises(Full):
        push.send_nowait(b"x" * 200)
    with pytest.raises(Full):
        await push.send(b"x" * 200, timeout=0)
    with pytest.raises(Unsettled):
        await push.close()


async def test_send_nowait_needs_no_open_and_its_receipt_tells_when_it_is_stored(face: Face, tmp_path: Path) -> None:
    push = face.Pusher(LOCAL, journal=tmp_path / "jobs.db")
    receipts = [push.send_nowait(n) for n in range(100)]
    await receipts[-1].wait("journalled", timeout=PATIENCE_S)
    assert push.stats()["sent"] == 100
    async with face.Puller(push.addresses[0]) as pull:
        jobs = [await take(pull) for _ in range(100)]
        assert [job.id for job in jobs] == [receipt.id for receipt in receipts]
        for job in jobs:
            await job.ack()
        await push.flush(PATIENCE_S)
    await push.close()


# ---- the end -------------------------------------------------------------------------


async def test_a_memory_pusher_that_leaves_messages_behind_raises(face: Face) -> None:
    with pytest.raises(Unsettled, match="1 message not settled, and no journal: what waited is lost") as left:
        async with face.Pusher(LOCAL, linger=0) as push:
            await push.send("x")
    assert left.value.count == 1


async def test_an_exception_in_the_block_is_not_hidden_by_what_is_left_behind(face: Face) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tried
        async with face.Pusher(LOCAL, linger=0) as push:
            await push.send("x")
            raise ZeroDivisionError


async def test_a_closing_pusher_serves_what_waits_for_as_long_as_it_lingers(face: Face) -> None:
    async with face.together() as start:
        async with face.Pusher(LOCAL, linger=None) as push:
            await push.send_many(range(10))
            pull = await face.Puller(push.addresses[0]).open()
            start(handle, pull, 10)
        assert push.closed
    await pull.close()


async def test_close_takes_a_time_of_its_own_instead_of_linger(face: Face) -> None:
    push = await face.Pusher(LOCAL, linger=None).open()
    await push.send("x")
    with pytest.raises(Unsettled):
        await push.close(timeout=NOW)
    await push.close()  # again: nothing happens


async def test_a_journal_pusher_that_leaves_messages_behind_says_where_and_how_to_serve_them(
    face: Face, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    push = await face.Pusher(LOCAL, journal=path, linger=0).open()
    address = push.addresses[0]
    await push.send_many(range(3))
    with pytest.warns(RuntimeWarning, match="3 messages not settled") as told:
        await push.close()
    text = str(told[0].message)
    assert f"zmqkit journal serve {path} {address}" in text


async def test_a_pusher_with_nothing_left_ends_silently_and_stays_closed(face: Face, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
            pass
    assert push.closed
    for verb in (push.open, push.flush, push.wait_for_peers, lambda: push.send("x"), lambda: push.send_many([1])):
        with pytest.raises((Closed, PartlySent)):
            await verb()
    with pytest.raises(Closed):
        push.send_nowait("x")


def test_a_codec_that_nobody_knows_is_refused_when_the_pusher_is_made(face: Face) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        face.Pusher(LOCAL, codec="nonsense")
