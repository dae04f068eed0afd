"""What one puller has not started goes to another that has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, take
from tests.pipeline.test_cores import Pipeline
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.leases import Holder, Lot
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.recalling import LONGEST_PAUSE, PAUSE, Recalls
from zmqkit.patterns.pipeline.rows import Pack, Row
from zmqkit.patterns.pipeline.runs import Run
from zmqkit.protocol.session import Session
from zmqkit.protocol.wire import Hello


def holder(name: bytes, held: int, **about: bool) -> Holder:
    made = Session(
        Hello(role="pull", instance=b"i" * 16, session=name * 8, credit_messages=9, credit_bytes=9, about=about),
        "link", dialled=False,
    )  # fmt: skip
    found = Holder(made)
    if held:
        found.lease(Lot(1, Run(Row(1, "o", 0, "raw", [0] * held, b"", {}, {}), 0, held, False), 1))
    return found


def recall(pipeline: Pipeline, count: int) -> None:
    (session,) = pipeline.pusher.core.sessions
    pipeline.pusher.core.sessions.send(session, wire.Recall(count).pack(), 0, pipeline.pair.now)
    pipeline.pair.flow()


def parcels(pipeline: Pipeline) -> Iterator[Parcel]:
    seen = set()
    for parcel, _ in pipeline.take():
        if id(parcel) not in seen:
            seen.add(id(parcel))
            yield parcel


def test_the_one_that_holds_most_is_asked_for_half_of_it_and_not_again_at_once() -> None:
    recalls = Recalls()
    holders = [holder(b"a", 7, recall=True), holder(b"b", 20, recall=True), holder(b"c", 0, recall=True)]
    asked, again = recalls.due(holders, 100.0)
    assert [(each.session.id[:1], count) for each, count in asked] == [(b"b", 10)]
    assert again == 100.0 + PAUSE
    assert recalls.due(holders, 100.1)[0] == []
    times, now = [], 100.0
    for _ in range(12):
        _, again = recalls.due(holders, now)
        assert again is not None
        times.append(again - now)
        now = again
    assert max(times) == LONGEST_PAUSE, "who has nothing to give is asked ever less often"


def test_nobody_is_asked_without_an_idle_one_nor_who_does_not_understand_it_nor_for_a_last_job() -> None:
    busy, idle = holder(b"a", 9, recall=True), holder(b"c", 0)
    assert Recalls().due([busy, holder(b"b", 1, recall=True)], 0.0) == ([], None)
    assert Recalls().due([holder(b"a", 9), idle], 0.0) == ([], None)
    assert Recalls().due([holder(b"a", 1, recall=True), idle], 0.0) == ([], None)
    assert len(Recalls().due([busy, idle], 0.0)[0]) == 1


def test_the_last_ones_are_given_back_and_half_at_most() -> None:
    pipeline = Pipeline()
    pipeline.send(*(b"%d" % at for at in range(10)))
    taken = list(parcels(pipeline))
    for parcel in taken[:1]:
        next(parcel.claims)
    recall(pipeline, 100)
    assert pipeline.puller.core.counters["recalled"] == 5
    assert pipeline.puller.core.counters["released"] == 5
    assert pipeline.pusher.core.counters["failed"] == 0
    assert sum(parcel.open.bit_count() for parcel in taken) == 5
    assert taken[0].open & 1


def test_what_is_started_is_never_given_back() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a", b"b", b"c", b"d")
    for parcel in parcels(pipeline):
        list(parcel.claims)
    recall(pipeline, 4)
    assert pipeline.puller.core.counters["recalled"] == 0
    assert pipeline.puller.core.held == 4


def test_what_is_kept_of_a_parcel_is_offered_again() -> None:
    pipeline = Pipeline()
    pack = [b"%d" % at for at in range(10)]
    pipeline.pusher.core.append(
        Pack("raw", 0, [1] * 10, b"".join(pack)),
        1, None, True, None, pipeline.pair.now,
    )  # fmt: skip
    pipeline.pair.flow()
    (parcel,) = parcels(pipeline)
    assert next(parcel.claims) == 0
    recall(pipeline, 3)
    again = next(each for each, _ in pipeline.take() if each is parcel)
    assert list(again.claims) == [1, 2, 3, 4, 5, 6]
    assert parcel.started == parcel.offered == 7


async def test_an_idle_puller_gets_what_another_has_not_started(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], prefetch=100) as first:
        await push.send_many(range(10))
        jobs = [await take(first)]
        async with face.Puller(push.addresses[0], prefetch=100) as second:
            got = [await take(second) for _ in range(4)]
            assert push.stats()["recalls"] >= 1
            assert all(job.failures == 0 for job in got)
            for job in got:
                await job.ack()
            left = 10 - len(jobs) - len(got)
            while push.stats()["acked"] < len(got):
                await face.pause()
            await jobs[0].ack()
            pullers = [first, second]
            while left:
                job = await pullers[0].receive(0.01)
                pullers.reverse()
                if job is not None:
                    await job.ack()
                    left -= 1
            assert (await push.flush(PATIENCE_S)).acked == 10
            assert (await push.flush(PATIENCE_S)).dead == 0
