"""Pusher and puller as paired cores, under virtual time: what goes wrong between them, and slowly."""

from __future__ import annotations

import random
from typing import Any

from tests.protocol.cores import CorePair, Host
from tests.protocol.pair import LINK
from zmqkit.events import JobFailed, JobRedelivered, StaleSettle
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.puller import HELD_EVERY, Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import Pack
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.local import Local


class Pipeline:
    """A puller that connects to a pusher that binds."""

    def __init__(
        self, *, durable: bool = True, prefetch: int = 100, prefetch_bytes: int = 1 << 20,
        max_lease: float | None = None, adaptive: bool = False,
    ) -> None:  # fmt: skip
        def make_puller(said: Local, rng: random.Random) -> PullerCore:
            return PullerCore(said, rng, max_lease=max_lease, adaptive=adaptive)

        def make_pusher(said: Local, rng: random.Random) -> PusherCore:
            return PusherCore(said, PusherSettings(origin="o", epoch=b"e" * 16, durable=durable), rng)

        pusher = Host(
            "pusher", make_pusher, role="push", accepts=frozenset({"pull"}), about={"epoch": b"e" * 16},
            credit_messages=0, credit_bytes=0,
        )  # fmt: skip
        puller = Host(
            "puller", make_puller, role="pull", accepts=frozenset({"push"}), credit_messages=prefetch,
            credit_bytes=prefetch_bytes,
        )  # fmt: skip
        self.pair = CorePair(puller, pusher)
        self.pusher, self.puller = pusher, puller
        self.next = 1

    def send(self, *bodies: bytes) -> None:
        for body in bodies:
            pack = Pack("raw", 0, [len(body)], body)
            self.pusher.core.append(pack, self.next, None, True, None, self.pair.now)
            self.next += 1
        self.pair.flow()

    def take(self) -> list[tuple[Parcel, int]]:
        """All jobs that came: parcel and index."""
        items, self.puller.items = self.puller.items, []
        return [(parcel, index) for parcel in items for index in range(len(parcel))]

    def ack(self, parcel: Parcel, index: int) -> None:
        parcel.acked.append(index)
        self.puller.core.collect(parcel, self.pair.now)

    def settle(self, parcel: Parcel, index: int, kind: int) -> None:
        self.puller.core.settle(parcel, index, kind, None, "why", "", self.pair.now)

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(event, kind) for event in self.pusher.events)


def test_credit_in_bytes_comes_back_whole_however_long_it_goes_on() -> None:
    """A little that is never given back with each delivery stops a pipeline after a million of them."""
    pipeline = Pipeline(prefetch=5, prefetch_bytes=2000)
    (session,) = pipeline.pusher.core.sessions
    for number in range(500):
        pipeline.send(b"body %d" % number)
        for parcel, index in pipeline.take():
            pipeline.ack(parcel, index)
        pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 500
    assert (session.room_messages, session.room_bytes) == (5, 2000)


def test_what_is_held_is_told_after_what_was_settled_in_the_same_turn() -> None:
    pipeline = Pipeline()
    pipeline.send(b"nack", b"reject", b"held")
    jobs = pipeline.take()
    assert len(jobs) == 3
    due = pipeline.pair.now + HELD_EVERY
    pipeline.pair.advance(HELD_EVERY - 0.01)
    pipeline.settle(*jobs[0], wire.NACK)
    pipeline.settle(*jobs[1], wire.REJECT)
    pipeline.pair.now = due
    pipeline.puller.core.handle_timer(due)  # the report of what is held is due in this very turn
    pipeline.pair.turn()
    pipeline.pair.flow()
    assert pipeline.count(StaleSettle) == 0
    assert pipeline.count(JobFailed) == 1
    assert pipeline.pusher.core.dead == 1
    assert pipeline.count(JobRedelivered) == 0


def test_what_a_puller_forgot_comes_again_uncounted() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a", b"b")
    (parcel, _), *_ = pipeline.take()
    (source,) = pipeline.puller.core._sources.values()
    source.parcels[parcel.delivery.lease].open &= ~1  # as if it had lost the first one
    pipeline.pair.advance(HELD_EVERY + 0.1)
    again = pipeline.take()
    assert [parcel.delivery.blob for parcel, _ in again] == [b"a"]
    assert again[0][0].delivery.deliveries == {0: 1}
    assert not again[0][0].delivery.failures


def test_a_job_over_which_a_puller_died_goes_at_once_to_the_next_one_and_waits_only_from_the_second_time_on() -> None:
    pipeline = Pipeline()
    pusher, pair = pipeline.pusher.core, pipeline.pair

    def dies() -> None:
        (session,) = pusher.sessions
        pair.disconnect()
        pair.call(pipeline.pusher, "process_gone", session.id)

    pipeline.send(b"a")
    dies()
    assert (pusher.backlog.ready, pusher.backlog.delayed, pusher.counters["failed"]) == (1, 0, 1)
    pair.connect()
    pair.flow()
    (_, (parcel, _)) = pipeline.take()
    assert parcel.delivery.failures == {0: 1}
    dies()
    assert (pusher.backlog.ready, pusher.backlog.delayed, pusher.counters["failed"]) == (0, 1, 2)


