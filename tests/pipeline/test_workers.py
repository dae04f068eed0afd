"""Stages: what comes in is handled and passed on, and acked at its source only when all that came of it has settled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import zmqkit.patterns.pipeline.custody as custody
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, dead_letters, handle, listen, take
from tests.pipeline.processes import program
from zmqkit import Backoff, Heartbeat, Outgoing, Reject, Retry, Settled, UsageError
from zmqkit.events import JobDead, JobFailed

AT_ONCE = Backoff(first=0.001, cap=0.001)


@contextlib.asynccontextmanager
async def stage(face: Face, handler: Callable[..., Any], **options: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Yields pusher, puller and the worker that runs between them."""
    async with face.Pusher(LOCAL, backoff=AT_ONCE, linger=0) as push, face.Puller(bind=LOCAL, prefetch=1000) as pull:
        worker = face.Worker(handler, source=push.addresses[0], sink=pull.addresses[0], **options)
        async with face.together() as start:
            start(worker.run)
            try:
                yield push, pull, worker
            finally:
                worker.stop()
        assert worker.closed


async def test_a_result_is_passed_on_and_then_the_input_is_acked(face: Face) -> None:
    async with stage(face, lambda body: body * 2) as (push, pull, _):
        receipt = await push.send(21)
        job = await take(pull)
        assert (job.body, job.id) == (42, f"{receipt.id}/0")
        assert push.stats()["acked"] == 0  # the output is not settled
        await job.ack()
        assert await receipt.wait(timeout=PATIENCE_S) == Settled(acked=1)


async def test_none_sends_nothing_an_iterator_sends_each_and_a_list_is_one_message(face: Face) -> None:
    def handler(n: int) -> Any:
        match n:
            case 0:
                return None
            case 1:
                return iter(["a", "b"])
            case 2:
                return ["one", "message"]
            case _:
                return Outgoing("dressed", headers={"n": str(n)})

    async with stage(face, handler) as (push, pull, _):
        ids = [(await push.send(n)).id for n in range(4)]
        jobs = [await take(pull) for _ in range(4)]
        assert [job.body for job in jobs] == ["a", "b", ["one", "message"], "dressed"]
        assert [job.id for job in jobs] == [f"{ids[1]}/0", f"{ids[1]}/1", f"{ids[2]}/0", f"{ids[3]}/0"]
        assert jobs[-1].headers == {"n": "3"}
        for job in jobs:
            await job.ack()
        assert await push.flush(PATIENCE_S) == Settled(acked=4)


async def test_a_generator_may_yield_any_number(face: Face) -> None:
    def handler(n: int) -> Iterator[Any]:
        for at in range(n):
            yield Outgoing(at) if at % 2 else at

    async with stage(face, handler) as (push, pull, _):
        receipt = await push.send(700)  # more than one chunk
        jobs = [await take(pull) for _ in range(700)]
        assert [job.body for job in jobs] == list(range(700))
        assert [job.id for job in jobs] == [f"{receipt.id}/{at}" for at in range(700)]
        for job in jobs[:-1]:
            await job.ack(wait=True)
        assert push.stats()["acked"] == 0
        await jobs[-1].ack()
        assert await push.flush(PATIENCE_S) == Settled(acked=1)
        await push.send(0)  # yields nothing
        assert await push.flush(PATIENCE_S) == Settled(acked=2)


