"""What only the shared pump promises: who leads, who is woken, and what the housekeeper does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator

import anyio
import pytest
import trio

from tests.transport.raw import ANSWER, ASK, PATIENCE_S, Heard, RawCore, Up, raw, take_until, until
from zmqkit.errors import UsageError
from zmqkit.transport import shared
from zmqkit.transport.housekeeper import TICKING
from zmqkit.transport.shared import NOBODY, SharedPump
from zmqkit.transport.tickets import WaitExpired
from zmqkit.transport.waiters import ThreadWaiter


@pytest.fixture
def bound() -> Iterator[SharedPump]:
    """A driver that answers."""
    made = SharedPump(RawCore(), name="bound", binds=["tcp://127.0.0.1:0"])
    made.start()
    yield made
    made.close(0)


@pytest.fixture
def dialled(bound: SharedPump) -> Iterator[SharedPump]:
    """A driver that is connected to the other."""
    made = SharedPump(RawCore(), name="dialled", connects=bound.addresses)
    made.start()
    take_until(made, Up)
    yield made
    made.close(0)


def ask(io: SharedPump, bound: SharedPump, body: bytes) -> list[bytes]:
    io.submit(raw(io).say, ("c", bound.addresses[0]), [ASK, body], None)
    heard: list[bytes] = take_until(io, Heard).frames
    return heard


@pytest.mark.parametrize("rounds", [1, 2, shared.ROUNDS_A_TURN])
def test_a_peer_answers_though_nobody_waits(
    rounds: int, bound: SharedPump, dialled: SharedPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However soon a turn stops looking for more: what it has taken is answered.
    monkeypatch.setattr(shared, "ROUNDS_A_TURN", rounds)
    for n in range(100):
        assert ask(dialled, bound, b"%d" % n) == [ANSWER, b"%d" % n]
    assert bound.polls == 0


def test_after_a_wait_nobody_leads_and_after_a_while_the_housekeeper_sleeps(
    bound: SharedPump, dialled: SharedPump
) -> None:
    ask(dialled, bound, b"1")
    assert dialled.leader <= NOBODY
    for io in (bound, dialled):
        until(lambda io=io: io.keeper.depth != TICKING)  # type: ignore[misc]
    begun, turns = time.process_time(), dialled.stats()["io_turns"]
    ThreadWaiter().wait(0.3)
    assert dialled.stats()["io_turns"] == turns
    assert time.process_time() - begun < 0.1
    assert ask(dialled, bound, b"2") == [ANSWER, b"2"]


def test_what_is_posted_is_run_though_nobody_waits(dialled: SharedPump) -> None:
    for pause in (0.0, 0.0, 0.1, 0.0):
        ThreadWaiter().wait(pause)
        ran = ThreadWaiter()
        dialled.post(lambda now, ran=ran: ran.wake())
        assert ran.wait(PATIENCE_S)


def test_what_is_deferred_is_run_though_nothing_follows(bound: SharedPump, dialled: SharedPump) -> None:
    for ready in (lambda: dialled.keeper.depth != TICKING, lambda: True, lambda: dialled.keeper.depth != TICKING):
        until(ready)
        ran = ThreadWaiter()
        dialled.defer(lambda now, ran=ran: ran.wake())
        assert ran.wait(PATIENCE_S)
    until(lambda: dialled.keeper.depth != TICKING)
    assert ask(dialled, bound, b"1") == [ANSWER, b"1"]


def test_many_that_are_deferred_share_turns_and_are_hurried_by_a_submit(dialled: SharedPump) -> None:
    until(lambda: dialled.keeper.depth != TICKING)
    turns, ran = dialled.stats()["io_turns"], []
    with dialled.turn_lock:  # nobody takes a turn meanwhile
        for n in range(1000):
            dialled.defer(lambda now, n=n: ran.append(n))
    dialled.submit(lambda now: ran.append(-1))
    until(lambda: -1 in ran)
    assert ran == [*range(1000), -1]
    assert dialled.stats()["io_turns"] <= turns + 20


def test_a_deadline_is_kept_by_whoever_is_there(dialled: SharedPump) -> None:
    until(lambda: dialled.keeper.depth != TICKING)
    when = time.monotonic() + 0.05
    dialled.submit(raw(dialled).wake_at, when)  # the housekeeper sleeps on the sockets: it must hear of it
    until(lambda: raw(dialled).fired)
    assert when <= raw(dialled).fired[-1] < when + PATIENCE_S / 2
    ticket = dialled.ticket()
    waiter = threading.Thread(target=dialled.wait, args=(ticket, PATIENCE_S))
    waiter.start()
    until(lambda: dialled.polling)
    dialled.submit(raw(dialled).wake_at, time.monotonic() + 0.01)  # a leader does: the same
    until(lambda: len(raw(dialled).fired) == 2)
    dialled.submit(raw(dialled).answer, ticket, None)
    waiter.join(PATIENCE_S)


def test_followers_get_their_results_and_the_last_one_leaves_nobody_behind(
    bound: SharedPump, dialled: SharedPump
) -> None:
    got: list[int] = []

    def work(who: int) -> None:
        for n in range(100):
            ticket = dialled.ticket()
            dialled.submit(raw(dialled).answer, ticket, n)
            got.append(dialled.wait(ticket, PATIENCE_S))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(got) == 800
    assert dialled.leader <= NOBODY
    assert not dialled.followers


def test_a_follower_leads_when_the_leader_has_its_result(dialled: SharedPump) -> None:
    tickets = [dialled.ticket() for _ in range(3)]
    done: list[object] = []
    threads = []
    for ticket in tickets:
        threads.append(threading.Thread(target=lambda ticket=ticket: done.append(dialled.wait(ticket, PATIENCE_S))))
        threads[-1].start()
        until(lambda: len(dialled.followers) + dialled.polling == len(threads))
    for n, ticket in enumerate(tickets):
        assert dialled.leader == threads[n].ident
        dialled.submit(raw(dialled).answer, ticket, n)
        threads[n].join(PATIENCE_S)
        if n < 2:
            until(lambda: dialled.polling)
    assert done == [0, 1, 2]


def test_short_work_stays_in_one_thread_and_long_work_gets_more(bound: SharedPump, dialled: SharedPump) -> None:
    workers: set[int] = set()
    work: Callable[[], object] = lambda: None  # noqa: E731
    link = ("c", bound.addresses[0])

    def handle() -> None:
        while bound.wait_items() or not bound.mailbox.closed:
            item = bound.mailbox.take()
            if item is not None and isinstance(item, Heard):
                workers.add(threading.get_ident())
                work()
                bound.post(raw(bound).say, item.link, [b"done"], None)

    threads = [threading.Thread(target=handle, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(bound.idle) == 3 and bound.polling)
    gate = threading.Semaphore(0)
    work = gate.acquire
    for n in range(4):
        dialled.submit(raw(dialled).say, link, [b"%d" % n], None)
    until(lambda: len(workers) == 4)  # all four are busy at the same time
    # While they are, the peer lives.
    assert ask(dialled, bound, b"?") == [ANSWER, b"?"]
    for _ in range(5):
        gate.release()
    for _ in range(5):
        assert take_until(dialled, Heard).frames == [b"done"]


def test_a_callback_that_waits_for_its_own_driver_is_told(dialled: SharedPump) -> None:
    told: list[str] = []

    def callback(now: float) -> None:
        try:
            dialled.wait(dialled.ticket(), 1.0)
        except UsageError as error:
            told.append(str(error))

    dialled.submit(callback)
    assert len(told) == 1


def test_a_signal_handler_may_wait_while_its_thread_leads(bound: SharedPump, dialled: SharedPump) -> None:
    answers: list[object] = []

    def handler(number: int, frame: object) -> None:
        ticket = dialled.ticket()
        dialled.submit(raw(dialled).answer, ticket, "from the handler")
        answers.append(dialled.wait(ticket, PATIENCE_S))
        dialled.submit(raw(dialled).answer, outer, "outer")

    outer = dialled.ticket()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        main = threading.main_thread().ident
        assert main is not None

        def kick() -> None:
            until(lambda: dialled.polling)
            signal.pthread_kill(main, signal.SIGUSR1)

        kicker = threading.Thread(target=kick)
        kicker.start()
        assert dialled.wait(outer, PATIENCE_S) == "outer"
        kicker.join(PATIENCE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == ["from the handler"]
    assert ask(dialled, bound, b"!") == [ANSWER, b"!"]


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """As in a program that was started from a terminal. In the background of a shell SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_a_wait_and_leaves_the_handler_that_was_there(dialled: SharedPump) -> None:

    def kick() -> None:
        until(lambda: dialled.polling)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    kicker = threading.Thread(target=kick)
    kicker.start()
    with pytest.raises(KeyboardInterrupt):
        dialled.wait(dialled.ticket(), PATIENCE_S)
    kicker.join(PATIENCE_S)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert dialled.leader == NOBODY
    assert not dialled.polling


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_in_a_turn_waits_for_its_end(dialled: SharedPump) -> None:
    done: list[str] = []

    def command(now: float) -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("the turn goes on")

    with pytest.raises(KeyboardInterrupt):
        dialled.submit(command)
    assert done == ["the turn goes on"]
    assert dialled.failure is None


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_tasks_submit_in_one_round_is_one_turn(backend: str, dialled: SharedPump) -> None:
    async def main() -> None:
        async def one(n: int) -> None:
            ticket = dialled.ticket()
            dialled.submit(raw(dialled).answer, ticket, n)
            assert await dialled.wait_async(ticket, PATIENCE_S) == n

        with pytest.raises(WaitExpired):
            await dialled.wait_async(dialled.ticket(), 0.001)  # from here on the loop pumps
        before = dialled.stats()["io_turns"]
        async with anyio.create_task_group() as group:
            for n in range(100):
                group.start_soon(one, n)
        assert dialled.stats()["io_turns"] - before < 20

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_housekeeper_serves_while_the_loop_is_blocked(backend: str, bound: SharedPump, dialled: SharedPump) -> None:
    async def main() -> None:
        with pytest.raises(WaitExpired):
            await bound.wait_async(bound.ticket(), 0.001)
        assert bound.loop is not None
        # This blocks the loop that pumps `bound`.
        assert ask(dialled, bound, b"?") == [ANSWER, b"?"]
        bound.post(raw(bound).wake_at, time.monotonic() + 0.01)
        until(lambda: raw(bound).fired)

    anyio.run(main, backend=backend)
    assert ask(dialled, bound, b"after the loop") == [ANSWER, b"after the loop"]


