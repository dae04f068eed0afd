"""Programs that the tests of this folder run as processes of their own: ``python -m tests.transport.programs NAME``.

Each prints one line of JSON at its end; what it says is judged by the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from tests.transport.interrupting import Interrupts
from tests.transport.raw import (
    ANSWER,
    ASK,
    PATIENCE_S,
    AnyDriver,
    Heard,
    MemoryStore,
    RawCore,
    driver,
    raw,
    take,
    take_until,
    unstarted,
)
from zmqkit.errors import Forked
from zmqkit.options import Heartbeat
from zmqkit.transport import forks
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.shared import SharedPump
from zmqkit.transport.tickets import Ticket

INTERRUPTS = 1500


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


KEPT: list[object] = []


# ---- Ctrl-C at random moments ------------------------------------------------------


def interrupted_take() -> None:
    """Take from a mailbox that is never empty, interrupted at every distance: nothing lost, nothing doubled."""
    mailbox: Mailbox[int] = Mailbox()
    got: list[int] = []
    fed = 0
    # One take is a microsecond: so the interrupts fall everywhere into it.
    interrupts = Interrupts(0.00002)

    def one() -> None:
        item = mailbox.take()
        if item is not None:
            got.append(item)

    def many() -> None:
        # Between the return of `take_many` and `extend` there is no moment for an interrupt.
        got.extend(mailbox.take_many(5))

    for step in (one, many):
        wanted = interrupts.count + INTERRUPTS
        while interrupts.count < wanted:
            mailbox.put_many(list(range(fed, fed + 10_000)))
            fed += 10_000
            interrupts.until(lambda: not mailbox._items or interrupts.count >= wanted, step, lambda: None)  # noqa: B023
    while len(mailbox):
        one()
    say(interrupts=interrupts.count, complete=sorted(got) == list(range(fed)), ordered=got == sorted(got), fed=fed)


def interrupted_waits() -> None:
    """Wait and take, interrupted, while another thread does too: nothing lost, nothing doubled, nobody left waiting."""
    mine: list[int] = []
    others: list[int] = []
    fed = 0
    feeding = True
    interrupts = Interrupts(0.0004)
    with driver() as io:
        mailbox: Mailbox[int] = io.mailbox

        def feed() -> None:
            nonlocal fed, feeding
            while interrupts.count < INTERRUPTS:
                io.post(raw(io).give, list(range(fed, fed + 7)))
                fed += 7
                time.sleep(0.0002)
            feeding = False

        def other() -> None:
            # Waits without a timeout: a hint that an interrupt swallowed would leave it hanging.
            while io.wait_items() or not mailbox.closed:
                item = mailbox.take()
                if item is not None:
                    others.append(item)

        def step() -> None:
            item = mailbox.take()
            if item is not None:
                mine.append(item)
            else:
                io.wait_items(0.1)

        threads = [threading.Thread(target=feed), threading.Thread(target=other)]
        for thread in threads:
            thread.start()
        interrupts.until(lambda: not feeding, step, mailbox.nudge)
        deadline = time.monotonic() + PATIENCE_S
        while len(mine) + len(others) < fed and time.monotonic() < deadline:
            time.sleep(0.01)
        left = len(mailbox)
        mailbox.close()
        for thread in threads:
            thread.join(PATIENCE_S)
    say(
        interrupts=interrupts.count,
        complete=sorted(mine + others) == list(range(fed)),
        mine=len(mine),
        others=len(others),
        left=left,
        ordered=others == sorted(others),
        waiters=len(mailbox._waiters),
    )


def interrupted_hints() -> None:
    """Two threads wait for one item. The main one is woken for it, and interrupted at about that moment."""
    interrupts = Interrupts(0.00015)
    mailbox: Mailbox[int] = Mailbox()
    got: list[int] = []
    turn = threading.Semaphore(0)
    go = threading.Semaphore(0)
    fed = woken = 0
    returned = closing = stuck = False

    def wait_for(condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.00002)
        return True

    def other() -> None:
        while turn.acquire() and not closing:
            mailbox.wait_nonempty(2 * PATIENCE_S)  # longer than it takes to find that it hangs
            item = mailbox.take()
            if item is not None:
                got.append(item)

    def feed() -> None:
        while go.acquire() and not closing:
            # First the main thread waits, hence it is the one that is woken; then the other.
            wait_for(lambda: len(mailbox._waiters) == 1)
            turn.release()
            wait_for(lambda: len(mailbox._waiters) == 2)
            interrupts.start_timer()
            mailbox.put_many([len(got)])

    def wait_once() -> None:
        nonlocal returned
        go.release()
        returned = mailbox.wait_nonempty(PATIENCE_S)

    threads = [threading.Thread(target=feed), threading.Thread(target=other)]
    for thread in threads:
        thread.start()
    while interrupts.count < INTERRUPTS and not stuck:
        returned = False
        interrupts.during(wait_once)
        if returned:
            woken += 1
            mailbox.nudge()  # it does not take what it was woken for
        fed += 1
        stuck = not wait_for(lambda: len(got) == fed)  # noqa: B023 - called at once
    closing = True
    mailbox.close()
    go.release()
    turn.release()
    for thread in threads:
        thread.join(PATIENCE_S)
    say(interrupts=interrupts.count, woken=woken, stuck=stuck, ordered=got == list(range(fed)))


def interrupted_calls() -> None:
    """Post, submit and wait for tickets, interrupted: what was handed over is done once, no result is lost."""
    interrupts = Interrupts(0.0005)
    store = MemoryStore()
    confirmed = 0
    wrong = 0
    posted: list[int] = []
    key = 0
    pending: list[tuple[int, Ticket]] = []
    with driver(journal=store) as io:

        def step() -> None:
            nonlocal key, confirmed, wrong
            if not pending:
                key += 1
                ticket = io.ticket()
                pending.append((key, ticket))
                (io.submit if key % 2 else io.post)(raw(io).store, key, b"x", ticket)
                posted.append(key)
            mine, ticket = pending[0]
            if mine in store.rows or posted[-1:] == [mine]:
                io.wait(ticket, PATIENCE_S)
                wrong += mine not in store.rows
                confirmed += 1
                pending.clear()

        def recover() -> None:
            # Interrupted in `post` or `submit`, it may have been handed over or not; afterwards all must go on.
            if pending and posted[-1:] != [pending[0][0]]:
                pending.clear()

        interrupts.until(lambda: interrupts.count >= INTERRUPTS, step, recover)
        answer = io.ticket()
        io.submit(raw(io).answer, answer, "alive")
        alive = io.wait(answer, PATIENCE_S)
        missing = [n for n in posted if n not in store.rows]
        closed = io.close(5)
    say(
        interrupts=interrupts.count,
        confirmed=confirmed,
        wrong=wrong,
        missing=len(missing),
        alive=alive,
        closed=closed,
        waiting=len(io._desk.waiting),
    )


def interrupted_round_trips() -> None:
    """Ask over a socket and wait for the answer, interrupted: each question that was sent is answered once."""
    interrupts = Interrupts(0.0005)
    answers: list[Any] = []
    asked = 0
    with driver(binds=["tcp://127.0.0.1:0"]) as bound, driver(connects=bound.addresses) as dialled:
        link = take(dialled).link

        def step() -> None:
            nonlocal asked
            asked += 1
            dialled.submit(raw(dialled).say, link, [ASK, b"%d" % asked], None)
            dialled.wait_items(0.1)
            # Between the return of `take_many` and `extend` there is no moment for an interrupt.
            answers.extend(dialled.mailbox.take_many(5))

        interrupts.until(lambda: interrupts.count >= INTERRUPTS, step, lambda: None)
        dialled.submit(raw(dialled).say, link, [ASK, b"last"], None)
        while not answers or answers[-1].frames[1] != b"last":
            answers.append(take(dialled))
        sent = dialled.stats()["io_messages_sent"]
        failed = dialled.failure is not None
        leads = isinstance(dialled, SharedPump) and dialled.leader > 0
    numbers = [answer.frames[1] for answer in answers]
    say(
        interrupts=interrupts.count,
        answered=len(numbers),
        sent=sent,
        doubled=len(numbers) - len(set(numbers)),
        failed=failed,
        leads=leads,
    )


def interrupted_close() -> None:
    """Close, interrupted, and close again."""
    interrupts = Interrupts(0.002)
    closed = 0
    for _ in range(100):
        core = RawCore()
        io = unstarted(core, journal=MemoryStore(), name="raw", binds=["tcp://127.0.0.1:0"])
        io.start()
        ended = False

        def step(io: AnyDriver = io) -> None:
            nonlocal ended
            ended = io.close(5)

        interrupts.until(lambda: ended, step, lambda: None)  # noqa: B023 - called at once
        closed += ended
        KEPT.append(io)  # Python itself swallows an interrupt that comes while an object is freed
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("zmqkit")]
    say(interrupts=interrupts.count, closed=closed, left=left)


# ---- forks -------------------------------------------------------------------------


def uses(io: AnyDriver, ticket: Ticket) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that can be done with an open driver."""
    yield "post", lambda: io.post(print)
    yield "submit", lambda: io.submit(print)
    yield "connect", lambda: io.connect("tcp://127.0.0.1:1")
    yield "disconnect", lambda: io.disconnect("tcp://127.0.0.1:1")
    yield "start", io.start
    yield "wait", lambda: io.wait(ticket, PATIENCE_S)
    yield "wait_async", lambda: asyncio.run(io.wait_async(ticket, PATIENCE_S))
    yield "new ticket", lambda: io.wait(io.ticket(), PATIENCE_S)
    yield "take", io.mailbox.take
    yield "take_many", lambda: io.mailbox.take_many(1)