async def test_a_coroutine_and_an_async_generator_are_handlers_too(async_face: Face) -> None:
    async def double(n: int) -> int:
        return n * 2

    async def each(n: int) -> AsyncIterator[int]:
        for at in range(n):
            yield at

    for handler, results in ((double, [6]), (each, [0, 1, 2])):
        async with stage(async_face, handler, tasks=3) as (push, pull, _):
            await push.send(3)
            assert await handle(pull, len(results)) == results
            assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_a_handler_may_get_the_whole_job_and_settle_it_itself(face: Face) -> None:
    def handler(job: Any) -> Any:
        return Outgoing(job.body, headers={"from": job.id, **job.headers})

    async with stage(face, face.wants("Job", handler)) as (push, pull, _):
        receipt = await push.send("x", headers={"trace": "1"})
        async with await take(pull) as job:
            assert job.headers == {"from": receipt.id, "trace": "1"}
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_a_failing_handler_fails_its_input_and_retry_and_reject_mean_what_they_say(face: Face) -> None:
    tries: list[Any] = []

    def handler(body: str) -> Any:
        tries.append(body)
        if body == "never":
            raise Reject("it is no use")
        if tries.count(body) == 1:
            raise Retry(delay=0) if body == "later" else ZeroDivisionError(body)
        return body

    async with stage(face, handler) as (push, pull, _):
        dead, failed = listen(face, push, JobDead), listen(face, push, JobFailed)
        await push.send_many(["never", "later", "clumsy"])
        assert sorted(await handle(pull, 2)) == ["clumsy", "later"]
        assert await push.flush(PATIENCE_S) == Settled(acked=2, dead=1)
        assert [event.reason for event in dead.all] == ["it is no use"]
        reasons = sorted(event.reason for event in failed.all)
        assert reasons == ["ZeroDivisionError: clumsy", "its handler asked for another try"]


async def test_a_generator_that_fails_midway_yields_the_same_ids_again(face: Face) -> None:
    tries: list[int] = []

    def handler(n: int) -> Iterator[int]:
        tries.append(n)
        for at in range(600):
            if at == 300 and len(tries) == 1:
                raise ZeroDivisionError
            yield at

    async with stage(face, handler) as (push, pull, _):
        receipt = await push.send(1)
        seen: dict[str, int] = {}
        doubled = 0
        while len(seen) < 600:
            async with await take(pull) as job:
                assert seen.setdefault(job.id, job.body) == job.body
                doubled += 1
        assert set(seen) == {f"{receipt.id}/{at}" for at in range(600)}
        assert doubled >= 600
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_an_output_that_ends_dead_rejects_the_input_at_its_source_with_its_reason(
    face: Face, tmp_path: Any
) -> None:
    path = tmp_path / "jobs.db"
    async with face.Pusher(LOCAL, journal=path) as push, face.Puller(bind=LOCAL) as pull:
        worker = face.Worker(lambda n: iter(range(n)), source=push.addresses[0], sink=pull.addresses[0])
        async with face.together() as start:
            start(worker.run)
            receipt = await push.send(3)
            jobs = [await take(pull) for _ in range(3)]
            await jobs[1].reject("the sink does not like it")
            await jobs[0].ack()
            await jobs[2].ack()
            await receipt.wait(timeout=PATIENCE_S)
            assert receipt.outcome == "dead"
            worker.stop()
    (letter,) = dead_letters(path)
    assert letter.id == receipt.id
    assert letter.reason == "an output of this job is dead: the sink does not like it"


async def test_a_result_without_a_sink_is_a_failure_that_says_so(face: Face) -> None:
    async with face.Pusher(LOCAL, max_failures=1) as push:
        dead = listen(face, push, JobDead)
        done: list[Any] = []

        def handler(body: Any) -> Any:
            done.append(body)
            return body

        worker = face.Worker(handler, source=push.addresses[0])
        async with face.together() as start:
            start(worker.run)
            await push.send_many([None, "something"])
            assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=1)
            assert "this Worker has no sink: give sink=, or return None" in (await dead.next()).reason
            worker.stop()
        assert done == [None, "something"]


