"""Pushers and pullers with ``plain=True`` beside raw pyzmq sockets (docs/protocol.md, section 7.6)."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, handle, listen, take
from zmqkit import Full, Limits, Outgoing, Reject, Retry, Unsettled, UsageError, aio, events
from zmqkit.patterns.pipeline import plain as plain_core

PATIENCE_MS = int(PATIENCE_S * 1000)


class Raw:
    """Raw sockets of one context."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._all: list[zmq.Socket[bytes]] = []

    def made(self, kind: int, hwm: int | None = None) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._all.append(made)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        made.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        if hwm is not None:
            made.setsockopt(zmq.RCVHWM, hwm)
            made.setsockopt(zmq.SNDHWM, hwm)
        return made

    def pull(self, address: str, hwm: int | None = None) -> zmq.Socket[bytes]:
        made = self.made(zmq.PULL, hwm)
        made.connect(address)
        return made

    def push(self, address: str, hwm: int | None = None) -> zmq.Socket[bytes]:
        made = self.made(zmq.PUSH, hwm)
        made.connect(address)
        return made

    def bound(self, kind: int) -> tuple[zmq.Socket[bytes], str]:
        made = self.made(kind)
        made.bind("tcp://127.0.0.1:*")
        return made, made.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        for each in self._all:
            each.close(0)
        self.context.term()


@pytest.fixture
def raw() -> Iterator[Raw]:
    made = Raw()
    yield made
    made.close()


def numbers(pull: zmq.Socket[bytes], count: int) -> list[int]:
    return [msgpack.unpackb(pull.recv()) for _ in range(count)]


# ---- a plain PULL reads us -------------------------------------------------------------------


async def test_a_plain_pull_reads_each_body_as_one_frame_in_order(face: Face, raw: Raw) -> None:
    async with face.Pusher(LOCAL, plain=True) as push:
        pull = raw.pull(push.addresses[0])
        await push.send({"n": 1})
        push.send_nowait("ä")
        assert await push.send_many(range(3_000)) == 3_000
        assert pull.recv_multipart() == [msgpack.packb({"n": 1})]
        assert pull.recv_multipart() == [msgpack.packb("ä")]
        assert numbers(pull, 3_000) == list(range(3_000))
        done = await push.flush(PATIENCE_S)
        assert (done.acked, done.dead) == (3_002, 0)
        assert push.stats()["pushed"] == 3_002


async def test_bodies_are_in_the_codec_that_the_pusher_was_told(face: Face, raw: Raw) -> None:
    async with face.Pusher(LOCAL, plain=True, codec="json") as push:
        pull = raw.pull(push.addresses[0])
        await push.send_many([{"n": [1, "ä"]}, Outgoing(2)])
        assert [json.loads(pull.recv()) for _ in range(2)] == [{"n": [1, "ä"]}, 2]


async def test_a_list_of_bytes_goes_as_so_many_frames(face: Face, raw: Raw) -> None:
    messages: list[Any] = [b"", [b"a", b"", b"b" * 100_000], b"x", (b"one",)]
    async with face.Pusher(LOCAL, plain=True, codec="raw") as push:
        pull = raw.pull(push.addresses[0])
        await push.send_many(messages)
        await push.send([b"last", b"one"])
        found = [pull.recv_multipart() for _ in range(5)]
        with pytest.raises(UsageError, match="frames"):
            await push.send([b""] * 1_001)
    assert found == [[b""], [b"a", b"", b"b" * 100_000], [b"x"], [b"one"], [b"last", b"one"]]


async def test_without_a_pull_messages_wait_for_one(face: Face, raw: Raw) -> None:
    async with face.Pusher(LOCAL, plain=True) as push:
        receipt = await push.send("waits")
        assert push.stats()["waiting"] == 1
        pull = raw.pull(push.addresses[0])
        assert msgpack.unpackb(pull.recv()) == "waits"
        await receipt.wait(timeout=PATIENCE_S)
        assert receipt.outcome == "acked"


