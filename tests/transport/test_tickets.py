"""Tickets: one result, waited for by threads, asyncio tasks and trio tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from tests.transport.raw import PATIENCE_S, driver, raw, until
from zmqkit.errors import Closed
from zmqkit.transport import waiters
from zmqkit.transport.tickets import Desk, Ticket, WaitExpired, wait, wait_async

LOOPS = ["asyncio", "trio"]


def in_thread(fn, *args):
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    return thread


def test_the_first_result_counts() -> None:
    ticket = Ticket()
    assert not ticket.done
    with pytest.raises(WaitExpired):
        ticket.result()
    assert ticket.resolve(None)
    assert not ticket.resolve("late")
    assert ticket.done
    assert ticket.result() is None
    assert wait(ticket) is None


def test_an_exception_is_raised_by_everyone_who_waits() -> None:
    ticket = Ticket()
    ticket.resolve(KeyError("why"))
    for _ in range(2):
        with pytest.raises(KeyError, match="why"):
            wait(ticket)


def test_an_exception_is_freed_with_its_ticket() -> None:
    class Planted(Exception):
        pass

    ticket = Ticket()
    error = Planted()
    gone = weakref.ref(error)
    ticket.resolve(error)
    del error
    with contextlib.suppress(Planted):
        wait(ticket)
    gc.disable()
    try:
        del ticket
        assert gone() is None
    finally:
        gc.enable()


def test_a_wait_that_expires_leaves_the_ticket_intact() -> None:
    ticket = Ticket(Desk())
    for timeout in (0, -1, 0.01):
        with pytest.raises(WaitExpired):
            wait(ticket, timeout)
    assert not ticket._waiters
    assert not ticket._desk.waiting
    ticket.resolve(1)
    assert wait(ticket, 0) == 1
    assert issubclass(WaitExpired, TimeoutError)


def test_threads_waiting_for_one_ticket_are_all_woken() -> None:
    ticket = Ticket(Desk())
    got: list[object] = []
    threads = [in_thread(lambda: got.append(wait(ticket, PATIENCE_S))) for _ in range(5)]
    until(lambda: len(ticket._waiters) == 5)
    ticket.resolve("x")
    for thread in threads:
        thread.join(PATIENCE_S)
    assert got == ["x"] * 5
    until(lambda: not ticket._waiters)


class Late(Ticket):
    """Its result comes just after somebody's first look, hence before that one has entered itself."""

    __slots__ = ()

    @property
    def done(self) -> bool:
        answer = super().done
        self.resolve("late")
        return answer


def test_no_result_is_missed_that_comes_while_a_thread_begins_to_wait() -> None:
    # Without a timeout: a wait that missed its result would find it when its time is out. pytest's own bounds it.
    assert wait(Late(Desk())) == "late"


@pytest.mark.parametrize("loop", LOOPS)
def test_no_result_is_missed_that_comes_while_a_task_begins_to_wait(loop: str) -> None:
    async def main() -> None:
        with anyio.fail_after(PATIENCE_S):
            assert await wait_async(Late(Desk())) == "late"

    anyio.run(main, backend=loop)


