"""A prefetch that follows the rate of settles: alone, in paired cores, and with every face."""

from __future__ import annotations

from tests.pipeline.faces import LOCAL, Face
from tests.pipeline.test_cores import Pipeline
from zmqkit.patterns.pipeline.prefetching import FIRST, MOST, Prefetch


def paced(rate: float, seconds: float, *, at_once: int = 1, trip: float = 0.0) -> Prefetch:
    """What becomes of it when jobs are settled at that rate for so long."""
    made, now = Prefetch(0.0), 0.0
    while now < seconds:
        now += at_once / rate
        made.settled(at_once, trip, now)
    return made


def test_it_follows_the_rate_of_settles() -> None:
    assert paced(1000.0, 20.0).target == 100
    assert paced(1000.0, 20.0, trip=0.4).target == 500
    assert paced(1e6, 2.0, at_once=100).target == MOST


def test_it_falls_to_one_for_jobs_that_take_long() -> None:
    assert paced(0.2, 200.0).target == 1


def test_it_falls_slowly() -> None:
    made = paced(20_000.0, 5.0, at_once=20)
    before = made.target
    assert before == 2000
    made.settled(1, 0.0, 20.0)
    assert made.target > before * 3 // 4


def test_a_batch_and_the_next_one_have_room() -> None:
    assert paced(50.0, 300.0, at_once=500).target >= 1000


def test_a_pause_with_nothing_to_do_says_nothing_of_the_rate() -> None:
    made = paced(1000.0, 20.0)
    made.begin(1000.0)
    for at in range(100):
        made.settled(1, 0.0, 1000.0 + (at + 1) / 1000)
    assert made.target >= 95


def test_it_doubles_when_the_mailbox_ran_empty_and_ends_at_the_most() -> None:
    made = Prefetch(0.0)
    assert made.target == FIRST
    doubled = 0
    while made.ran_empty():
        doubled += 1
    assert made.target == MOST
    assert doubled == 8


def test_who_takes_all_that_there_is_and_waits_is_given_more() -> None:
    pipeline = Pipeline(adaptive=True)
    for at in range(100):
        pipeline.send(b"%d" % at)
    jobs = pipeline.take()
    assert len(jobs) == FIRST
    pipeline.pair.call(pipeline.puller, "hungry")
    pipeline.pair.flow()
    assert pipeline.take() == [], "what is here was not even started"
    for parcel in {id(parcel): parcel for parcel, _ in jobs}.values():
        assert list(parcel.claims)
    pipeline.pair.call(pipeline.puller, "hungry")
    pipeline.pair.flow()
    assert len(pipeline.take()) == FIRST
    assert pipeline.puller.core.prefetch == 2 * FIRST


def test_what_was_given_is_not_taken_back() -> None:
    pipeline = Pipeline(adaptive=True)
    for at in range(100):
        pipeline.send(b"%d" % at)
    left = pipeline.take()
    most = 0
    for _ in range(100):
        job = left.pop(0)
        next(job[0].claims)
        pipeline.ack(*job)
        pipeline.pair.advance(5.0)
        left += pipeline.take()
        most = max(most, len(left))
        if not left:
            break
    assert pipeline.pusher.core.acked == 100
    assert most <= FIRST
    assert pipeline.puller.core.prefetch <= 2


async def test_jobs_that_are_taken_and_not_settled_do_not_stop_what_follows(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(300))
        jobs = [await pull.receive(10) for _ in range(300)]
        assert [job.body for job in jobs] == list(range(300))
        for job in jobs:
            await job.ack()
        assert (await push.flush(10)).acked == 300


async def test_a_batch_is_filled_though_it_is_larger_than_what_comes_first(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(400))
        async for batch in pull.batches(max=400, wait=10.0):
            assert len(batch) == 400
            await batch.ack()
            break
        assert (await push.flush(10)).acked == 400
