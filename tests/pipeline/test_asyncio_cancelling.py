"""asyncio's own cancellation, that of `asyncio.timeout` and `TaskGroup`: no shield of anyio's keeps it off.

What must not be left halfway goes on to its end all the same, and then the cancellation is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S
from zmqkit import aio


@contextlib.asynccontextmanager
async def no_thread_free() -> AsyncIterator[anyio.CapacityLimiter]:
    """Whatever is to run in a worker thread waits until the end of the block."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    before = limiter.total_tokens
    limiter.total_tokens = 1
    await limiter.acquire_on_behalf_of("nobody")
    try:
        yield limiter
    finally:
        limiter.release_on_behalf_of("nobody")
        limiter.total_tokens = before


async def cancelled_while_no_thread_is_free(work: Coroutine[Any, Any, None]) -> None:
    async with no_thread_free() as limiter:
        task = asyncio.create_task(work)
        with anyio.fail_after(PATIENCE_S):
            while not limiter.statistics().tasks_waiting:  # noqa: ASYNC110 - it has no event for that
                await anyio.sleep(0.001)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done(), "it was left halfway"
    with pytest.raises(asyncio.CancelledError):
        await task


def make(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table effects (body)")
    return path


def effects(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return [body for (body,) in db.execute("select body from effects order by body")]


def test_cancelled_during_the_commit_both_are_there_and_the_job_is_acked(tmp_path: Path) -> None:
    async def main() -> None:
        inbox = make(tmp_path / "state.db")
        jobs: list[aio.Job[Any]] = []
        async with aio.Pusher(LOCAL) as push, aio.Puller(push.addresses[0], inbox=inbox) as pull:
            await push.send("a")
            loop = asyncio.get_running_loop()

            async def cancel(task: asyncio.Task[None]) -> None:
                task.cancel()
                for _ in range(10):  # it has noticed
                    await asyncio.sleep(0)

            async def work() -> None:
                async with await pull.receive() as job:
                    jobs.append(job)
                    async with job.transaction() as db:
                        db.execute("insert into effects values (?)", (job.body,))
                        db.set_trace_callback(on_commit)

            def on_commit(statement: str) -> None:
                if statement.lower() == "commit":  # in the worker thread, just before it is executed
                    asyncio.run_coroutine_threadsafe(cancel(task), loop).result(PATIENCE_S)

            task = asyncio.create_task(work())
            with pytest.raises(asyncio.CancelledError):
                await task
            assert jobs[0].outcome == "acked"
            assert (await push.flush(PATIENCE_S)).acked == 1
        assert effects(inbox) == ["a"]

    asyncio.run(main())


def test_cancelled_before_the_commit_has_a_thread_the_job_is_acked_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        inbox = make(tmp_path / "state.db")
        async with aio.Pusher(LOCAL) as push, aio.Puller(push.addresses[0], inbox=inbox) as pull:
            await push.send("a")

            async def work() -> None:
                async with await pull.receive() as job, job.transaction() as db:
                    db.execute("insert into effects values (?)", (job.body,))

            await cancelled_while_no_thread_is_free(work())
            assert (await push.flush(PATIENCE_S)).acked == 1
        assert effects(inbox) == ["a"]

    asyncio.run(main())


def test_cancelled_while_an_outbox_commits_rows_and_message_are_there(tmp_path: Path) -> None:
    async def main() -> None:
        shop = make(tmp_path / "shop.db")
        async with aio.Pusher(LOCAL, journal=tmp_path / "j.db") as push, aio.Puller(push.addresses[0]) as pull:

            async def work() -> None:
                async with push.transaction(shop) as outbox:
                    outbox.connection.execute("insert into effects values ('a')")
                    outbox.send("a")

            await cancelled_while_no_thread_is_free(work())
            assert effects(shop) == ["a"]
            async with await pull.receive() as job:
                assert job.body == "a"

    asyncio.run(main())


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_letters_that_were_claimed_when_their_sorting_is_cancelled_are_dealt_with(tmp_path: Path, verb: str) -> None:
    async def main() -> None:
        async with aio.Pusher(LOCAL, journal=tmp_path / "j.db") as push, aio.Puller(push.addresses[0]) as pull:
            await push.send_many(range(3))
            for _ in range(3):
                await (await pull.receive()).reject("no")
            await push.flush(PATIENCE_S)
            letters = push.dead_letters()
            task = asyncio.create_task(getattr(letters, verb)())
            waited, real = 0, push._wait

            async def wait(ticket: Any, timeout: float | None) -> Any:
                nonlocal waited
                waited += 1
                if waited == 2:  # for what it claims; before, it read a page
                    task.cancel()
                return await real(ticket, timeout)

            push._wait = wait  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await task
            assert waited >= 2
            push._wait = real  # type: ignore[method-assign]
            await letters.drop()
            assert len(letters) == 0, "some are in nobody's hands"
            if verb == "retry":
                for _ in range(3):
                    async with await pull.receive():
                        pass

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["pusher", "worker"])
def test_a_close_that_is_cancelled_closes(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        journal = tmp_path / "j.db"
        push = await aio.Pusher(LOCAL, journal=journal, linger=0).open()
        closing: aio.Pusher | aio.Worker = push
        async with aio.Pusher(LOCAL) as source:
            if kind == "worker":
                closing = aio.Worker(str, source=source.addresses[0], sink=push)
                await closing.open()
            await cancelled_while_no_thread_is_free(closing.close())
        async with aio.Pusher(LOCAL, journal=journal):  # not JournalBusy
            pass

    asyncio.run(main())
