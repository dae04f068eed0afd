"""Jobs that are held for too long, and those that are extended: in paired cores, and with every face."""

from __future__ import annotations

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, Face
from tests.pipeline.test_cores import Pipeline
from zmqkit.events import JobFailed, StaleSettle
from zmqkit.patterns.pipeline.puller import Parcel

MAX_LEASE = 8.0


def pipeline_of(max_lease: float = MAX_LEASE) -> Pipeline:
    return Pipeline(max_lease=max_lease)


def start(parcel: Parcel, count: int = 1) -> None:
    for _ in range(count):
        next(parcel.claims)


def failures(pipeline: Pipeline) -> list[str]:
    return [event.reason for event in pipeline.pusher.events if isinstance(event, JobFailed)]


def test_a_started_job_is_given_back_as_failed_when_its_time_is_over() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    start(parcel)
    pipeline.pair.advance(MAX_LEASE - 0.01)
    assert failures(pipeline) == []
    pipeline.pair.advance(MAX_LEASE / 8 + 0.02)
    assert failures(pipeline) == ["held longer than max_lease (8 s)"]
    assert parcel.overdue == 1
    assert parcel.told is False
    pipeline.ack(parcel, index)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 0
    assert pipeline.count(StaleSettle) == 0, "the puller knows, and need not ask"


def test_a_job_that_nobody_has_started_is_held_for_ever() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a", b"b")
    jobs = pipeline.take()
    start(jobs[0][0])
    pipeline.pair.advance(10 * MAX_LEASE)
    assert len(failures(pipeline)) == 1
    assert jobs[-1][0].overdue >> jobs[-1][1] & 1 == 0


def test_an_extension_begins_when_it_is_asked_for_and_never_shortens() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    start(parcel)
    for _ in range(5):
        pipeline.pair.advance(MAX_LEASE - 1.0)
        pipeline.pair.call(pipeline.puller, "extend", parcel, index, None)
    pipeline.pair.call(pipeline.puller, "extend", parcel, index, 0.5)
    pipeline.pair.advance(MAX_LEASE - 0.01)
    assert failures(pipeline) == []
    pipeline.pair.advance(0.02)
    assert len(failures(pipeline)) == 1


def test_a_job_may_be_extended_for_as_long_as_one_likes() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    start(parcel)
    pipeline.pair.call(pipeline.puller, "extend", parcel, index, 100.0)
    pipeline.pair.advance(99.9)
    assert failures(pipeline) == []
    pipeline.ack(parcel, index)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 1
    pipeline.pair.advance(100.0)
    assert failures(pipeline) == []


def test_what_is_acked_in_the_last_moment_is_acked() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    start(parcel)
    pipeline.pair.advance(MAX_LEASE - 0.01)
    pipeline.ack(parcel, index)
    pipeline.pair.advance(MAX_LEASE)
    assert pipeline.pusher.core.acked == 1
    assert failures(pipeline) == []


def test_a_handler_that_is_through_waits_for_its_outputs_without_end() -> None:
    pipeline = pipeline_of()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.take()
    start(parcel)
    parcel.through.add(index)
    pipeline.pair.advance(10 * MAX_LEASE)
    assert failures(pipeline) == []


async def test_settling_a_job_that_was_held_for_too_long_raises_lease_lost(face: Face) -> None:
    failed: list[str] = []
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], max_lease=0.08) as pull:
        push.on(JobFailed, lambda event: failed.append(event.reason))
        await push.send("slow")
        job = await pull.receive(10)
        again = await pull.receive(10)  # it came again: so it was given back
        assert again.id == job.id
        assert again.failures == 1
        with pytest.raises(zmqkit.LeaseLost, match="held longer than max_lease"):
            await job.ack()
        with pytest.raises(zmqkit.AlreadySettled):
            await job.nack()
        await again.extend(60)
        await again.ack()
        with pytest.raises(zmqkit.AlreadySettled):
            await again.extend()
        settled = await push.flush(10)
        assert settled.acked == 1
        assert failed == ["held longer than max_lease (0.08 s)"]


async def test_a_block_that_took_too_long_does_not_end_its_loop(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0], max_lease=0.08) as pull:
        await push.send("slow")
        job = await pull.receive(10)
        async with job:
            again = await pull.receive(10)
            async with again:
                await again.extend(60)
        assert job.outcome == "released"
        assert (await push.flush(10)).acked == 1
    assert "held longer than max_lease" in caplog.text


async def test_extend_says_what_is_wrong(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("a")
        job = await pull.receive(10)
        for wrong in (-1.0, float("nan"), "1"):
            with pytest.raises((ValueError, TypeError)):
                await job.extend(wrong)
        await job.ack(wait=True)  # a pusher with linger=0 that closes waits for no ack
