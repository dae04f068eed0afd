"""run(): handlers in processes, in executors, and under a time limit; and how fast jobs are taken."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline import elsewhere
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, Letterbox, handle, listen
from zmqkit import Backoff, Reject, Retry, Settled, UsageError
from zmqkit.events import JobFailed
from zmqkit.patterns.pipeline import pace as paces
from zmqkit.patterns.pipeline.children import Child
from zmqkit.peer.importable import importable

AT_ONCE = Backoff(first=0.001, cap=0.001)


def noted(file: Path) -> list[tuple[int, int]]:
    """(process, number) of all that the handler wrote down."""
    return [(int(pid), int(n)) for pid, n in map(str.split, file.read_text().splitlines())]


async def test_handlers_run_in_processes(face: Face, tmp_path: Path) -> None:
    file = tmp_path / "noted"
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        async with face.together() as start:
            start(lambda: pull.run(elsewhere.note, processes=2))
            await push.send_many({"file": str(file), "n": n} for n in range(20))
            assert await push.flush(PATIENCE_S) == Settled(acked=20)
            pull.stop()
        assert sorted(n for _, n in noted(file)) == list(range(20))
        assert os.getpid() not in {pid for pid, _ in noted(file)}


async def test_batches_run_in_processes(face: Face, tmp_path: Path) -> None:
    file = tmp_path / "noted"
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send_many({"file": str(file), "n": n} for n in range(10))
        async with face.together() as start:
            start(lambda: pull.run(elsewhere.note_many, processes=1, batch=5, wait=1.0))
            assert await push.flush(PATIENCE_S) == Settled(acked=10)
            pull.stop()
        assert [n for _, n in noted(file)] == list(range(10))


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """A process for the handler `note`."""
    made = Child(importable(elsewhere.note, "note"), None)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("what", "kind", "told"),
    [
        ("raise", LookupError, "not here"),
        ("awkward", RuntimeError, "Awkward: this and that"),
        ("exit", RuntimeError, "SystemExit: 3"),
        ("reject", Reject, "never"),
        ("retry once", Retry, "again"),
    ],
)
def test_what_a_handler_raises_in_a_process_is_raised_here_with_its_traceback(
    child: Child, tmp_path: Path, what: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told) as raised:
        child({"file": str(tmp_path / "noted"), "n": 1, "do": what})
    assert "elsewhere.py" in str(raised.value.__cause__)
    if isinstance(raised.value, Retry):
        assert raised.value.delay == 0
    assert child({"file": str(tmp_path / "noted"), "n": 2}) is None  # it goes on


def test_what_cannot_travel_back_from_a_process_is_a_failure_that_says_so() -> None:
    made = Child(importable(elsewhere.unpickled, "unpickled"), None)
    try:
        with pytest.raises(Exception, match="pickle"):
            made(1)
    finally:
        made.close()


async def test_a_process_that_dies_over_a_job_fails_that_job_and_is_replaced(face: Face, tmp_path: Path) -> None:
    file = tmp_path / "noted"
    async with face.Pusher(LOCAL, max_failures=1) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        async with face.together() as start:
            start(lambda: pull.run(elsewhere.note, processes=1))
            for n, what in enumerate(("", "die", "")):
                await push.send({"file": str(file), "n": n, "do": what})
            assert await push.flush(PATIENCE_S) == Settled(acked=2, dead=1)
            pull.stop()
        assert "SIGKILL" in (await failed.next()).reason
        first, second = {pid for pid, n in noted(file) if n < 2}, {pid for pid, n in noted(file) if n == 2}
        assert len(first) == 1
        assert first != second


async def test_a_process_that_takes_too_long_is_killed(face: Face, tmp_path: Path) -> None:
    file = tmp_path / "noted"
    async with face.Pusher(LOCAL, max_failures=1) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        async with face.together() as start:
            start(lambda: pull.run(elsewhere.note, processes=1, time_limit=0.2))
            await push.send({"file": str(file), "n": 1, "do": "hang"})
            assert await push.flush(PATIENCE_S) == Settled(dead=1)
            pull.stop()
        assert "time_limit=0.2" in (await failed.next()).reason
        ((pid, _),) = noted(file)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_thread_that_takes_too_long_is_left_alone(face: Face) -> None:
    go = threading.Event()
    done: Letterbox[Any] = Letterbox(face)

    def handler(body: Any) -> None:
        if body == "slow":
            go.wait(PATIENCE_S)
        done.put(body)

    async with face.Pusher(LOCAL, max_failures=1) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        try:
            async with face.together() as start:
                start(lambda: pull.run(handler, time_limit=0.2))
                await push.send_many(["slow", "quick"])
                assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=1)
                pull.stop()
            assert "time_limit=0.2" in (await failed.next()).reason
            assert done.all == ["quick"]
        finally:
            go.set()
        assert [await done.next(), await done.next()] == ["quick", "slow"]


async def test_handlers_run_in_an_executor_which_stays_open(face: Face) -> None:
    seen: list[str] = []
    together = threading.Barrier(2)

    def handler(body: Any) -> None:
        together.wait(PATIENCE_S)
        seen.append(threading.current_thread().name)

    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="users") as executor:
        async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull, face.together() as start:
            start(lambda: pull.run(handler, executor=executor, threads=2))
            await push.send_many(range(4))
            assert await push.flush(PATIENCE_S) == Settled(acked=4)
            pull.stop()
        assert executor.submit(int).result(PATIENCE_S) == 0
    assert len(seen) == 4
    assert all(name.startswith("users") for name in seen)


async def test_an_executor_that_is_shut_down_ends_the_loop_and_fails_no_job(face: Face) -> None:
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await push.send("kept")
        with pytest.raises(UsageError, match="executor takes no more work"):
            await pull.run(print, executor=executor)
        async with face.Puller(push.addresses[0]) as other:
            await pull.close()
            job = await other.receive(PATIENCE_S)
            assert job.failures == 0
            await job.ack()
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


async def test_workers_run_in_processes_and_send_on_what_comes_of_it(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as sink:
        worker = face.Worker(elsewhere.triple, source=push.addresses[0], sink=sink.addresses[0], processes=2)
        async with face.together() as start:
            start(worker.run)
            await push.send(10)
            assert await handle(sink, 3) == [10, 11, 12]
            assert await push.flush(PATIENCE_S) == Settled(acked=1)
            worker.stop()


async def test_a_worker_ends_a_handler_that_takes_too_long(face: Face) -> None:
    go = threading.Event()

    def handler(body: Any) -> Any:
        yield body
        go.wait(PATIENCE_S)

    async with face.Pusher(LOCAL, max_failures=1) as push, face.Puller(bind=LOCAL) as sink:
        worker = face.Worker(handler, source=push.addresses[0], sink=sink.addresses[0], time_limit=0.2)
        try:
            async with face.together() as start:
                start(worker.run)
                await push.send("x")
                assert await push.flush(PATIENCE_S) == Settled(dead=1)
                worker.stop()
        finally:
            go.set()


async def test_a_coroutine_that_takes_too_long_is_cancelled(face: Face) -> None:
    if face.name == "sync":
        return
    import anyio

    cancelled: list[bool] = []

    async def handler(body: Any) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            cancelled.append(True)

    async with face.Pusher(LOCAL, max_failures=1) as push, face.Puller(push.addresses[0]) as pull:
        failed = listen(face, push, JobFailed)
        async with face.together() as start:
            start(lambda: pull.run(handler, time_limit=0.1))
            await push.send("x")
            assert await push.flush(PATIENCE_S) == Settled(dead=1)
            pull.stop()
        assert "was cancelled" in (await failed.next()).reason
        assert cancelled == [True]


async def test_a_handler_that_no_process_can_find_is_refused_at_once(face: Face) -> None:
    def local(body: Any) -> None: ...

    def whole(job: Any) -> None: ...

    async def coroutine(body: Any) -> None: ...

    async with face.Puller("tcp://127.0.0.1:9") as pull:
        with pytest.raises(UsageError, match="top of a module"):
            await pull.run(local, processes=1)
        with pytest.raises(UsageError, match="Job belongs to this process"):
            await pull.run(face.wants("Job", whole), processes=1)
        with pytest.raises(UsageError, match="two places"):
            await pull.run(elsewhere.note, processes=1, executor=concurrent.futures.ThreadPoolExecutor(1))
        with pytest.raises(UsageError, match="leave threads= out"):
            await pull.run(elsewhere.note, processes=2, threads=2)
        if face.name != "sync":
            with pytest.raises(UsageError, match="event loop only"):
                await pull.run(coroutine, processes=1)
    with pytest.raises(UsageError, match="top of a module"):
        face.Worker(local, source="tcp://127.0.0.1:9", processes=1)
    with pytest.raises(UsageError, match="leave threads= out"):
        face.Worker(elsewhere.note, source="tcp://127.0.0.1:9", processes=2, threads=2)


def test_a_program_that_does_not_start_under_main_is_told_at_once_and_fails_no_job(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, zmqkit\n"
        "def note(body): ...\n"
        "with zmqkit.Puller(sys.argv[1]) as pull:\n"
        "    pull.run(note, processes=1)\n"
    )
    with zmqkit.Pusher(LOCAL, linger=0, journal=tmp_path / "jobs.db") as push:
        push.send_many(["a", "b"])
        ended = subprocess.run(
            [sys.executable, program, push.addresses[0]],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.count('what starts it belongs under if __name__ == "__main__":') == 1, "the other process"
        assert "NotTried" in ended.stderr
        assert push.stats()["failed"] == 0
        with pytest.warns(RuntimeWarning, match="2 messages"):
            push.close()


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"processes": -1}, ValueError),
        ({"processes": True}, ValueError),
        ({"processes": 10**9}, ValueError),
        ({"executor": 1}, TypeError),
        ({"time_limit": 0}, ValueError),
        ({"time_limit": -1.0}, ValueError),
        ({"time_limit": "1"}, TypeError),
        ({"time_limit": float("nan")}, ValueError),
        ({"time_limit": float("inf")}, ValueError),
    ],
)
async def test_what_run_does_not_take_is_refused_by_name(
    face: Face, keywords: dict[str, Any], error: type[Exception]
) -> None:
    async with face.Puller("tcp://127.0.0.1:9") as pull:
        with pytest.raises(error, match=next(iter(keywords))):
            await pull.run(elsewhere.note, **keywords)


# ---- how fast ----------------------------------------------------------------------


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_turns_come_evenly_and_pauses_are_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(paces, "time", clock)
    pace = paces.Pace(10.0)
    assert [pace.reserve() for _ in range(3)] == pytest.approx([100.0, 100.1, 100.2])
    clock.now = 200.0
    assert [pace.reserve() for _ in range(2)] == pytest.approx([200.0, 200.1])
    pace.give_back()
    assert pace.reserve() == pytest.approx(200.1)
    pace.more(9)
    assert pace.reserve() == pytest.approx(201.1)


def test_a_turn_that_comes_too_late_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(paces, "time", clock)
    pace = paces.Pace(1.0)
    assert pace.pause(pace.reserve(), None) == 0.0
    turn = pace.reserve()
    assert pace.pause(turn, None) == paces.LOOK
    assert pace.pause(turn, 100.05) == pytest.approx(0.05)
    clock.now = 100.06
    assert pace.pause(turn, 100.05) is None
    assert pace.reserve() == pytest.approx(101.0)


async def test_a_rate_holds_jobs_back_and_loses_none(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], rate=0.001) as pull:
        await push.send_many(range(3))
        async with await pull.receive(PATIENCE_S) as job:
            assert job.body == 0
        assert await pull.receive(0.05) is None  # its turn comes in a quarter of an hour
        pull.stop()
        assert [job.body async for job in pull] == []
        await pull.close()
        async with face.Puller(push.addresses[0]) as other:
            assert await handle(other, 2) == [1, 2]


async def test_a_quick_rate_hands_out_all_by_each_way(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], rate=10_000) as pull:
        await push.send_many(range(12))
        bodies = await handle(pull, 3)
        async for job in pull:
            async with job:
                bodies.append(job.body)
            if len(bodies) == 6:
                break
        async for batch in pull.batches(3):
            async with batch:
                bodies += batch.bodies
            if len(bodies) >= 12:
                break
        assert bodies == list(range(12))
        assert await push.flush(PATIENCE_S) == Settled(acked=12)


@pytest.mark.parametrize(("rate", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)])
async def test_what_is_no_rate_is_refused(face: Face, rate: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="rate"):
        face.Puller("tcp://127.0.0.1:9", rate=rate)
    assert zmqkit.Puller("tcp://127.0.0.1:9", rate=None).closed is False