def refusals(io: AnyDriver, ticket: Ticket) -> list[str]:
    """What does not raise `Forked` at once."""
    wrong = []
    for name, use in uses(io, ticket):
        try:
            use()
            wrong.append(f"{name} worked")
        except Forked:
            continue
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")
    io.wait_items()  # at once
    if not (io.mailbox.closed and isinstance(io.mailbox.failure, Forked)):
        wrong.append("the mailbox is not closed")
    if io.close(PATIENCE_S) is not True or io.close() is not True:
        wrong.append("close is no no-op")
    io.begin_close(1)
    io.stats()
    return wrong


def own_peer_works() -> bool:
    """A child may open drivers of its own."""
    with driver(binds=["tcp://127.0.0.1:0", "inproc://own"]) as bound:
        for address in bound.addresses:
            with driver(connects=[address]) as dialled:
                link = take(dialled).link
                dialled.submit(raw(dialled).say, link, [ASK], None)
                if take(dialled).frames != [ANSWER]:
                    return False
    return True


def echoes(bound: AnyDriver, dialled: AnyDriver) -> bool:
    dialled.submit(raw(dialled).say, ("c", bound.addresses[0]), [ASK], None)
    return bool(take_until(dialled, tuple).frames == [ANSWER])


def fork_with(start: Callable[[Callable[[], list[str]]], list[str]]) -> None:
    """Fork while drivers are open, other threads wait and hold locks; the child is judged, and the parent goes on."""
    store = MemoryStore()
    with driver(binds=["tcp://127.0.0.1:0"], journal=store) as bound, driver(connects=bound.addresses) as dialled:
        take(dialled)
        pending = bound.ticket()
        bound.submit(raw(bound).give, ["left in the mailbox"])
        bound.wait_items(PATIENCE_S)
        stop = threading.Event()

        def busy() -> None:
            with contextlib.suppress(Exception):
                while not stop.is_set():
                    dialled.wait_items(0.001)
                    ticket = dialled.ticket()
                    dialled.submit(raw(dialled).answer, ticket, 1)
                    dialled.wait(ticket, PATIENCE_S)

        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()

        def in_child() -> list[str]:
            wrong = refusals(bound, pending) + refusals(dialled, dialled.ticket())
            if forks._all_open():
                wrong.append("drivers are still registered")
            if not own_peer_works():
                wrong.append("a driver of its own does not work")
            if store.closed:
                wrong.append("the parent's journal was closed")
            return wrong

        wrong = start(in_child)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        goes_on = echoes(bound, dialled) and not pending.done and bound.mailbox.take() == "left in the mailbox"
        closed = bound.close(5) and dialled.close(5)
    say(wrong=wrong, goes_on=goes_on, closed=closed, journal_closed=store.closed)