async def test_a_pusher_may_connect_to_pulls_that_bind_and_deals_among_them(face: Face, raw: Raw) -> None:
    (one, at_one), (other, at_other) = raw.bound(zmq.PULL), raw.bound(zmq.PULL)
    async with face.Pusher(connect=[at_one, at_other], plain=True) as push:
        await face.until(lambda: push.stats()["io_connections"] == 2, "both are there")
        await push.send_many(range(2_000))
        await push.flush(PATIENCE_S)
        found: list[list[int]] = [[], []]
        await face.until(lambda: _drained(one, found[0]) + _drained(other, found[1]) == 2_000)
    assert all(found), "one of them got nothing"
    assert sorted(found[0] + found[1]) == list(range(2_000))


def _drained(pull: zmq.Socket[bytes], found: list[int]) -> int:
    while pull.poll(0):
        found.append(msgpack.unpackb(pull.recv()))
    return len(found)


async def test_the_journal_keeps_what_no_pull_took(face: Face, raw: Raw, tmp_path: Path) -> None:
    journal = tmp_path / "j.db"
    push = face.Pusher(LOCAL, plain=True, journal=journal, linger=0)
    await push.open()
    await push.send_many(range(1_000))
    with pytest.warns(RuntimeWarning, match="1000 messages not settled"):
        await push.close()
    async with face.Pusher(LOCAL, plain=True, journal=journal) as push:
        pull = raw.pull(push.addresses[0])
        assert numbers(pull, 1_000) == list(range(1_000))
        await push.flush(PATIENCE_S)
    async with face.Pusher(LOCAL, plain=True, journal=journal) as push:
        assert push.stats()["waiting"] == 0, "what was handed over is settled in the journal, too"


