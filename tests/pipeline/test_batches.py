"""What becomes of jobs in batches: taken together, failed together, tried again one by one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen
from tests.pipeline.test_settling import AT_ONCE
from zmqkit import AlreadySettled, Settled
from zmqkit.events import JobDead, JobFailed


async def test_batches_hold_what_is_there_up_to_their_size(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(25))
        seen: list[int] = []
        async for batch in pull.batches(max=10, wait=0.05):
            async with batch:
                assert 1 <= len(batch) <= 10
                assert [job.body for job in batch] == batch.bodies
                assert batch[0].body == batch.bodies[0]
                seen += batch.bodies
            assert batch.outcome == "acked"
            if len(seen) == 25:
                break
        assert seen == list(range(25))
        assert await push.flush(PATIENCE_S) == Settled(acked=25)


async def test_a_batch_waits_for_more_only_as_long_as_it_was_told(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("alone")
        async for batch in pull.batches(max=10, wait=0):
            async with batch:
                assert batch.bodies == ["alone"]
            break
        await push.send_many(range(10))
        began = time.monotonic()
        async for batch in pull.batches(max=10, wait=PATIENCE_S):
            async with batch:
                assert batch.bodies == list(range(10))
            break
        assert time.monotonic() - began < PATIENCE_S  # a full one does not wait
        await push.flush(PATIENCE_S)


async def test_a_batch_larger_than_the_credit_does_not_wait_for_what_cannot_come(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], prefetch=3) as pull:
        await push.send_many(range(6))
        began = time.monotonic()
        seen: list[int] = []
        async for batch in pull.batches(max=10, wait=2 * PATIENCE_S):
            async with batch:
                seen += batch.bodies
            if len(seen) == 6:
                break
        assert time.monotonic() - began < PATIENCE_S
        await push.flush(PATIENCE_S)


async def test_a_batch_that_fails_comes_again_one_by_one_and_only_the_guilty_is_blamed(face: Face) -> None:
    async with (
        face.Pusher(LOCAL, max_failures=2, backoff=AT_ONCE) as push,
        face.Puller(push.addresses[0]) as pull,
    ):
        failed, dead = listen(face, push, JobFailed), listen(face, push, JobDead)
        ids = [(await push.send(n)).id for n in range(5)]
        seen: list[list[int]] = []

        async def work() -> None:
            for wait in (PATIENCE_S, 0.2):  # first a batch of them all, then those that come again
                async for batch in pull.batches(max=5, wait=wait):
                    seen.append(batch.bodies)
                    async with batch:
                        if 3 in batch.bodies:
                            raise ZeroDivisionError("three")
                    if len(seen) == 1:
                        break

        async with face.together() as start:
            start(work)
            assert await push.flush(PATIENCE_S) == Settled(acked=4, dead=1)
            pull.stop()
        assert [seen[0], *sorted(seen[1:])] == [[0, 1, 2, 3, 4], [0], [1], [2], [3], [3], [4]]
        assert (await dead.next()).id == ids[3]
        assert [event.id for event in failed.all] == [ids[3], ids[3]]


async def test_jobs_of_a_batch_may_be_settled_one_by_one(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(4))
        async for batch in pull.batches(max=4, wait=PATIENCE_S):
            async with batch:
                await batch[1].reject("one")
                await batch[2].release()
            assert [job.outcome for job in batch] == ["acked", "rejected", "released", "acked"]
            with pytest.raises(AlreadySettled):
                await batch.ack()
            break
        assert await handle(pull, 1) == [2]
        assert await push.flush(PATIENCE_S) == Settled(acked=3, dead=1)


async def test_a_batch_of_which_one_job_is_left_when_it_fails_blames_that_one(face: Face) -> None:
    async with face.Pusher(LOCAL, backoff=AT_ONCE) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        await push.send_many(range(3))
        async for batch in pull.batches(max=3, wait=PATIENCE_S):
            async with batch:
                await batch[0].ack()
                await batch[1].ack()
                raise ZeroDivisionError
            break
        assert (await failed.next()).failures == 1
        assert await handle(pull, 1) == [2]
        assert await push.flush(PATIENCE_S) == Settled(acked=3)


async def test_a_batch_is_nacked_and_acked_by_hand(face: Face) -> None:
    async with face.Pusher(LOCAL, backoff=AT_ONCE) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(3))
        sizes: list[int] = []
        async for batch in pull.batches(max=3, wait=PATIENCE_S if not sizes else 0):
            sizes.append(len(batch))
            if len(sizes) == 1:
                await batch.nack()
                with pytest.raises(AlreadySettled):
                    await batch.ack()
                assert batch.outcome == "nacked"
            else:
                await batch.ack()
            if len(sizes) == 4:
                break
        assert sizes == [3, 1, 1, 1]
        assert await push.flush(PATIENCE_S) == Settled(acked=3)
        assert push.stats()["failed"] == 0


async def test_a_batch_left_by_an_interrupt_is_given_back_whole(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(3))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the block is what is tried
            async for batch in pull.batches(max=3, wait=PATIENCE_S):
                async with batch:
                    raise KeyboardInterrupt
        assert batch.outcome == "released"
        assert await handle(pull, 3) == [0, 1, 2]
        assert await push.flush(PATIENCE_S) == Settled(acked=3)


@pytest.mark.parametrize("on_error", ["nack", "reject", "raise"])
async def test_a_failing_batch_obeys_on_error(face: Face, on_error: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], on_error=on_error) as pull:
        await push.send_many(range(2))

        async def one() -> None:
            async for batch in pull.batches(max=2, wait=PATIENCE_S):
                async with batch:
                    raise ZeroDivisionError("both")
                break

        if on_error == "raise":
            with pytest.raises(ZeroDivisionError):
                await one()
        else:
            await one()
        await handle(pull, 2)  # each alone: nobody is blamed yet, whatever the policy
        assert await push.flush(PATIENCE_S) == Settled(acked=2)
    assert "a batch of 2 jobs failed" in caplog.text


def test_batches_of_nothing_are_refused(face: Face) -> None:
    pull = face.Puller("tcp://127.0.0.1:1")
    for wrong in ({"max": 0}, {"wait": -1.0}, {"wait": float("nan")}):
        with pytest.raises(ValueError, match=r"(max|wait) must be .* or more"):
            pull.batches(**wrong)