def os_fork() -> None:
    def start(in_child: Callable[[], list[str]]) -> list[str]:
        wrong = []
        for _ in range(5):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                with open(writer, "w") as file:
                    file.write(json.dumps(in_child()))
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the parent's line is the parent's
                sys.exit(7)  # through all of the interpreter's exit, unlike os._exit
            os.close(writer)
            with open(reader) as file:
                wrong += json.loads(file.read() or '["the child died"]')
            status = reap(pid)
            if status != 7:
                wrong.append(f"the child ended with {status}")
        return wrong

    fork_with(start)


def reap(pid: int) -> int | str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def _report(in_child: Callable[[], list[str]], pipe: Any) -> None:
    pipe.send(in_child())


def multiprocessing_fork() -> None:
    def start(in_child: Callable[[], list[str]]) -> list[str]:
        fork = multiprocessing.get_context("fork")
        wrong: list[str] = []
        for _ in range(3):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=_report, args=(in_child, theirs))
            process.start()
            theirs.close()
            wrong += ours.recv() if ours.poll(PATIENCE_S) else ["the child said nothing"]
            process.join(PATIENCE_S)
            if process.exitcode != 0:
                wrong.append(f"the child ended with {process.exitcode}")
                process.kill()
        return wrong

    fork_with(start)