class Straggler(deque[Any]):
    """The queue of a port: just after it was seen empty, one more waiter is woken."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act: Callable[[], object] | None = act

    def __len__(self) -> int:
        length = super().__len__()
        if not length and self._act is not None:
            act, self._act = self._act, None
            act()
        return length


@pytest.mark.parametrize("loop", LOOPS)
def test_no_task_is_missed_that_is_woken_while_its_loop_finishes_waking_others(loop: str) -> None:
    async def main() -> None:
        first, second = waiters.async_waiter(), waiters.async_waiter()
        # By other threads: in its own, asyncio needs no queue.
        first._port._ready = Straggler(lambda: in_thread(second.wake).join())  # type: ignore[attr-defined]
        in_thread(first.wake).join()
        with anyio.fail_after(PATIENCE_S):
            assert await first.wait(None)
            assert await second.wait(None)

    anyio.run(main, backend=loop)


def test_the_end_of_the_desk_is_told_to_who_waits_now_or_later() -> None:
    desk = Desk()
    pending, resolved = desk.ticket(), desk.ticket()
    resolved.resolve(1)
    errors: list[BaseException] = []

    def waits() -> None:
        try:
            wait(pending, PATIENCE_S)
        except Closed as error:
            errors.append(error)

    thread = in_thread(waits)
    until(lambda: desk.waiting)
    desk.end(Closed("over"))
    desk.end(Closed("too late"))
    thread.join(PATIENCE_S)
    assert [str(error) for error in errors] == ["over"]
    assert pending.done
    with pytest.raises(Closed, match="over"):
        wait(pending)
    assert wait(resolved) == 1


# ---- on a loop ---------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_tasks_wait_for_results_of_the_io_thread(loop: str) -> None:
    async def main() -> None:
        with driver() as io:
            got: dict[int, object] = {}

            async def one(n: int) -> None:
                ticket = io.ticket()
                io.submit(raw(io).answer, ticket, n if n % 10 else ValueError(n))
                try:
                    got[n] = await io.wait_async(ticket, PATIENCE_S)
                except ValueError:
                    got[n] = "raised"

            async with anyio.create_task_group() as tasks:
                for n in range(200):
                    tasks.start_soon(one, n)
            assert got == {n: n if n % 10 else "raised" for n in range(200)}

    anyio.run(main, backend=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_is_cancelled_or_out_of_time_leaves_the_ticket_intact(loop: str) -> None:
    async def main() -> None:
        ticket = Ticket(Desk())
        for timeout in (0, 0.01):
            with pytest.raises(WaitExpired):
                await wait_async(ticket, timeout)
        with anyio.move_on_after(0.01) as scope:
            await wait_async(ticket)
        assert scope.cancelled_caught
        assert not ticket._waiters
        resolver = in_thread(ticket.resolve, "still here")
        assert await wait_async(ticket, PATIENCE_S) == "still here"
        resolver.join()

    anyio.run(main, backend=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancel_storm_loses_no_result(loop: str) -> None:
    async def main() -> None:
        cancelled = 0
        with driver() as io:
            got: list[object] = []

            async def one(n: int) -> None:
                nonlocal cancelled
                ticket = io.ticket()
                io.submit(raw(io).answer, ticket, n)
                pause = 0.00002 * (n % 40)
                while True:
                    with anyio.move_on_after(pause):
                        got.append(await io.wait_async(ticket, PATIENCE_S))
                        return
                    cancelled += 1
                    pause *= 1.5
                    pause += 0.00001

            for start in range(0, 1000, 50):
                async with anyio.create_task_group() as tasks:
                    for n in range(start, start + 50):
                        tasks.start_soon(one, n)
            assert sorted(got) == list(range(1000))  # type: ignore[type-var]
        assert cancelled > 50

    anyio.run(main, backend=loop)


def test_a_burst_of_results_is_one_call_into_an_asyncio_loop() -> None:
    class Counting(asyncio.SelectorEventLoop):
        calls = 0

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # it only counts
            self.calls += 1
            return super().call_soon_threadsafe(*args, **kwargs)

    async def main() -> int:
        tickets = [Ticket() for _ in range(100)]
        waiting = [asyncio.ensure_future(wait_async(ticket)) for ticket in tickets]
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        before = loop.calls
        # The loop stands still meanwhile, as it would when it is busy.
        thread = in_thread(lambda: [ticket.resolve(n) for n, ticket in enumerate(tickets)])
        thread.join()
        calls = loop.calls - before
        assert await asyncio.gather(*waiting) == list(range(100))
        return calls

    with asyncio.Runner(loop_factory=Counting) as runner:
        assert runner.run(main()) == 1


def test_a_burst_of_results_wakes_every_task_of_a_trio_run() -> None:
    async def main() -> None:
        tickets = [Ticket() for _ in range(100)]
        got = []

        async def one(ticket: Ticket) -> None:
            got.append(await wait_async(ticket))

        async with trio.open_nursery() as nursery:
            for ticket in tickets:
                nursery.start_soon(one, ticket)
            await trio.testing.wait_all_tasks_blocked()
            thread = in_thread(lambda: [ticket.resolve(n) for n, ticket in enumerate(tickets)])
            thread.join()
        assert sorted(got) == list(range(100))

    trio.run(main)


def test_a_loop_that_is_closed_meanwhile_is_survived() -> None:
    ticket, other = Ticket(), Ticket()
    loop = asyncio.new_event_loop()
    task = loop.create_task(wait_async(ticket))
    second = loop.create_task(wait_async(other))
    loop.run_until_complete(asyncio.sleep(0))
    kept = list(ticket._waiters)
    assert [waiter.wake() for waiter in kept] == [True]
    loop.close()
    assert [waiter.wake() for waiter in kept] == [False]
    ticket.resolve(1)
    other.resolve(2)
    assert wait(ticket) == 1
    for left in (task, second):
        left._log_destroy_pending = False  # type: ignore[attr-defined]  # destroyed on purpose


def test_a_trio_run_that_is_over_is_survived() -> None:
    kept = []

    async def main() -> None:
        kept.append(waiters.async_waiter())

    trio.run(main)
    assert [waiter.wake() for waiter in kept] == [False]


def test_one_thread_may_run_one_loop_after_the_other() -> None:
    for backend in LOOPS * 3:
        ticket = Ticket()

        async def main(ticket: Ticket = ticket) -> None:
            thread = in_thread(ticket.resolve, "x")
            assert await wait_async(ticket, PATIENCE_S) == "x"
            thread.join()
            await waiters.checkpoint()

        anyio.run(main, backend=backend)


def test_loops_in_several_threads_wait_for_one_ticket() -> None:
    ticket = Ticket()
    got: list[object] = []

    async def main() -> None:
        got.append(await wait_async(ticket, PATIENCE_S))

    threads = [in_thread(lambda loop=loop: anyio.run(main, backend=loop)) for loop in LOOPS * 2]
    until(lambda: len(ticket._waiters) == 4)
    ticket.resolve("x")
    for thread in threads:
        thread.join(PATIENCE_S)
    assert got == ["x"] * 4


def test_ports_of_dead_loops_are_freed() -> None:
    async def main() -> None:
        with pytest.raises(WaitExpired):
            await wait_async(Ticket(), 0)

    before = len(waiters._asyncio_ports)
    for _ in range(5):
        asyncio.run(main())
    gc.collect()
    assert len(waiters._asyncio_ports) <= before
