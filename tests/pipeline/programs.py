"""Programs that these tests run as processes of their own; see `tests.pipeline.processes`."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread

import zmqkit
from zmqkit import Heartbeat, aio


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


def heard() -> Any:
    return json.loads(sys.stdin.readline())


# ---- crews ---------------------------------------------------------------------------


def hold(address: str, count: str, interval: str = "0.2") -> None:
    """Take so many jobs, say which, then do as told: "ack" them, or "settle" them and say what that brought.

    With a wildcard for an address it binds there and first says where.
    """
    given: dict[str, Any] = {"bind": address} if "*" in address else {"connect": address}
    with zmqkit.Puller(**given, heartbeat=Heartbeat(float(interval))) as pull:
        if pull.addresses:
            say(pull.addresses[0])
        jobs = [pull.receive() for _ in range(int(count))]
        say([[job.id, job.body, job.deliveries, job.failures] for job in jobs])
        while (told := heard()) is not None:
            if told == "ack":
                for job in jobs:
                    job.ack()
            else:
                outcomes = []
                for job in jobs:
                    try:
                        job.ack(wait=True)
                        outcomes.append("stored")
                    except zmqkit.LeaseLost:
                        outcomes.append("lost")
                say(outcomes)


def die_of(address: str, poison: str) -> None:
    """Ack all that comes, but say so and die of this one; say "done" when nothing comes for a while."""
    with zmqkit.Puller(address, heartbeat=Heartbeat(0.2)) as pull:
        while (job := pull.receive(2.0)) is not None:
            if job.body == poison:
                say(job.failures)
                os.kill(os.getpid(), signal.SIGKILL)
            job.ack()
    say("done")


def leave_behind(journal: str, count: str) -> None:
    """Journal so many messages, deliver none; say the ids and wait to be killed."""
    push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal).open()
    say([push.send(n, headers={"n": str(n)}).id for n in range(int(count))])
    heard()


def lend(address: str, journal: str, count: str) -> None:
    """Send so many messages, say their ids; say how many went on as soon as some did, when told; wait to be killed."""
    push = zmqkit.Pusher(address, journal=journal, heartbeat=Heartbeat(2.0)).open()
    say([push.send(n).id for n in range(int(count))])
    while heard() is not None:
        while not push.stats()["taken"]:
            time.sleep(0.01)
        say(push.stats()["taken"])


def count_up(source: str, sink: str) -> None:
    """A worker that is to be killed."""

    def count(n: int) -> Iterator[int]:
        yield from range(n)

    zmqkit.Worker(count, source=source, sink=sink).run()


# ---- running until a signal ----------------------------------------------------------


def slow(body: Any) -> Any:
    """A handler that says when it begins and ends only when told to."""
    say(["begins", body])
    heard()
    say(["ends", body])
    return body


async def slow_async(body: Any) -> Any:
    return await anyio.to_thread.run_sync(slow, body)


def run_puller(face: str, address: str) -> None:
    """`Puller.run` until a signal; then say so."""
    if face == "sync":
        pull = zmqkit.Puller(address)  # run() opens it, with its signal handlers in place
        pull.run(slow)
        pull.close()
    else:

        async def main() -> None:
            pull = aio.Puller(address)
            await pull.run(slow_async)
            await pull.close()

        anyio.run(main, backend=face)
    say("returned")


def run_worker(face: str, source: str, sink: str) -> None:
    """`Worker.run` until a signal; then say so."""
    if face == "sync":
        zmqkit.Worker(slow, source=source, sink=sink).run()
    else:
        anyio.run(aio.Worker(slow_async, source=source, sink=sink).run, backend=face)
    say("returned")


def run_loop(face: str, address: str) -> None:
    """A loop of one's own under `stop_on_signals`."""
    if face == "sync":
        with zmqkit.Puller(address) as pull, zmqkit.stop_on_signals(pull):
            for job in pull:
                with job:
                    slow(job.body)
    else:

        async def main() -> None:
            async with aio.Puller(address) as pull:
                with aio.stop_on_signals(pull):
                    async for job in pull:
                        async with job:
                            await slow_async(job.body)

        anyio.run(main, backend=face)
    say("returned")


def run_and_fork(address: str) -> None:
    """A handler forks a child, which the first SIGTERM must end although the parent waits for one."""

    def handler(body: Any) -> None:
        ready, done = os.pipe()
        child = os.fork()
        if not child:
            os.write(done, b"ready")  # CPython forgets signals that come while it forks
            while True:
                time.sleep(0.01)  # and pause() would sleep on if the signal came just before it
        os.read(ready, 5)
        os.kill(child, signal.SIGTERM)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with zmqkit.Puller(address) as pull:
        pull.run(handler)


