"""The mailbox: nothing is lost or doubled, whoever waits and however they are woken, cancelled or stopped."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Callable

import anyio
import pytest

from tests.transport.raw import PATIENCE_S, driver, raw, until
from zmqkit.errors import Closed
from zmqkit.transport.mailbox import Mailbox

LOOPS = ["asyncio", "trio"]


def once_somebody_waits(mailbox: Mailbox[int], act: Callable[..., object], *args: object) -> threading.Thread:
    def work() -> None:
        until(lambda: mailbox._waiters)
        act(*args)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_items_come_in_order_and_what_is_given_back_comes_first() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert mailbox.take() is None
    assert mailbox.take_many(3) == []
    mailbox.put_many([1, 2, 3, 4, 5])
    assert len(mailbox) == 5
    assert mailbox.take() == 1
    assert mailbox.take_many(2) == [2, 3]
    mailbox.put_back([2, 3])
    mailbox.put_back([1])
    assert len(mailbox) == 5
    assert [mailbox.take_many(9), mailbox.take_many(9)] == [[1, 2, 3], [4, 5]]
    assert len(mailbox) == 0


def test_the_first_item_can_be_looked_at_and_left() -> None:
    mailbox: Mailbox[int] = Mailbox()
    with mailbox.lock:
        assert mailbox.peek() is None
        assert mailbox.pop() is None
    mailbox.put_many([1, 2])
    with mailbox.lock:
        assert mailbox.peek() == 1
        assert mailbox.pop() == 1
        assert mailbox.peek() == 2


def test_a_wait_ends_with_an_item_or_in_time() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for timeout in (0, -1, 0.01):
        assert not mailbox.wait_nonempty(timeout)
    assert not mailbox._waiters
    thread = once_somebody_waits(mailbox, mailbox.put_many, [1])
    assert mailbox.wait_nonempty(PATIENCE_S)
    thread.join()
    assert mailbox.wait_nonempty(0)
    assert mailbox.take() == 1


class Late(Mailbox[int]):
    """An item comes just after somebody's first look, hence before that one has entered itself."""

    def _idle(self) -> bool:
        answer = super()._idle()
        if not len(self):
            self.put_many([1])
        return answer


def test_no_item_is_missed_that_comes_while_somebody_begins_to_wait() -> None:
    assert Late().wait_nonempty()

    async def main() -> None:
        with anyio.fail_after(PATIENCE_S):
            assert await Late().wait_nonempty_async()

    for loop in LOOPS:
        anyio.run(main, backend=loop)


def test_as_many_are_woken_as_there_are_items() -> None:
    mailbox: Mailbox[int] = Mailbox()
    got: list[int | None] = []

    def work() -> None:
        mailbox.wait_nonempty(PATIENCE_S)
        got.append(mailbox.take())

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: len(mailbox._waiters) == 5)
    mailbox.put_many([1, 2])
    until(lambda: len(got) == 2)
    assert len(mailbox._waiters) == 3
    mailbox.put_many([3, 4, 5, 6])
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(n for n in got if n) == [1, 2, 3, 4, 5]
    assert mailbox.take() == 6