def fork_ports() -> None:
    """A child that lives on keeps no port of its parent's taken, and none of its own files is closed."""
    path = sys.argv[2]
    opened = []
    for address, data in (("tcp://127.0.0.1:0", ""), (f"ipc://{path}/socket", ".data"), ("inproc://port", "-data")):
        io = unstarted(RawCore(), name="raw", binds=[address], data="XPUB", data_binds=[f"{address}{data}"])
        io.start()
        opened.append(io)
    closed = unstarted(RawCore(), name="raw", binds=["tcp://127.0.0.1:0"])
    closed.start()
    closed.close(5)
    # These files take the descriptors that are free again; the child must keep them.
    files = [open(f"{path}/{n}", "w+") for n in range(20)]  # noqa: SIM115
    reader, writer = os.pipe()
    began, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.write(begin, b"x")
        os.read(reader, 1)  # until the parent has closed its end
        for file in files:
            file.write("x")
            file.flush()  # raises where the descriptor was closed, and then the child ends with another status
        os._exit(0)
    os.close(reader)
    os.read(began, 1)  # until the child has run what runs after a fork
    good = []
    for io in opened:
        io.close(5)
        again = driver(binds=io.addresses, data="XPUB", data_binds=io.data_addresses)
        with again as bound, driver(connects=io.addresses) as dialled:
            take_until(bound, tuple)
            take_until(dialled, tuple)
            good.append(echoes(bound, dialled))
    os.close(writer)
    for file in files:
        file.close()
    say(good=good, child=reap(pid))


def fork_unstarted() -> None:
    """A driver that was made but not started is no open one: the child may start it. One that was closed stays so."""
    made = unstarted(RawCore(), name="made", binds=["tcp://127.0.0.1:0"])
    with driver() as closed:
        closed.close(1)
    pid = os.fork()
    if pid == 0:
        made.start()
        ticket = made.ticket()
        made.submit(raw(made).answer, ticket, 1)
        good = made.wait(ticket, PATIENCE_S) == 1 and made.close(5) and closed.close(5)
        os._exit(0 if good else 1)
    status = reap(pid)
    made.start()
    say(child=status, parent=made.close(5))


# ---- exit --------------------------------------------------------------------------


def open_drivers(count: int, core: Callable[[], RawCore]) -> list[AnyDriver]:
    opened = []
    for _ in range(count):
        io = unstarted(core(), name="left-open", binds=["tcp://127.0.0.1:0"], journal=MemoryStore())
        io.start()
        opened.append(io)
    return opened


def exit_open() -> None:
    """Leave with open drivers whose cores say goodbye: a peer in another process hears it."""
    address = sys.argv[2]
    core = RawCore()
    io = unstarted(core, name="leaving", connects=[address])
    io.start()
    core.goodbyes = [(take(io).link, [b"goodbye"])]
    KEPT.append(io)
    say(ready=True)


def exit_endless() -> None:
    """Leave with cores that never finish, and one whose disk hangs."""

    class Endless(RawCore):
        def close(self, now: float) -> None:
            return

    class Hanging(MemoryStore):
        def commit(self, writes: object) -> None:
            begun.set()
            time.sleep(1000)

    begun = threading.Event()
    KEPT.extend(open_drivers(5, Endless))
    hung = unstarted(RawCore(), name="hung", journal=Hanging())
    hung.start()
    # Where the caller's thread pumps, it hangs as well.
    threading.Thread(target=hung.submit, args=(raw(hung).store, 1, b"x", hung.ticket()), daemon=True).start()
    begun.wait(PATIENCE_S)
    KEPT.append(hung)
    say(ready=True, at=time.monotonic())


def exit_by_exception() -> None:
    KEPT.extend(open_drivers(2, RawCore))
    say(ready=True)
    raise SystemExit(3)


# ---- what would end the process if libzmq were asked otherwise ---------------------


def held_back() -> None:
    """A peer says more than libzmq takes in while the I/O thread stands still, and leaves; then another one asks."""
    heartbeat = Heartbeat(interval=0.5, liveness=3)
    with driver(binds=["tcp://127.0.0.1:0"], heartbeat=heartbeat) as bound:

        def stand_still(now: float) -> None:
            with zmq.Context() as others, others.socket(zmq.DEALER) as peer:
                peer.setsockopt(zmq.SNDHWM, 0)
                peer.connect(bound.addresses[0])
                for n in range(20_000):
                    peer.send(b"%d" % n)
                time.sleep(0.2)
                peer.close(0)
            time.sleep(2 * heartbeat.interval)  # a heartbeat of libzmq's own would have been due

        bound.submit(stand_still)
        with driver(connects=bound.addresses) as honest:
            honest.submit(raw(honest).say, take(honest).link, [ASK], None)
            say(answered=take_until(honest, Heard).frames == [ANSWER])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
