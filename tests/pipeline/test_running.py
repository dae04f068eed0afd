"""run(), stop() and signals; what a program that never closes leaves behind; forks."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, Letterbox, handle, take
from tests.pipeline.processes import program
from zmqkit import Backoff, Closed, Reject, Retry, Settled, UsageError

AT_ONCE = Backoff(first=0.001, cap=0.001)


async def test_run_handles_each_body_until_it_is_stopped(face: Face) -> None:
    async with face.Pusher(LOCAL, backoff=AT_ONCE) as push, face.Puller(push.addresses[0]) as pull:
        done: list[Any] = []
        tries: list[Any] = []

        def handler(body: Any) -> None:
            if body == "bad":
                raise Reject("bad")
            if body == "later" and len(tries) < 2:
                tries.append(body)
                raise Retry(delay=0, reason="not yet")
            if body == "clumsy" and tries.count("clumsy") < 1:
                tries.append(body)
                raise ZeroDivisionError
            done.append(body)

        async with face.together() as start:
            start(pull.run, handler)
            await push.send_many([1, "bad", "later", "clumsy", 2])
            assert await push.flush(PATIENCE_S) == Settled(acked=4, dead=1)
            pull.stop()
        assert sorted(map(str, done)) == ["1", "2", "clumsy", "later"]


async def test_run_hands_over_the_job_where_the_handler_asks_for_it(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        seen: list[Any] = []

        def handler(job: Any) -> None:
            seen.append((job.body, job.id, job.headers))

        async with face.together() as start:
            start(pull.run, face.wants("Job", handler))
            receipt = await push.send("x", headers={"a": "b"})
            await push.flush(PATIENCE_S)
            pull.stop()
        assert seen == [("x", receipt.id, {"a": "b"})]


@pytest.mark.parametrize("whole", [False, True])
async def test_run_hands_over_batches(face: Face, whole: bool) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        seen: list[Any] = []

        def handler(batch: Any) -> None:
            seen.append(batch.bodies if whole else batch)

        await push.send_many(range(10))
        async with face.together() as start:
            start(lambda: pull.run(face.wants("Batch", handler) if whole else handler, batch=5, wait=1.0))
            assert await push.flush(PATIENCE_S) == Settled(acked=10)
            pull.stop()
        assert sum(seen, []) == list(range(10))  # noqa: RUF017
        assert max(map(len, seen)) <= 5


async def test_run_with_threads_handles_so_many_at_a_time(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        together = threading.Barrier(3)  # passed only if three handlers run at the same time

        def handler(body: Any) -> None:
            together.wait(PATIENCE_S)

        async with face.together() as start:
            start(lambda: pull.run(handler, threads=3))
            await push.send_many(range(9))
            assert await push.flush(PATIENCE_S) == Settled(acked=9)
            pull.stop()


async def test_run_with_tasks_handles_so_many_at_a_time(async_face: Face) -> None:
    import anyio

    face = async_face
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        inside = 0
        all_in = anyio.Event()

        async def handler(body: Any) -> None:
            nonlocal inside
            inside += 1
            if inside == 4:
                all_in.set()
            await all_in.wait()

        async with face.together() as start:
            start(lambda: pull.run(handler, tasks=4))
            await push.send_many(range(4))
            assert await push.flush(PATIENCE_S) == Settled(acked=4)
            pull.stop()


@pytest.mark.parametrize("threads", [1, 3])
async def test_on_error_raise_ends_run_with_the_error_itself(face: Face, threads: int) -> None:
    async with face.Pusher(LOCAL) as push:
        async with face.Puller(push.addresses[0], on_error="raise") as pull:

            def handler(body: Any) -> None:
                raise ZeroDivisionError(body)

            await push.send("x")
            with pytest.raises(ZeroDivisionError, match="x"):
                await pull.run(handler, threads=threads)
        async with face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["x"]
            await push.flush(PATIENCE_S)


def test_a_handler_that_would_not_be_run_is_refused(face: Face) -> None:
    async def coroutine(body: Any) -> None: ...

    async def async_generator(body: Any) -> Any:
        yield body

    def generator(body: Any) -> Any:
        yield body

    wrong = ["not callable", generator, async_generator, *([coroutine] if face.name == "sync" else [])]

    async def scenario() -> None:
        pull = face.Puller("tcp://127.0.0.1:1")
        for handler in wrong:
            with pytest.raises(UsageError, match=r"Worker|function"):
                await pull.run(handler)
        for bad in ({"threads": 0}, {"batch": 0}, {"batch": 1, "wait": -1.0}):
            with pytest.raises(ValueError, match="or more"):
                await pull.run(lambda body: None, **bad)
        assert pull.stats() == {}, "it was opened"

    face.run(scenario)


async def test_stop_ends_every_loop_and_wakes_who_waits(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        ended: Letterbox[str] = Letterbox(face)

        async def iterate() -> None:
            async for job in pull:
                async with job:
                    pass
            ended.put("for")

        async def iterate_batches() -> None:
            async for batch in pull.batches():
                async with batch:
                    pass
            ended.put("batches")

        async def receive() -> None:
            with pytest.raises(Closed, match="stopped"):
                await pull.receive()
            ended.put("receive")

        async def run() -> None:
            await pull.run(lambda body: None)
            ended.put("run")

        async with face.together() as start:
            for loop in (iterate, iterate_batches, receive, run):
                start(loop)
            await pull.wait_for_peers(1, timeout=PATIENCE_S)
            pull.stop()
            assert sorted([await ended.next() for _ in range(4)]) == ["batches", "for", "receive", "run"]


async def test_a_stopped_puller_still_settles_what_was_taken(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        job = await take(pull)
        pull.stop()
        await job.ack(wait=True)
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_closing_wakes_who_waits_and_a_closed_puller_takes_no_more(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        pull = await face.Puller(push.addresses[0]).open()
        ended: Letterbox[str] = Letterbox(face)

        async def receive() -> None:
            await pull.receive()

        async def iterate() -> None:
            async for _ in pull:
                raise AssertionError("a job")

        async def iterate_batches() -> None:
            async for _ in pull.batches():
                raise AssertionError("a batch")

        async def one(loop: Any) -> None:
            try:
                await loop()
                ended.put("ended")
            except Closed:
                ended.put("refused")

        async with face.together() as start:
            for loop in (receive, iterate, iterate_batches):
                start(one, loop)
            await face.until(lambda: pull._driver.mailbox.waiters == 3, "all three wait")
            await pull.close()
            assert sorted([await ended.next() for _ in range(3)]) == ["ended", "ended", "refused"]
        for loop in (receive, iterate, iterate_batches):
            with pytest.raises(Closed):
                await loop()


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, KeyboardInterrupt])
@pytest.mark.parametrize("batch", [None, 2])
async def test_what_ends_a_program_leaves_run_as_it_is_and_its_jobs_go_back(
    face: Face, error: type[BaseException], batch: int | None
) -> None:
    def handler(body: object) -> None:
        raise error("in a handler")

    async def coroutine(body: object) -> None:
        handler(body)

    async with face.Pusher(LOCAL) as push:
        await push.send_many(range(2))
        for each in (handler, handler if face.name == "sync" else coroutine):
            async with face.Puller(push.addresses[0]) as pull:
                with pytest.raises(error, match="in a handler"):
                    await pull.run(each, batch=batch)
        async with face.Worker(handler, source=push.addresses[0], batch=batch) as worker:
            with pytest.raises(error, match="in a handler"):
                await worker.run()
        async with face.Puller(push.addresses[0]) as pull:
            assert sorted(await handle(pull, 2)) == [0, 1]
            assert await push.flush(PATIENCE_S) == Settled(acked=2)
        assert push.stats()["failed"] == 0


# ---- signals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"),
    [("run_puller", signal.SIGTERM), ("run_puller", signal.SIGINT), ("run_loop", signal.SIGTERM)],
)
async def test_a_signal_ends_a_loop_after_what_it_is_handling(face: Face, name: str, number: signal.Signals) -> None:
    async with face.Pusher(LOCAL) as push:
        await push.send_many([1, 2])
        with program(name, face.name, push.addresses[0]) as running:
            assert running.heard() == ["begins", 1]
            running.signal(number)
            running.tell("go on")
            assert running.heard() == ["ends", 1]
            assert running.heard() == "returned"
            assert running.end() == 0, running.errors
            assert running.errors == ""
        await face.until(lambda: push.stats()["acked"] == 1)
        async with face.Puller(push.addresses[0]) as pull:
            async with await take(pull) as job:
                assert (job.body, job.failures) == (2, 0)
            assert await push.flush(PATIENCE_S) == Settled(acked=2)


async def test_a_signal_ends_a_worker_when_its_outputs_have_settled(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as pull:
        await push.send_many([1, 2])
        with program("run_worker", face.name, push.addresses[0], pull.addresses[0]) as running:
            assert running.heard() == ["begins", 1]
            running.signal(signal.SIGTERM)
            running.tell("go on")
            assert running.heard() == ["ends", 1]
            assert await handle(pull, 1) == [1]
            assert running.heard() == "returned"
            assert running.end() == 0, running.errors
        await face.until(lambda: push.stats()["acked"] == 1)
        async with face.Puller(push.addresses[0]) as rest:
            assert await handle(rest, 1) == [2]
            assert await push.flush(PATIENCE_S) == Settled(acked=2)


async def test_an_idle_loop_ends_at_once_on_a_signal(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with program("run_puller", face.name, push.addresses[0]) as running:
            await push.wait_for_peers(1, timeout=PATIENCE_S)
            running.signal(signal.SIGTERM)
            assert running.heard() == "returned"
            assert running.end() == 0, running.errors


def test_a_child_that_a_handler_forks_is_ended_by_the_first_signal() -> None:
    face = Face("sync")

    async def scenario() -> None:
        async with face.Pusher(LOCAL) as push:
            await push.send("x")
            with program("run_and_fork", push.addresses[0]) as running:
                assert running.heard() == -signal.SIGTERM
                assert await push.flush(PATIENCE_S) == Settled(acked=1)
                running.signal(signal.SIGTERM)
                assert running.end() == 0, running.errors

    face.run(scenario)


# ---- the end without close -----------------------------------------------------------


def test_a_program_that_never_closes_ends_soon_and_names_what_is_lost(face: Face) -> None:
    with program("end_open", face.name, "fall off") as running:
        assert running.heard() == "sent"
        assert running.end() == 0, running.errors
    assert "left open was closed with 1 message not settled, and no journal: what waited is lost" in running.errors


@pytest.mark.parametrize(("kind", "code"), [("exit", 3), ("raise", 1)])
def test_a_program_that_never_closes_keeps_its_exit_code(kind: str, code: int) -> None:
    with program("end_open", "sync", kind) as running:
        assert running.heard() == "sent"
        assert running.end() == code, running.errors
    assert "1 message not settled" in running.errors


def test_a_program_that_never_closes_names_the_journal_that_keeps_the_rest(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with program("end_open", face.name, "fall off", path) as running:
        assert running.heard() == "sent"
        assert running.end() == 0, running.errors
    assert f"1 message not settled. What waits is safe in {path}" in running.errors
    assert "zmqkit journal serve" in running.errors

    async def scenario() -> None:
        async with face.Pusher(LOCAL, journal=path) as push, face.Puller(push.addresses[0]) as pull:
            assert await handle(pull, 1) == ["x"]
            assert await push.flush(PATIENCE_S) == Settled(acked=1)

    face.run(scenario)


async def test_what_was_sent_just_before_the_end_is_still_delivered(face: Face) -> None:
    async with face.Puller(bind=LOCAL) as pull:
        with program("end_served", pull.addresses[0]) as running:
            assert await handle(pull, 100) == list(range(100))
            assert running.end() == 0
        assert running.errors == ""


# ---- forks ---------------------------------------------------------------------------


def test_in_a_forked_child_every_verb_of_what_the_parent_opened_is_refused(face: Face, tmp_path: Path) -> None:
    with program("fork", face.name, tmp_path / "jobs.db") as running:
        said = running.heard()
        assert len(said) == 17
        assert set(said.values()) == {"Forked"}, said
        assert running.heard() == "closed"
        assert running.heard() == 5  # the child's own exit status
        assert running.heard() == 2  # and the parent's work goes on
        assert running.end() == 0, running.errors
    assert running.errors == ""