async def test_batches_are_handled_at_once_and_answered_one_by_one(face: Face) -> None:
    sizes: list[int] = []

    def handler(bodies: list[int]) -> list[Any]:
        sizes.append(len(bodies))
        if 3 in bodies and len(bodies) > 1:
            raise ZeroDivisionError("not in company")
        return [None if body == 4 else iter([body, -body]) if body == 5 else body for body in bodies]

    async with stage(face, handler, batch=10) as (push, pull, _):
        ids = [(await push.send(n)).id for n in range(7)]
        jobs: list[Any] = []
        while len(jobs) < 7:
            async with await take(pull) as job:
                jobs.append((job.body, job.id))
        expected = [(n, f"{ids[n]}/0") for n in range(7) if n != 4] + [(-5, f"{ids[5]}/1")]
        assert sorted(jobs) == sorted(expected)
        assert await push.flush(PATIENCE_S) == Settled(acked=7)
        assert push.stats()["failed"] == 0


async def test_a_batch_answered_by_the_wrong_number_fails(face: Face) -> None:
    tries: list[Any] = []

    def handler(bodies: list[Any]) -> list[Any]:
        tries.append(bodies)
        return ["one too many", *bodies] if len(tries) == 1 else bodies

    async with stage(face, handler, batch=1) as (push, pull, _):
        failed = listen(face, push, JobFailed)
        await push.send("x")
        assert "one result for each of its 1 bodies" in (await failed.next()).reason
        assert await handle(pull, 1) == ["x"]
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_two_workers_in_a_row_keep_the_lineage_and_ack_from_the_end_to_the_source(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as pull:
        middle = await face.Puller(bind=LOCAL).open()
        first = face.Worker(lambda n: iter([n, n + 1]), source=push.addresses[0], sink=middle.addresses[0])
        second = face.Worker(lambda n: n * 10, source=middle, sink=pull.addresses[0])
        async with face.together() as start:
            start(first.run)
            start(second.run)
            receipt = await push.send(1)
            jobs = [await take(pull), await take(pull)]
            assert [(job.body, job.id) for job in jobs] == [
                (10, f"{receipt.id}/0/0"), (20, f"{receipt.id}/1/0"),
            ]  # fmt: skip
            await jobs[0].ack(wait=True)
            assert push.stats()["acked"] == 0
            await jobs[1].ack()
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
            first.stop()
            second.stop()


async def test_a_worker_may_bind_on_its_sink_side(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        worker = face.Worker(lambda n: n + 1, source=push.addresses[0], sink=face.Pusher(bind=LOCAL))
        await worker.open()
        async with face.together() as start:
            start(worker.run)
            async with face.Puller(worker.addresses[0]) as pull:
                await push.send(1)
                assert await handle(pull, 1) == [2]
                assert await push.flush(PATIENCE_S) == Settled(acked=1)
            worker.stop()


async def test_a_killed_workers_input_comes_again_and_its_outputs_bear_the_same_ids(face: Face) -> None:
    """The sink counts by id, and so each item once."""
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as pull:
        receipt = await push.send(5)
        seen: dict[str, Any] = {}
        with program("count_up", push.addresses[0], pull.addresses[0]) as dying:
            for _ in range(2):  # one output is acked, the others are not: the input is not
                job = await take(pull)
                seen[job.id] = job.body
                if len(seen) == 1:
                    await job.ack(wait=True)
            dying.kill()
        with program("count_up", push.addresses[0], pull.addresses[0]) as successor:
            deliveries = 2
            while len(seen) < 5 or push.stats()["acked"] < 1:
                job = await pull.receive(0.05)
                if job is not None:
                    async with job:
                        deliveries += 1
                        assert seen.setdefault(job.id, job.body) == job.body
            assert seen == {f"{receipt.id}/{n}": n for n in range(5)}
            assert deliveries >= 6  # the acked one came twice
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
            successor.kill()


@pytest.mark.parametrize("at_a_time", ["threads", "tasks"])
async def test_so_many_handlers_run_at_a_time(face: Face, at_a_time: str) -> None:
    together = threading.Barrier(3)
    if at_a_time == "tasks" and face.name == "sync":
        with pytest.raises(TypeError, match="tasks"):
            face.Worker(lambda body: None, source="inproc://x", tasks=3)
        return

    def plain(body: Any) -> Any:
        together.wait(PATIENCE_S)
        return body

    inside = 0

    async def coroutine(body: Any) -> Any:
        nonlocal inside
        inside += 1
        while inside % 3:
            await face.pause()
        return body

    handler = plain if at_a_time == "threads" else coroutine
    async with stage(face, handler, **{at_a_time: 3}) as (push, pull, _):
        await push.send_many(range(3))
        assert sorted(await handle(pull, 3)) == [0, 1, 2]
        assert await push.flush(PATIENCE_S) == Settled(acked=3)


async def test_a_full_sink_holds_the_worker_back_and_nothing_is_lost(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL, prefetch=2) as pull:
        sink = face.Pusher(connect=pull.addresses[0], max_waiting=2)
        worker = face.Worker(lambda n: n, source=push.addresses[0], sink=sink)
        async with face.together() as start:
            start(worker.run)
            await push.send_many(range(100))
            assert sorted(await handle(pull, 100)) == list(range(100))
            assert await push.flush(PATIENCE_S) == Settled(acked=100)
            worker.stop()


async def test_a_stopped_worker_that_cannot_pass_on_gives_its_inputs_back_in_time(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody, "DRAIN", 0.1)
    async with face.Pusher(LOCAL) as push:
        nobody = face.Pusher(bind=LOCAL, max_waiting=1)  # whom no puller comes to
        worker = face.Worker(lambda n: n, source=push.addresses[0], sink=nobody)
        await push.send_many(range(5))
        async with face.together() as start:
            start(worker.run)
            await face.until(lambda: worker.stats().get("sink_sent", 0) == 1)
            worker.stop()
        async with face.Puller(push.addresses[0]) as pull:
            assert sorted(await handle(pull, 5)) == list(range(5))
            assert await push.flush(PATIENCE_S) == Settled(acked=5)
        assert push.stats()["failed"] == 0


async def test_on_error_raise_ends_the_worker_with_the_error(face: Face) -> None:
    async with face.Pusher(LOCAL, linger=0) as push:

        def handler(body: Any) -> Any:
            raise ZeroDivisionError(body)

        await push.send("x")
        with pytest.raises(ZeroDivisionError, match="x"):
            await face.Worker(handler, source=push.addresses[0], on_error="raise").run()
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["x"]
            await push.flush(PATIENCE_S)


def test_what_would_be_ignored_is_refused(face: Face) -> None:
    pull, push = face.Puller("inproc://a"), face.Pusher("inproc://b")
    with pytest.raises(UsageError, match="two sides"):
        face.Worker(print, source="inproc://a", bind="inproc://c")
    with pytest.raises(UsageError, match="on_error"):
        face.Worker(print, source=pull, on_error="reject")
    with pytest.raises(UsageError, match="heartbeat="):
        face.Worker(print, source=pull, sink=push, heartbeat=Heartbeat())
    with pytest.raises(UsageError, match="function"):
        face.Worker("print", source=pull)
    for wrong in ({"threads": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="1 or more"):
            face.Worker(print, source=pull, **wrong)
    for of_one_side in ({"prefetch": 1}, {"journal": "jobs.db"}):
        with pytest.raises(TypeError, match=r"^Worker\(\) got .* source=Puller\(..., prefetch=1\)"):
            face.Worker(print, source="inproc://a", **of_one_side)
    with pytest.raises(UsageError, match="a Worker keeps no records"):
        face.Worker(print, source="inproc://a", inbox="done.db")
    assert face.Worker(print, source=pull, sink=push, name="a stage").name == "a stage"


async def test_a_worker_is_a_peer_of_two_sides(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as pull:
        async with face.Worker(lambda n: n, source=push.addresses[0], sink=pull.addresses[0]) as worker:
            await worker.wait_for_peers(1, timeout=PATIENCE_S)
            assert not worker.closed
            assert {"source_received", "sink_sent"} <= set(worker.stats())
            assert "Worker" in repr(getattr(worker, "real", worker))
        assert worker.closed