def test_one_loop_after_the_other_may_pump(dialled: SharedPump) -> None:
    async def main() -> None:
        for n in range(10):
            ticket = dialled.ticket()
            dialled.submit(raw(dialled).answer, ticket, n)
            assert await dialled.wait_async(ticket, PATIENCE_S) == n

    for _ in range(3):
        asyncio.run(main())
        trio.run(main)
    ticket = dialled.ticket()
    dialled.submit(raw(dialled).answer, ticket, "a thread")
    assert dialled.wait(ticket, PATIENCE_S) == "a thread"


@pytest.mark.parametrize("asleep", [False, True])
def test_what_the_poster_does_not_take_is_taken_by_another(asleep: bool, bound: SharedPump) -> None:
    taken: list[object] = []

    def take_all() -> None:
        while not bound.mailbox.closed:
            item = bound.mailbox.take()
            if item is None:
                bound.wait_items(PATIENCE_S)
            else:
                taken.append(item)

    def put(now: float) -> None:
        bound.core.out.items.extend(["first", "second", "third"])

    takers = [threading.Thread(target=take_all) for _ in range(3)]
    for each in takers:
        each.start()
    until(lambda: bound.leader > NOBODY and bound.mailbox.threads == 2)
    if asleep:
        until(lambda: bound.keeper.depth != TICKING)
    else:
        bound.keeper.wake()
    poster = threading.Thread(target=lambda: bound.post_taking(put))  # it is busy with the first for ever, say
    poster.start()
    poster.join(PATIENCE_S)
    until(lambda: sorted(map(str, taken)) == ["first", "second", "third"])
    bound.close(0)
    for each in takers:
        each.join(PATIENCE_S)
        assert not each.is_alive()


def test_a_signal_that_comes_within_a_turn_is_heard_before_the_next_sleep(
    bound: SharedPump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler is put off while the leader gives the core its turn, and no longer."""
    turn = SharedPump._lead_turn

    def interrupted(io: SharedPump, events: object, items: bool, settle: bool = True) -> None:
        turn(io, events, items, settle)  # type: ignore[arg-type]  # as it came
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SharedPump, "_lead_turn", interrupted)
    bound.defer(lambda now: None)  # the leader has a turn to give
    with pytest.raises(KeyboardInterrupt):
        bound.wait_items(None)  # a wait that ends by itself would raise it, too