def test_close_and_stop_wake_everybody() -> None:
    boxes: list[Mailbox[int]] = [Mailbox(), Mailbox()]
    for mailbox, end in zip(boxes, ("close", "stop"), strict=True):
        threads = [threading.Thread(target=mailbox.wait_nonempty, args=(PATIENCE_S,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(mailbox._waiters) == 4)  # noqa: B023 - called at once
        getattr(mailbox, end)()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert not mailbox.wait_nonempty()


def test_a_stopped_mailbox_is_not_closed_and_can_go_on() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.stop()
    mailbox.put_many([1])
    assert mailbox.stopped
    assert not mailbox.closed
    assert mailbox.wait_nonempty()
    assert mailbox.take() == 1
    assert not mailbox.wait_nonempty()
    mailbox.resume()
    assert not mailbox.wait_nonempty(0.01)


def test_what_is_in_a_closed_mailbox_can_be_taken() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put_many([1])
    error = Closed("over")
    mailbox.close(error)
    mailbox.close(Closed("again"))
    assert mailbox.failure is error
    assert mailbox.wait_nonempty()
    assert mailbox.take() == 1
    assert not mailbox.wait_nonempty()


def test_a_signal_handler_may_stop_a_mailbox_that_its_own_thread_is_in() -> None:
    mailbox: Mailbox[int] = Mailbox()
    with mailbox.lock:
        mailbox.stop()
        mailbox.nudge()
    assert mailbox.stopped


def test_many_threads_take_each_item_once() -> None:
    mailbox: Mailbox[int] = Mailbox()
    got: list[list[int]] = [[] for _ in range(4)]

    def work(mine: list[int], limit: int) -> None:
        while mailbox.wait_nonempty(PATIENCE_S) or not mailbox.closed:
            if limit == 1:
                item = mailbox.take()
                mine += [] if item is None else [item]
            else:
                mine += mailbox.take_many(limit)

    threads = [threading.Thread(target=work, args=(mine, 1 + 2 * (n % 2))) for n, mine in enumerate(got)]
    for thread in threads:
        thread.start()
    for n in range(0, 20_000, 10):
        mailbox.put_many(list(range(n, n + 10)))
    mailbox.close()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    for mine in got:
        assert mine == sorted(mine)
    assert sorted(itertools.chain(*got)) == list(range(20_000))


# ---- on a loop ---------------------------------------------------------------------


async def next_item(mailbox: Mailbox[int]) -> int:
    """What a face's receive does."""
    while True:
        item = mailbox.take()
        if item is not None:
            return item
        await mailbox.wait_nonempty_async()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_waits_for_an_item_or_in_time(loop: str) -> None:
    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox()
        for timeout in (0, 0.01):
            assert not await mailbox.wait_nonempty_async(timeout)
        assert not mailbox._waiters
        thread = once_somebody_waits(mailbox, mailbox.put_many, [7])
        assert await next_item(mailbox) == 7
        thread.join()
        thread = once_somebody_waits(mailbox, mailbox.stop)
        assert not await mailbox.wait_nonempty_async()
        thread.join()

    anyio.run(main, backend=loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tasks", [1, 8])
def test_a_cancel_storm_loses_no_item(loop: str, tasks: int) -> None:
    """The receive is cancelled thousands of times, at every distance from the arrival of an item."""

    async def main() -> None:
        drawn = random.Random(1)
        cancels = fed = 0
        feeding = True
        got: list[int] = []
        with driver() as io:
            mailbox: Mailbox[int] = io.mailbox

            async def work() -> None:
                nonlocal cancels
                while feeding or len(got) < fed:
                    with anyio.move_on_after(drawn.choice((0, 0.00005, 0.0002, 0.001))):
                        got.append(await next_item(mailbox))
                        continue
                    cancels += 1

            async def feed() -> None:
                nonlocal fed, feeding
                while cancels < 1000 or fed < 2000:
                    io.post(raw(io).give, list(range(fed, fed + 5)))
                    fed += 5
                    await anyio.sleep(drawn.choice((0, 0, 0.0003, 0.001)))
                feeding = False

            with anyio.fail_after(2 * PATIENCE_S):
                async with anyio.create_task_group() as group:
                    group.start_soon(feed)
                    for _ in range(tasks):
                        group.start_soon(work)
            assert sorted(got) == list(range(fed))
            if tasks == 1:
                assert got == sorted(got)
            assert not mailbox._waiters

    anyio.run(main, backend=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_was_woken_and_cancelled_passes_the_hint_on(loop: str) -> None:
    """One item, two tasks; the first is woken for it and cancelled before it runs."""

    async def main() -> None:
        mailbox: Mailbox[int] = Mailbox()
        got: list[int] = []

        async def work(scope: anyio.CancelScope) -> None:
            with scope:
                got.append(await next_item(mailbox))

        first, second = anyio.CancelScope(), anyio.CancelScope()
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(work, first)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(work, second)
                await anyio.wait_all_tasks_blocked()
                assert len(mailbox._waiters) == 2
                # From another thread: the loop hears of it after it has cancelled.
                putter = threading.Thread(target=mailbox.put_many, args=([1],))
                putter.start()
                putter.join()
                first.cancel()
        assert got == [1]

    anyio.run(main, backend=loop)


def test_a_task_of_a_closed_loop_passes_its_hint_to_a_thread() -> None:
    mailbox: Mailbox[int] = Mailbox()
    loop = asyncio.new_event_loop()
    task = loop.create_task(mailbox.wait_nonempty_async())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # destroyed on purpose
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(mailbox.wait_nonempty(PATIENCE_S)))
    thread.start()
    until(lambda: len(mailbox._waiters) == 2)
    mailbox.put_many([1])
    thread.join(PATIENCE_S)
    assert got == [True]