# ---- Ctrl-C at random moments --------------------------------------------------------


class Interrupts:
    """Raises KeyboardInterrupt in the main thread at random moments, as Ctrl-C does."""

    def __init__(self, longest_s: float) -> None:
        self.count = 0
        self._armed = False
        self._drawn = random.Random(5)
        self._longest_s = longest_s
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def repeat(self, step: Callable[[], None], times: int) -> None:
        """Repeat a step until it was interrupted so often."""
        while self.count < times:
            # And again after a while: CPython sleeps on in a lock if the signal comes just before it sleeps.
            signal.setitimer(signal.ITIMER_REAL, self._drawn.uniform(1e-6, self._longest_s), 0.02)
            try:
                self._armed = True
                while True:
                    step()
                    self._armed = True  # Python swallows an interrupt that comes while an object is freed
            except KeyboardInterrupt:
                self.count += 1
            finally:
                self._armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)


def interrupted(journal: str, times: str) -> None:
    """Send and take, interrupted all the time; then say what became of what was confirmed."""
    drawn = random.Random(3)
    numbers = itertools.count()
    confirmed: set[int] = set()
    handled: list[int] = []
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, durability="process") as push:
        pull = zmqkit.Puller(push.addresses[0], prefetch=32).open()

        def send() -> None:
            n = next(numbers)
            push.send(n)
            confirmed.add(n)

        def send_many() -> None:
            some = list(itertools.islice(numbers, 5))
            push.send_many(some)
            confirmed.update(some)

        def receive() -> None:
            job = pull.receive(0.001)
            if job is not None:
                with job:
                    handled.append(job.body)

        def iterate() -> None:
            for job in pull:
                with job:
                    handled.append(job.body)
                if not drawn.randrange(4):
                    break

        def batch() -> None:
            for each in pull.batches(max=8, wait=0.0):
                with each:
                    handled.extend(each.bodies)
                break

        def flush() -> None:
            with contextlib.suppress(zmqkit.WaitTimeout):
                push.flush(0.0005)

        def wait() -> None:
            push.wait_for_peers(1)
            with contextlib.suppress(zmqkit.WaitTimeout):
                push.send(next(numbers)).wait("received", timeout=0.001)

        steps = (send, send_many, receive, iterate, batch, flush, wait)

        def step() -> None:
            drawn.choice(steps)()

        interrupts = Interrupts(0.003)
        interrupts.repeat(step, int(times))
        waiting = int(pull._mailbox.waiters)
        # The same objects go on.
        last = push.send(-1).id
        pull.close()
        with zmqkit.Puller(push.addresses[0]) as fresh:
            thread = threading.Thread(target=fresh.run, args=(handled.append,), daemon=True)
            thread.start()
            settled = push.flush(20)
            fresh.stop()
            thread.join(20)
        say({
            "interrupts": interrupts.count, "confirmed": len(confirmed), "lost": sorted(confirmed - set(handled)),
            "last": last != "" and -1 in handled, "dead": settled.dead, "acked": settled.acked,
            "stored": push.stats()["sent"], "handled": len(handled), "waiting": waiting,
        })  # fmt: skip


def interrupted_runs(times: str) -> None:
    """Take jobs by many, interrupted within microseconds: none may be claimed and then be in nobody's hands."""
    most = 20_000
    sent = 0
    taken: list[Any] = []
    interrupts = Interrupts(0.0002)
    faulthandler.dump_traceback_later(40, exit=True)  # rather than hang at a lock that was left locked
    with zmqkit.Pusher("tcp://127.0.0.1:*") as push, zmqkit.Puller(push.addresses[0], prefetch=most) as pull:

        def here() -> int:
            return sum(len(run.indexes) for run in taken)

        def step() -> None:
            run = pull._take_run(100)
            if run is None:
                raise LookupError
            taken.append(run)  # from the return of `_take_run` up to here there is no moment for an interrupt

        missing = 0
        while interrupts.count < int(times) and not missing:
            sent += push.send_many(range(most))
            deadline = time.monotonic() + 5
            while here() < most and time.monotonic() < deadline:
                with contextlib.suppress(LookupError):
                    interrupts.repeat(step, int(times))
                    step()
                pull._mailbox.wait_nonempty(0.01)
            missing = most - here()
            while taken:
                zmqkit.Batch(pull, [taken.pop()]).ack()
        if not missing:
            push.flush(20)
        say({"interrupts": interrupts.count, "missing": missing, "sent": sent, "acked": push.stats()["acked"]})
        faulthandler.cancel_dump_traceback_later()


# ---- the end without close -----------------------------------------------------------


