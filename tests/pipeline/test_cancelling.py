"""Cancellation and Ctrl-C at any moment: nothing is lost or doubled, nobody is left waiting, and all goes on."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, take
from tests.pipeline.processes import program
from zmqkit import Settled, aio

JOBS = 200
CANCELS = 60


class Storm:
    """Cancels what it runs after a random moment."""

    def __init__(self, longest_s: float = 0.0008) -> None:
        self.cancelled = 0
        self._drawn = random.Random(11)
        self._longest_s = longest_s

    async def over(self, verb: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
        """(True, result), or (False, None) where it was cancelled."""
        # Every third time it is cancelled already, and finds out at its first wait.
        with anyio.move_on_after(self._drawn.uniform(0, self._longest_s) if self._drawn.randrange(3) else 0):
            return True, await verb()
        self.cancelled += 1
        return False, None


def waiters(peer: Any) -> int:
    """Who waits at a peer, on tickets or for jobs."""
    driver = peer._driver
    return int(driver.mailbox.waiters) + len(driver._desk.waiting)


async def test_a_cancel_storm_over_receive_loses_and_doubles_nothing(async_face: Face) -> None:
    face, storm = async_face, Storm()
    got: list[tuple[Any, int]] = []
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], prefetch=16) as pull:

        async def send() -> None:
            for n in count():
                await push.send(n)
                await anyio.sleep(0.0003)
                if n >= JOBS and storm.cancelled >= CANCELS:
                    await push.send("end")
                    return

        async with face.together() as start:
            start(send)
            while not got or got[-1][0] != "end":
                done, job = await storm.over(pull.receive)
                if done:
                    await job.ack()
                    got.append((job.body, job.deliveries))
            assert await push.flush(PATIENCE_S) == Settled(acked=len(got))
        assert got == [*((n, 1) for n in range(len(got) - 1)), ("end", 1)]
        assert waiters(pull) == waiters(push) == 0


async def test_a_cancel_storm_over_batches_gives_back_what_had_gathered(async_face: Face) -> None:
    face, storm = async_face, Storm(0.003)
    got: list[Any] = []
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], prefetch=64) as pull:

        async def send() -> None:
            for n in count(0, 10):
                await push.send_many(range(n, n + 10))
                await anyio.sleep(0.002)
                if n >= JOBS and storm.cancelled >= CANCELS:
                    await push.send("end")
                    return

        async with face.together() as start:
            start(send)
            batches = pull.batches(max=20, wait=0.002)
            while "end" not in got:
                done, batch = await storm.over(batches.__anext__)
                if done:
                    await batch.ack()
                    got += batch.bodies
            assert await push.flush(PATIENCE_S) == Settled(acked=len(got))
        got.remove("end")
        assert sorted(got) == list(range(len(got)))
        assert waiters(pull) == 0


async def test_a_job_whose_task_is_cancelled_is_given_back_uncounted(async_face: Face) -> None:
    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        with anyio.CancelScope() as scope:
            async with await take(pull) as job:
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert job.outcome == "released"
        async with await take(pull) as job:
            assert (job.failures, job.deliveries) == (0, 2)
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "journal"])
async def test_a_cancel_storm_over_send_stores_each_message_at_most_once_and_all_that_were_confirmed(
    async_face: Face, tmp_path: Path, durable: bool
) -> None:
    face, storm = async_face, Storm(0.002)
    journal = tmp_path / "jobs.db" if durable else None
    confirmed: list[int] = []
    numbers = count()
    async with face.Pusher(LOCAL, journal=journal) as push:
        for verb, size in ((push.send, 1), (push.send_many, 10)):
            storm.cancelled, before = 0, len(confirmed)
            while storm.cancelled < CANCELS or len(confirmed) < before + CANCELS:
                some = list(islice(numbers, size))
                if (await storm.over(functools.partial(verb, some if size > 1 else some[0])))[0]:
                    confirmed += some
        await push.send("end")
        await push.flush(PATIENCE_S, until="journalled")
        assert waiters(push) == 0
        got: list[Any] = []
        async with face.Puller(push.addresses[0]) as pull:
            while not got or got[-1] != "end":
                got += await handle(pull, 1)
            settled = await push.flush(PATIENCE_S)
        assert settled.acked == push.stats()["sent"] == len(got)
    got.pop()
    assert got == sorted(set(got)), "doubled, or out of order"
    assert set(confirmed) <= set(got) <= set(range(next(numbers)))


async def test_a_cancelled_send_that_waits_for_room_is_withdrawn(async_face: Face) -> None:
    face = async_face
    async with face.Pusher(LOCAL, max_waiting=1) as push:
        await push.send("kept")
        for _ in range(20):
            with anyio.move_on_after(0.003) as scope:
                await push.send("withdrawn")
            assert scope.cancelled_caught
        await push.flush(PATIENCE_S, until="journalled")  # nothing of them is left to wait for
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["kept"]
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
            assert await pull.receive(0.02) is None


async def test_a_cancel_storm_over_waits_leaves_nobody_behind(async_face: Face) -> None:
    face, storm = async_face, Storm()
    async with face.Pusher(LOCAL) as push:
        receipt = await push.send("x")
        verbs = (
            push.flush, receipt.wait, lambda: receipt.wait("received"), lambda: push.wait_for_peers(1),
            lambda: push.flush(until="received"),
        )  # fmt: skip
        for at in range(JOBS):
            done, _ = await storm.over(verbs[at % len(verbs)])
            assert not done
        await push.flush(PATIENCE_S, until="journalled")
        core = push._core
        assert (waiters(push), core._waits, core._awaited) == (0, [], [])
        assert not any(core._watchers.values())
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["x"]
            assert await receipt.wait(timeout=PATIENCE_S) == Settled(acked=1)
    assert storm.cancelled == JOBS


async def test_a_cancelled_confirmed_ack_still_counts(async_face: Face) -> None:
    face, storm = async_face, Storm(0.0005)
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many(range(JOBS))
        for _ in range(JOBS):
            job = await take(pull)
            await storm.over(functools.partial(job.ack, wait=True))
            assert job.outcome == "acked"
        assert await push.flush(PATIENCE_S) == Settled(acked=JOBS)
        assert waiters(pull) == 0


async def test_cancelling_a_run_gives_back_what_it_handles_and_the_puller_goes_on(async_face: Face) -> None:
    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        started = anyio.Event()

        async def handler(body: Any) -> None:
            started.set()
            await anyio.sleep_forever()

        await push.send("x")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: pull.run(handler, tasks=2))
            await started.wait()
            group.cancel_scope.cancel()
        assert await handle(pull, 1) == ["x"]
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_a_block_that_is_cancelled_closes_its_peers(async_face: Face) -> None:
    face = async_face
    with anyio.move_on_after(0.05):
        async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
            await pull.receive()
    assert push.closed
    assert pull.closed


async def test_objects_outlive_the_cancelled_opening_of_others(async_face: Face) -> None:
    face = async_face
    for _ in range(20):
        pull = face.Puller("tcp://127.0.0.1:1")
        with anyio.move_on_after(0):
            await pull.open()
        await pull.close()
        assert pull.closed


def test_ctrl_c_at_random_moments_loses_no_job_and_leaves_all_usable(tmp_path: Path) -> None:
    with program("interrupted", tmp_path / "jobs.db", 400) as running:
        said = running.heard()
        assert running.end() == 0, running.errors
    assert said["interrupts"] == 400
    assert said["lost"] == []
    assert said["last"]
    assert said["dead"] == 0
    assert said["acked"] == said["stored"] >= said["confirmed"] > 0
    assert said["waiting"] == 0, "an interrupted wait for jobs left its waiter"


def test_an_entry_that_is_cancelled_while_it_opens_leaves_nothing_open(tmp_path: Path) -> None:
    class Slow(aio.Pusher):
        def _build(self) -> Any:
            entered.set()
            time.sleep(0.2)
            return super()._build()

    async def cancelled() -> None:
        push = Slow(LOCAL, journal=tmp_path / "jobs.db")

        async def enter() -> None:
            async with push:
                raise AssertionError("it was cancelled before")

        # asyncio's own cancel: it does not wait for the thread in which the opening goes on.
        task = asyncio.create_task(enter())
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert push.closed
        async with aio.Pusher(LOCAL, journal=tmp_path / "jobs.db"):  # not JournalBusy
            pass

    entered = threading.Event()
    asyncio.run(cancelled())


@pytest.mark.slow
def test_a_claim_that_is_interrupted_leaves_no_job_in_nobodys_hands() -> None:
    with program("interrupted_runs", 1000) as running:
        said = running.heard()
        assert running.end() == 0, running.errors
    assert said["interrupts"] == 1000
    assert said["missing"] == 0
    assert said["acked"] == said["sent"]