def test_nothing_is_lent_to_a_puller_that_is_away() -> None:
    pipeline = Pipeline()
    pipeline.pair.disconnect()
    pipeline.send(b"a")
    assert pipeline.pusher.core.counters["delivered"] == 0
    pipeline.pair.connect()
    pipeline.pair.flow()
    assert len(pipeline.take()) == 1
    assert pipeline.pusher.core.counters["sessions_resumed"] == 1


def test_nothing_more_is_lent_to_a_puller_that_is_silent() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.puller.paused = True
    pipeline.pair.advance(10.0)
    pipeline.send(b"b")
    assert pipeline.pusher.core.counters["delivered"] == 1
    pipeline.puller.paused = False
    pipeline.pair.advance(2.0)
    assert [parcel.delivery.blob for parcel, _ in pipeline.take()] == [b"a", b"b"]


def test_a_puller_that_stood_still_for_two_minutes_changes_nothing_when_it_wakes() -> None:
    pipeline = Pipeline()
    pair = pipeline.pair
    pipeline.send(b"a", b"b")
    before = pipeline.take()
    for parcel, _ in before:
        list(parcel.claims)
    pipeline.puller.paused = True
    pair.connected = False  # libzmq's own heartbeats get no answer either; it does not know yet
    pipeline.pusher.core.link_down(("b", "x", pair.connection), pair.now)
    pair.advance(120.0)
    assert pipeline.count(JobRedelivered) == 1
    waiting = pipeline.pusher.core.backlog.waiting
    for job in before:
        pipeline.ack(*job)
    pipeline.puller.paused = False
    pipeline.puller.core.link_down(LINK, pair.now)
    pair.connect()
    pair.advance(5.0)
    assert waiting == 2
    assert pipeline.pusher.core.acked == 0
    again = pipeline.take()
    assert [parcel.delivery.sequence + index for parcel, index in again] == [1, 2]
    for job in again:
        pipeline.ack(*job)
    pair.flow()
    assert pipeline.pusher.core.acked == 2
    assert pipeline.pusher.core.counters["failed"] == 0


def test_a_stale_settle_is_answered_though_nothing_is_written() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    pipeline.ack(parcel, index)
    pipeline.pair.flow()
    before = len(pipeline.pair.ways["down"])
    (session,) = pipeline.puller.core.sessions
    late = wire.Settle(b"e" * 16, [parcel.delivery.lease] * 2, [], 5)
    pipeline.puller.core.sessions.send(session, late.pack(), 0, pipeline.pair.now)
    pipeline.pair.turn()
    pipeline.pusher.core.receive_message(
        ("b", "x", 1), pipeline.pair.ways["up"].pop(), pipeline.pair.now
    )  # the last that was said
    pipeline.pair.turn()
    headers = [session_wire.unpack(frames[0]) for frames in pipeline.pair.ways["down"]][before:]
    bodies = [header[7:] for header in headers if header[0] == session_wire.DATA]  # small ones ride in the header
    assert [wire.read(body) for body in bodies] == [wire.Settled(5, [parcel.delivery.lease] * 2)]


def test_an_answer_waits_until_what_it_answers_is_stored() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    pipeline.pusher.storing = False
    pipeline.puller.core.ack_asking(parcel, index, "ticket", pipeline.pair.now)
    pipeline.pair.flow()
    assert "ticket" not in pipeline.puller.replies
    assert pipeline.pusher.core.acked == 0
    pipeline.pusher.storing = True
    pipeline.pair.flow()
    assert pipeline.puller.replies["ticket"] is None
    assert pipeline.pusher.core.acked == 1


def test_jobs_are_settled_once_each_over_connections_that_break_all_the_time() -> None:
    rng = random.Random(3)
    pipeline = Pipeline(prefetch=7, prefetch_bytes=500)
    pending: list[tuple[Parcel, int]] = []
    kinds = [wire.NACK, wire.RELEASE, wire.ISOLATE]
    for number in range(400):
        pipeline.send(b"%d" % number)
        pending += pipeline.take()
        rng.shuffle(pending)
        while len(pending) > 3:
            job = pending.pop()
            if rng.random() < 0.8:
                pipeline.ack(*job)
            else:
                pipeline.settle(*job, rng.choice(kinds))
        if rng.random() < 0.2:
            pipeline.pair.disconnect()
            pipeline.pair.advance(rng.random() * 2)
            pipeline.pair.connect()
        pipeline.pair.advance(rng.random() * 0.1)
    for _ in range(300):
        for job in [*pending, *pipeline.take()]:
            pipeline.ack(*job)
        pending = []
        pipeline.pair.advance(5.0)
    assert pipeline.pusher.core.acked == 400
    assert pipeline.pusher.core.unsettled == 0
    assert pipeline.count(StaleSettle) == 0
    assert not pipeline.pusher.rows["messages"]
    assert not pipeline.pusher.rows.get("marks")
    assert pipeline.puller.core.held == 0
    (session,) = pipeline.pusher.core.sessions
    assert (session.room_messages, session.room_bytes) == (7, 500)