async def test_zmqkit_pullers_may_be_served_from_the_same_journal_later(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "j.db"
    push = face.Pusher(LOCAL, plain=True, journal=journal, linger=0)
    await push.open()
    receipt = await push.send("kept")
    with pytest.warns(RuntimeWarning, match="not settled"):
        await push.close()
    async with face.Pusher(LOCAL, journal=journal) as push, face.Puller(connect=push.addresses[0]) as pull:
        job = await take(pull)
        assert (job.id, job.body) == (receipt.id, "kept")
        await job.ack(wait=True)


async def test_who_does_not_read_holds_back_the_pusher_which_then_is_full(face: Face, raw: Raw) -> None:
    limits = Limits(queued_messages=10)
    body = b"x" * 200_000
    async with face.Pusher(LOCAL, plain=True, codec="raw", limits=limits) as push:
        pull = raw.pull(push.addresses[0], hwm=1)
        sent = refused = 0
        while sent < 2_000 and refused < 3:  # one refusal may only mean that ZeroMQ's thread was slow
            try:
                await push.send(b"%d " % sent + body, timeout=0.2)
                sent, refused = sent + 1, 0
            except Full:
                refused += push.stats()["waiting"] == 10
        assert 10 < sent < 2_000, "it was never full"
        with pytest.raises(Full):
            await push.send(body, timeout=0)
        with pytest.raises(Full):
            push.send_nowait(body)
        assert [int(pull.recv().split(b" ")[0]) for _ in range(sent)] == list(range(sent))
        await push.send(b"again")
        assert pull.recv() == b"again"


async def test_closing_waits_for_room_and_until_zeromq_has_sent_all(face: Face, raw: Raw) -> None:
    push = face.Pusher(LOCAL, plain=True, codec="raw", linger=PATIENCE_S)
    await push.open()
    pull = raw.pull(push.addresses[0], hwm=1)
    await push.send_many(b"%d " % n + b"x" * 100_000 for n in range(300))
    found: list[bytes] = []

    async def read() -> None:
        await face.until(lambda: _read_some(pull, found) == 300)

    async with face.together() as start:
        start(read)
        await push.close()
    assert [int(each.split(b" ")[0]) for each in found] == list(range(300))


def _read_some(pull: zmq.Socket[bytes], found: list[bytes]) -> int:
    if pull.poll(0):
        found.append(pull.recv())
    return len(found)


async def test_closing_tells_what_nobody_took(face: Face) -> None:
    push = face.Pusher(LOCAL, plain=True, linger=0)
    await push.open()
    await push.send_many(range(5))
    with pytest.raises(Unsettled, match="5 messages not settled"):
        await push.close()


async def test_what_was_not_handed_to_a_pull_that_left_goes_to_another(face: Face, raw: Raw) -> None:
    async with face.Pusher(LOCAL, plain=True, codec="raw", limits=Limits(queued_messages=1_000)) as push:
        leaving = raw.pull(push.addresses[0], hwm=1)
        await push.send(b"hello")
        assert leaving.recv() == b"hello"
        await push.send_many(b"%d " % n + b"x" * 200_000 for n in range(900))
        handed = push.stats()["pushed"]
        leaving.close(0)
        await face.until(lambda: push.stats()["io_connections_broken"], "that it left is noticed")
        staying = raw.pull(push.addresses[0])
        await push.send_many([b"end"] * 300, timeout=PATIENCE_S)  # more than may still go to who left
        found = [staying.recv()]
        while found[-1] != b"end":
            found.append(staying.recv())
    rest = [int(each.split(b" ")[0]) for each in found[:-1]]
    assert rest == sorted(set(rest)), "none comes twice, and all in order"
    assert len(rest) >= 900 - handed - 256, "no more than ZeroMQ held is lost"


async def test_a_frame_that_somebody_sends_to_a_pusher_is_heard_by_nobody(
    face: Face, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL, plain=True) as push:
        stranger = raw.made(zmq.DEALER)
        stranger.connect(push.addresses[0])
        stranger.send(b"HELLO?")
        await face.until(lambda: push.stats()["io_handshakes_failed"], "the wrong kind is noticed")
        pull = raw.pull(push.addresses[0])
        await push.send(1)
        assert numbers(pull, 1) == [1]
    assert "a puller without plain=True" in caplog.text


# ---- we read a plain PUSH --------------------------------------------------------------------


async def test_bodies_of_a_plain_push_are_jobs(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True) as pull:
        push = raw.push(pull.addresses[0])
        for n in range(1_000):
            push.send(msgpack.packb({"n": n}))
        job = await take(pull)
        assert (job.body, job.failures, job.deliveries, dict(job.headers)) == ({"n": 0}, 0, 1, {})
        assert abs((job.sent_at - datetime.now(UTC)).total_seconds()) < 60
        await job.ack(wait=True)
        ids = {job.id}
        for n in range(1, 1_000):
            async with await take(pull) as job:
                assert job.body == {"n": n}
                ids.add(job.id)
        assert len(ids) == 1_000
        await face.until(lambda: pull.stats()["acked"] == 1_000)


async def test_a_puller_may_connect_to_a_push_that_binds_and_comes_again(face: Face, raw: Raw) -> None:
    push, address = raw.bound(zmq.PUSH)
    async with face.Puller(address, plain=True) as pull:
        await pull.receive(0)
        push.send(msgpack.packb(1))
        assert await handle(pull, 1) == [1]
        push.close(0)
        again = raw.made(zmq.PUSH)
        await face.until(lambda: _binds(again, address), "the port never became free")
        again.send(msgpack.packb(2))
        assert await handle(pull, 1) == [2]


def _binds(socket: zmq.Socket[bytes], address: str) -> bool:
    try:
        socket.bind(address)
    except zmq.ZMQError:
        return False  # closed sockets give their port back a moment later
    return True


async def test_in_the_codec_raw_several_frames_are_a_list(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True, codec="raw") as pull:
        push = raw.push(pull.addresses[0])
        sent: list[list[bytes]] = [[b"a"], [b"b", b"", b"c"], [b""], [b"d"], [b"", b""]]
        for each in sent:
            push.send_multipart(each)
        assert await handle(pull, 5) == [b"a", [b"b", b"", b"c"], b"", b"d", [b"", b""]]


async def test_several_frames_of_another_codec_are_told_and_passed_over(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True, codec="json") as pull:
        told = listen(face, pull, events.BadFrame)
        push = raw.push(pull.addresses[0])
        push.send_multipart([b"1", b"2"])
        push.send(b"3")
        assert await handle(pull, 1) == [3]
        assert "2 frames" in (await told.next()).reason
        assert pull.stats()["frames_bad"] == 1


async def test_what_cannot_be_decoded_is_told_and_passed_over(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True, codec="json") as pull:
        told = listen(face, pull, events.BadFrame)
        push = raw.push(pull.addresses[0])
        for body in (b"\xff no json", b"1", b"", b"[" * 1_000 + b"]" * 1_000, b"2", b"nan?", b"3"):
            push.send(body)
        assert await handle(pull, 2) == [1, 2]
        async for batch in pull.batches(5):
            async with batch:
                assert batch.bodies == [3]
            break
        for _ in range(4):
            assert "cannot be decoded as json" in (await told.next()).reason
        await face.until(lambda: pull.stats()["acked"] == 3)
        assert pull.stats()["messages_undecodable"] == 4
        assert bare(pull)._core.held == 0


async def test_no_more_is_taken_than_the_prefetch_and_the_push_is_held_back(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True, codec="raw", prefetch=5) as pull:
        push = raw.push(pull.addresses[0], hwm=5)
        push.setsockopt(zmq.SNDTIMEO, 200)
        sent = 0
        body = b"x" * 100_000
        try:
            while sent < 2_000:
                push.send(b"%d " % sent + body)
                sent += 1
        except zmq.Again:
            assert pull.stats()["received"] == 5
        assert 10 < sent < 2_000, "it was never held back"
        for n in range(sent):
            async with await take(pull) as job:
                assert int(job.body.split(b" ")[0]) == n
            assert bare(pull)._core.held <= 5
        push.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        push.send(b"end")
        assert await handle(pull, 1) == [b"end"]


async def test_each_of_several_addresses_has_its_prefetch(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=[LOCAL, LOCAL], plain=True, codec="raw", prefetch=1) as pull:
        for address in pull.addresses:
            push = raw.push(address)
            for n in range(50):
                push.send(b"%d" % n)
        jobs = [await take(pull) for _ in range(2)]
        assert [job.body for job in jobs] == [b"0", b"0"], "one of each"
        for job in jobs:
            await job.ack()
        assert sorted(await handle(pull, 98)) == sorted([b"%d" % n for n in range(1, 50)] * 2)


# ---- what becomes of a job -------------------------------------------------------------------


async def test_what_fails_is_tried_again_here_and_counted(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True) as pull:
        told = listen(face, pull, events.JobFailed)
        raw.push(pull.addresses[0]).send(msgpack.packb("a"))
        first = await take(pull)
        await first.nack(delay=0, reason="not yet")
        async with await take(pull) as job:
            assert (job.id, job.body, job.failures, job.deliveries) == (first.id, "a", 1, 2)
            raise Retry(delay=0, reason="nor yet")
        async with await take(pull) as job:
            assert (job.id, job.failures, job.deliveries) == (first.id, 2, 3)
        assert [((await told.next()).reason, each) for each in (1, 2)] == [("not yet", 1), ("nor yet", 2)]
        await face.until(lambda: pull.stats()["acked"] == 1)
        assert bare(pull)._core.held == 0


async def test_what_fails_too_often_or_is_rejected_is_told_and_gone(
    face: Face, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_core, "MAX_FAILURES", 3)
    async with face.Puller(bind=LOCAL, plain=True) as pull:
        told = listen(face, pull, events.JobDead)
        push = raw.push(pull.addresses[0])
        push.send(msgpack.packb("poison"))
        for failures in range(3):
            job = await take(pull)
            assert (job.body, job.failures) == ("poison", failures)
            await job.nack(delay=0, reason="no good")
        dead = await told.next()
        assert (dead.id, dead.reason) == (job.id, "no good")
        push.send(msgpack.packb("hopeless"))
        async with await take(pull):
            raise Reject("never")
        assert (await told.next()).reason == "never"
        push.send(msgpack.packb("good"))
        assert await handle(pull, 1) == ["good"]
        stats = pull.stats()
        assert (stats["nacked"], stats["rejected"], stats["dead"]) == (3, 1, 2)


async def test_what_is_released_comes_again_at_once_and_is_no_failure(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True) as pull:
        raw.push(pull.addresses[0]).send(msgpack.packb("a"))
        await (await take(pull)).release()
        async with await take(pull) as job:
            assert (job.body, job.failures, job.deliveries) == ("a", 0, 2)


async def test_of_a_batch_that_failed_each_job_comes_again_alone(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True) as pull:
        push = raw.push(pull.addresses[0])
        for n in range(4):
            push.send(msgpack.packb(n))
        found: list[list[int]] = []
        async for batch in pull.batches(4, wait=PATIENCE_S):
            async with batch:
                found.append(batch.bodies)
                if len(found) == 1:
                    raise RuntimeError("one of these")
            if len(found) == 5:
                break
        assert found == [[0, 1, 2, 3], [0], [1], [2], [3]]
        await face.until(lambda: pull.stats()["acked"] == 4)


async def test_a_handler_runs_over_plain_jobs(face: Face, raw: Raw) -> None:
    pull = face.Puller(bind=LOCAL, plain=True)
    await pull.open()
    push = raw.push(pull.addresses[0])
    seen: list[int] = []

    def handler(body: int) -> None:
        seen.append(body)
        if len(seen) == 100:
            pull.stop()

    for n in range(100):
        push.send(msgpack.packb(n))
    await pull.run(handler)
    await pull.close()
    assert seen == list(range(100))


async def test_closing_tells_what_is_lost_with_a_plain_puller(
    face: Face, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Puller(bind=LOCAL, plain=True, name="loser") as pull:
        push = raw.push(pull.addresses[0])
        for n in range(3):
            push.send(msgpack.packb(n))
        await face.until(lambda: pull.stats()["received"] == 3)
        job = await take(pull)
    assert "loser was closed with 3 jobs of plain pushers that were not settled: they are lost" in caplog.text
    with pytest.raises(zmqkit.Closed, match="lost the jobs"):
        await job.nack()


async def test_plain_pushers_and_pullers_read_each_other(face: Face) -> None:
    async with face.Pusher(LOCAL, plain=True) as push, face.Puller(push.addresses[0], plain=True) as pull:
        await push.send_many(range(2_000))
        assert await handle(pull, 2_000) == list(range(2_000))


async def test_a_worker_stands_between_plain_sockets(face: Face, raw: Raw) -> None:
    source = face.Puller(bind=LOCAL, plain=True)
    sink = face.Pusher(LOCAL, plain=True)

    def handler(body: int) -> Iterator[int]:
        yield body
        yield -body

    worker = face.Worker(handler, source=source, sink=sink)
    await worker.open()
    push, pull = raw.push(bare(source).addresses[0]), raw.pull(bare(sink).addresses[0])
    for n in range(1, 101):
        push.send(msgpack.packb(n))

    found: list[int] = []

    async def read() -> None:
        await face.until(lambda: _drained(pull, found) == 200)
        worker.stop()

    async with face.together() as start:
        start(read)
        await worker.run()
    assert sorted(found) == sorted([*range(1, 101), *range(-100, 0)])


# ---- bad input -------------------------------------------------------------------------------


async def test_a_stranger_with_too_large_a_frame_is_cut_off_and_others_go_on(face: Face, raw: Raw) -> None:
    limits = Limits(frame_bytes=65_536)
    async with face.Puller(bind=LOCAL, plain=True, codec="raw", limits=limits) as pull:
        large, other = raw.push(pull.addresses[0]), raw.push(pull.addresses[0])
        large.send(b"x" * 65_537)
        await face.until(lambda: pull.stats()["io_connections_broken"])
        other.send(b"fine")
        assert await handle(pull, 1) == [b"fine"]


async def test_a_message_of_very_many_frames_is_counted_and_dropped(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True, codec="raw", prefetch=1) as pull:
        push = raw.push(pull.addresses[0])
        for _ in range(3):
            push.send_multipart([b"x"] * 1_500)
        push.send(b"fine")
        assert await handle(pull, 1) == [b"fine"]
        assert pull.stats()["io_oversize_messages"] == 3


async def test_what_is_no_zeromq_at_all_is_noticed_and_harms_nobody(face: Face, raw: Raw) -> None:
    async with face.Puller(bind=LOCAL, plain=True) as pull, face.Pusher(LOCAL, plain=True) as push:
        for peer in (pull, push):
            stranger = raw.made(zmq.STREAM)
            stranger.connect(peer.addresses[0])
            route, _ = stranger.recv_multipart()
            stranger.send_multipart([route, b"GET / HTTP/1.1\r\n" + b"\xff" * 1_000])
        await face.until(lambda: pull.stats()["io_handshakes_failed"] and push.stats()["io_handshakes_failed"])
        raw.push(pull.addresses[0]).send(msgpack.packb(1))
        assert await handle(pull, 1) == [1]
        await push.send(2)
        assert numbers(raw.pull(push.addresses[0]), 1) == [2]


# ---- what plain refuses ----------------------------------------------------------------------

MODULES = pytest.mark.parametrize("module", [zmqkit, aio], ids=["sync", "async"])


@MODULES
@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("Pusher", {"max_failures": 3}, "over a plain PUSH socket: plain=True goes without max_failures="),
        ("Pusher", {"backoff": zmqkit.Backoff()}, "without backoff="),
        ("Puller", {"max_lease": 5.0}, "over a plain PULL socket: plain=True goes without max_lease="),
        ("Pusher", {"bind": f"inproc://{uuid.uuid4()}"}, "only itself"),
        ("Puller", {"connect": f"inproc://{uuid.uuid4()}"}, "only itself"),
    ],
)
def test_what_does_not_go_with_plain_is_refused(module: Any, kind: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        getattr(module, kind)("tcp://127.0.0.1:1", plain=True, **given)


@MODULES
@pytest.mark.parametrize("kind", ["Pusher", "Puller"])
def test_plain_is_a_bool(module: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="plain must be bool"):
        getattr(module, kind)("tcp://127.0.0.1:1", plain=1)


async def test_headers_are_refused_for_they_would_not_travel(face: Face) -> None:
    async with face.Pusher(LOCAL, plain=True) as push:
        with pytest.raises(UsageError, match="leave headers= out"):
            await push.send(1, headers={"a": "b"})
        with pytest.raises(UsageError, match="leave headers= out"):
            push.send_nowait(1, headers={"a": "b"})
        with pytest.raises(zmqkit.PartlySent) as caught:
            await push.send_many([Outgoing(1, headers={"a": "b"})])
        assert isinstance(caught.value.__cause__, UsageError)
        assert push.stats()["waiting"] == 0


async def test_nobody_can_be_waited_for_but_by_flush(face: Face) -> None:
    async with face.Pusher(LOCAL, plain=True) as push, face.Puller(bind=LOCAL, plain=True) as pull:
        with pytest.raises(UsageError, match=r"flush\(\)"):
            await push.wait_for_peers(timeout=PATIENCE_S)
        with pytest.raises(UsageError, match="do not say that they are there"):
            await pull.wait_for_peers(timeout=PATIENCE_S)


async def test_who_connects_and_meets_nobody_says_so(
    face: Face, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqkit.peer.base.ALONE", 0.02)
    caplog.set_level(logging.WARNING)
    async with face.Puller("tcp://127.0.0.1:1", plain=True, name="lonely"):
        await face.until(lambda: "lonely: nobody answers at tcp://127.0.0.1:1 yet" in caplog.text)