def end_open(face: str, kind: str, journal: str = "") -> None:
    """Leave everything open, with a message that nobody took."""
    given: dict[str, Any] = {"journal": journal} if journal else {}
    KEPT.append(zmqkit.Puller("tcp://127.0.0.1:1").open())
    if face == "sync":
        push = zmqkit.Pusher("tcp://127.0.0.1:*", name="left open", linger=None, **given).open()
        KEPT.append(push)
        push.send("x")
    else:

        async def main() -> None:
            push = await aio.Pusher("tcp://127.0.0.1:*", name="left open", linger=None, **given).open()
            KEPT.append(push)
            await push.send("x")

        anyio.run(main, backend=face)
    say("sent")
    if kind == "exit":
        sys.exit(3)
    if kind == "raise":
        raise ZeroDivisionError("not caught")


def end_served(address: str) -> None:
    """Send without waiting and end at once: the exit gives what was sent the little time that it needs."""
    push = zmqkit.Pusher(connect=address).open()
    push.wait_for_peers(1, timeout=20)
    KEPT.append(push)
    for n in range(100):
        push.send_nowait(n)


KEPT: list[Any] = []


# ---- forks ---------------------------------------------------------------------------


def fork(face: str, journal: str) -> None:
    """Try every verb of what the parent opened in a forked child; the parent goes on."""
    if face == "sync":
        with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal) as push, zmqkit.Puller(push.addresses[0]) as pull:
            receipt, job = push.send("x"), pull.receive()
            push.send("y")
            other = pull.receive()
            other.ack()  # the I/O thread may not have seen it yet
            verbs: dict[str, Callable[[], object]] = {
                "open": push.open, "send": lambda: push.send(1), "send_nowait": lambda: push.send_nowait(1),
                "send_many": lambda: push.send_many([1]), "flush": push.flush, "receipt.wait": receipt.wait,
                "wait_for_peers": push.wait_for_peers, "receive": pull.receive, "iter": lambda: next(iter(pull)),
                "batches": lambda: next(pull.batches()), "run": lambda: pull.run(print), "ack": job.ack,
                "ack(wait)": lambda: job.ack(wait=True), "nack": job.nack, "reject": lambda: job.reject("no"),
                "release": job.release, "puller.open": pull.open,
            }  # fmt: skip
            child = os.fork()
            if not child:
                try:
                    say({name: _raised(verb) for name, verb in verbs.items()})
                    pull.stop()
                    push.close()
                    say("closed")
                finally:
                    sys.exit(5)  # runs the exit handlers, which must not touch what is the parent's
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            job.ack(wait=True)
            say(push.flush(20).acked)
    else:
        anyio.run(_fork_async, journal, backend=face)


async def _fork_async(journal: str) -> None:
    async with aio.Pusher("tcp://127.0.0.1:*", journal=journal) as push, aio.Puller(push.addresses[0]) as pull:
        receipt, job = await push.send("x"), await pull.receive()
        await push.send("y")
        await (await pull.receive()).ack()
        verbs: dict[str, Callable[[], Any]] = {
            "open": push.open, "send": lambda: push.send(1), "send_nowait": lambda: push.send_nowait(1),
            "send_many": lambda: push.send_many([1]), "flush": push.flush, "receipt.wait": receipt.wait,
            "wait_for_peers": push.wait_for_peers, "receive": pull.receive, "iter": lambda: anext(aiter(pull)),
            "batches": lambda: anext(aiter(pull.batches())), "run": lambda: pull.run(print), "ack": job.ack,
            "ack(wait)": lambda: job.ack(wait=True), "nack": job.nack, "reject": lambda: job.reject("no"),
            "release": job.release, "puller.open": pull.open,
        }  # fmt: skip
        child = os.fork()
        if not child:
            # A forked loop must not turn any more: each coroutine is pushed by hand, up to where it would wait.
            try:
                say({name: _raised(functools.partial(_push, verb)) for name, verb in verbs.items()})
                pull.stop()
                _push(push.close)
                say("closed")
            finally:
                os._exit(5)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # noqa: ASYNC222 - nothing else is to run
        await job.ack(wait=True)
        say((await push.flush(20)).acked)


def _push(verb: Callable[[], Any]) -> object:
    awaitable = verb()
    if not hasattr(awaitable, "__await__"):
        return awaitable
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    return "waits"


def _raised(verb: Callable[[], object]) -> str:
    try:
        return f"returned {verb()!r}"
    except BaseException as error:
        return type(error).__name__ if error.__cause__ is None else type(error.__cause__).__name__


# ---- the program runs ----------------------------------------------------------------


def main() -> None:
    _, name, *args = sys.argv
    globals()[name](*args)


if __name__ == "__main__":
    main()
