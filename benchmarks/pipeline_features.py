"""What each thing that a pipeline can do costs: group commit, keys, priorities, partial acks, inbox, outbox, a kill.

Run it with ``python -m benchmarks.pipeline_features [--only WORD] [--messages N] [--rounds N] [--quick]``. Parts:

- *group*: ``send`` one by one, each message synced before it returns, by one thread, by 2, 4 and 16, and by 1,000 tasks
  of asyncio, on one pusher without a puller. Senders share commits: how much faster than one alone are they together?
- *features*: a pusher and a puller in two processes, as in benchmarks/pipeline.py, batches of 1,000. *plain* is its
  row *batches*; *partial acks* settles every second job of a batch, and the others while the next one is in hand;
  *inbox* counts in the puller's SQLite file in one transaction a batch, or a job, with a rollback journal as SQLite has
  it by default, or in WAL mode; *outbox* sends 100 messages, and writes a row of its own, in one transaction of the
  sender's SQLite file, in WAL mode.
- *kill*: a worker is killed (SIGKILL) with a job in hand; how long until another worker has it? Its death is proven on
  the same host; from elsewhere (here: it gives another host's name) it is silence for so long as the heartbeat says.

The rounds alternate, and medians are quoted. Bodies are about 100 bytes, journals at ``power``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import multiprocessing.connection
import os
import signal
import sqlite3
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import zmqkit
import zmqkit.aio
from benchmarks.pipeline_peers import body
from benchmarks.places import folder, run_folder
from benchmarks.pubsub_peers import hear, process

PATIENCE_S = 600.0
PREFETCH = 8192
BATCH = 1000
IN_OUTBOX = 100

Pipe = multiprocessing.connection.Connection


def row(name: str, *values: str) -> None:
    """One line of a table."""
    print(f"  {name:<34}" + "".join(f"{value:>24}" for value in values), flush=True)


# ---- group commit ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sent:
    """What senders reached.

    Attributes:
        rate: messages a second, all together.
        shared: messages a commit.
    """

    rate: float
    shared: float


def by_threads(senders: int, count: int) -> Sent:
    """Each thread sends its part."""
    each = count // senders
    with folder() as place:
        push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=os.path.join(place, "journal.db"), linger=0.0)
        with push:

            def send_all() -> None:
                for number in range(each):
                    push.send(body(number))

            push.send(body(0))
            before = push.stats()["io_commits"]
            threads = [threading.Thread(target=send_all) for _ in range(senders)]
            begun = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - begun
            commits = push.stats()["io_commits"] - before
    return Sent(each * senders / seconds, each * senders / commits)


def by_tasks(senders: int, count: int) -> Sent:
    """Each task of asyncio sends its part."""
    each = count // senders

    async def main(journal: str) -> Sent:
        async with zmqkit.aio.Pusher("tcp://127.0.0.1:*", journal=journal, linger=0.0) as push:

            async def send_all() -> None:
                for number in range(each):
                    await push.send(body(number))

            await push.send(body(0))
            before = push.stats()["io_commits"]
            begun = time.perf_counter()
            await asyncio.gather(*(send_all() for _ in range(senders)))
            seconds = time.perf_counter() - begun
            return Sent(each * senders / seconds, each * senders / (push.stats()["io_commits"] - before))

    with folder() as place:
        return asyncio.run(main(os.path.join(place, "journal.db")))


LONE = "one thread"
GROUPS: dict[str, tuple[Callable[[int], Sent], float, float]] = {
    LONE: (functools.partial(by_threads, 1), 0.1, 1.0),
    "2 threads": (functools.partial(by_threads, 2), 0.2, 0.0),
    "4 threads": (functools.partial(by_threads, 4), 0.4, 0.0),
    "16 threads": (functools.partial(by_threads, 16), 1.0, 6.0),
    "one task": (functools.partial(by_tasks, 1), 0.1, 0.0),
    "1,000 tasks": (functools.partial(by_tasks, 1000), 2.0, 6.0),
}
"""How, how much of the messages, and how many times the lone sender at least."""


def group(messages: int, rounds: int) -> None:
    """``send`` one by one."""
    print("send, one by one, each synced before it returns")
    found: dict[str, list[Sent]] = {name: [] for name in GROUPS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what waits is left behind on purpose
        for _ in range(rounds):
            for name, (run, part, _) in GROUPS.items():
                found[name].append(run(max(1000, int(messages * part))))
    row("", "messages/s", "x one thread", "a commit")
    lone = statistics.median(each.rate for each in found[LONE])
    for name, (_, _, floor) in GROUPS.items():
        rate = statistics.median(each.rate for each in found[name])
        shared = statistics.median(each.shared for each in found[name])
        note = f" (at least {floor:.0f})" if floor > 1 else ""
        row(name, f"{rate:,.0f}", f"{rate / lone:.1f}{note}", f"{shared:.1f}")


# ---- features ----------------------------------------------------------------------------


def take(pipe: Pipe, address: str, count: int, way: str, place: str) -> None:
    """The puller, in a process of its own, until it has settled so many."""
    inbox = None
    if way.startswith("inbox"):
        inbox = os.path.join(place, "inbox.db")
        with contextlib.closing(sqlite3.connect(inbox)) as db:
            if "wal" in way:
                db.execute("pragma journal_mode = wal")
            db.execute("create table seen (number integer)")
    with zmqkit.Puller(address, prefetch=PREFETCH, inbox=inbox) as pull:
        pipe.send("ready")
        taken = WAYS[way](pull, count)
        pipe.recv()
    assert taken == count, f"{taken:,} of {count:,}"
    if inbox is not None:
        with contextlib.closing(sqlite3.connect(inbox)) as db:
            ((seen,),) = db.execute("select count(*) from seen")
        assert seen == count, f"{seen:,} effects of {count:,}"


def _batches(pull: zmqkit.Puller[Any], count: int) -> Iterator[zmqkit.Batch[Any]]:
    left = count
    for batch in pull.batches(BATCH, 0.01):
        left -= len(batch)
        yield batch
        if left <= 0:
            return


def _whole(pull: zmqkit.Puller[Any], count: int) -> int:
    done = 0
    for batch in _batches(pull, count):
        with batch:
            done += len(batch.bodies)
    return done


def _partly(pull: zmqkit.Puller[Any], count: int) -> int:
    done = 0
    rest: list[zmqkit.Job[Any]] = []
    for batch in _batches(pull, count):
        jobs = list(batch)
        done += len(jobs)
        for job in jobs[::2]:
            job.ack()
        for job in rest:
            job.ack()
        rest = jobs[1::2]
    for job in rest:
        job.ack()
    return done


def _in_batches(pull: zmqkit.Puller[Any], count: int) -> int:
    done = 0
    for batch in _batches(pull, count):
        with batch, batch.transaction() as db:
            db.executemany("insert into seen values (?)", [(each["n"],) for each in batch.bodies])
            done += len(batch)
    return done


def _jobs(pull: zmqkit.Puller[Any], count: int) -> int:
    done = 0
    for job in pull:
        with job:
            done += 1
        if done == count:
            break
    return done


def _effects(pull: zmqkit.Puller[Any], count: int) -> int:
    done = 0
    for job in pull:
        with job, job.transaction() as db:
            db.execute("insert into seen values (?)", (job.body["n"],))
        done += 1
        if done == count:
            break
    return done


WAYS: dict[str, Callable[[zmqkit.Puller[Any], int], int]] = {
    "batches": _whole,
    "jobs": _jobs,
    "partial": _partly,
    "inbox": _in_batches,
    "inbox jobs": _effects,
    "inbox, wal": _in_batches,
    "inbox jobs, wal": _effects,
}
"""How the puller takes."""


def send_plain(push: zmqkit.Pusher, count: int, place: str) -> None:
    """All in one call."""
    push.send_many(body(number) for number in range(count))


def send_keys(keys: int, push: zmqkit.Pusher, count: int, place: str) -> None:
    """The keys in turns."""
    push.send_many(zmqkit.Outgoing(body(number), key=f"key{number % keys}") for number in range(count))


def send_priorities(push: zmqkit.Pusher, count: int, place: str) -> None:
    """Three priorities in turns."""
    push.send_many(zmqkit.Outgoing(body(number), priority=number % 3) for number in range(count))


def send_by_outbox(push: zmqkit.Pusher, count: int, place: str) -> None:
    """`IN_OUTBOX` messages a transaction."""
    with contextlib.closing(sqlite3.connect(os.path.join(place, "mine.db"))) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table orders (number integer)")
        for start in range(0, count, IN_OUTBOX):
            with push.transaction(db) as outbox:
                db.execute("insert into orders values (?)", (start,))
                for number in range(start, min(start + IN_OUTBOX, count)):
                    outbox.send(body(number))


def one_way(send: Callable[[zmqkit.Pusher, int, str], None], way: str, count: int) -> float:
    """Messages a second, from the first send until all is settled and that is synced."""
    with folder() as place:
        journal = os.path.join(place, "journal.db")
        with (
            zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal) as push,
            process(take, push.addresses[0], count, way, place) as (pipe, _),
        ):
            assert hear(pipe) == "ready"
            push.wait_for_peers(1, timeout=30)
            begun = time.perf_counter()
            send(push, count, place)
            settled = push.flush(PATIENCE_S)
            seconds = time.perf_counter() - begun
            assert settled.acked == count, settled
            pipe.send("end")
            with contextlib.suppress(EOFError):
                hear(pipe)  # until it has ended
    return count / seconds


FEATURES: dict[str, tuple[Callable[[zmqkit.Pusher, int, str], None], str, int]] = {
    "plain": (send_plain, "batches", 1),
    "keys: 1,000": (functools.partial(send_keys, 1_000), "batches", 5),
    "keys: 10, a job at a time": (functools.partial(send_keys, 10), "jobs", 20),
    "priorities: 3": (send_priorities, "batches", 5),
    "partial acks": (send_plain, "partial", 1),
    "inbox, a transaction a batch": (send_plain, "inbox", 5),
    "inbox, a transaction a job": (send_plain, "inbox jobs", 50),
    "the same, WAL: a batch": (send_plain, "inbox, wal", 5),
    "the same, WAL: a job": (send_plain, "inbox jobs, wal", 50),
    "outbox, 100 a transaction": (send_by_outbox, "batches", 5),
}
"""How it is sent, how it is taken, and how many times fewer messages it gets."""


def features(messages: int, rounds: int) -> None:
    """A row each."""
    print("from the first send until all is settled, each message and each ack synced")
    rates: dict[str, list[float]] = {name: [] for name in FEATURES}
    for _ in range(rounds):
        for name, (send, way, slower) in FEATURES.items():
            rates[name].append(one_way(send, way, max(500, messages // slower)))
    row("", "messages/s", "x plain")
    for name, each in rates.items():
        ratios = [mine / plain for mine, plain in zip(each, rates["plain"], strict=True)]
        row(name, f"{statistics.median(each):,.0f}", f"{statistics.median(ratios):.3f}")


# ---- a kill --------------------------------------------------------------------------------


def work(pipe: Pipe, address: str, elsewhere: bool) -> None:
    """Takes one job, says when, and holds it."""
    if elsewhere:
        from zmqkit.transport import hosts

        hosts.host_id = lambda: "another host"  # its pids mean nothing to the pusher
    with zmqkit.Puller(address, prefetch=1) as pull:
        pipe.send("ready")
        job = pull.receive()
        pipe.send(time.perf_counter())
        pipe.recv()
        job.ack()
        pipe.send("acked")
        pipe.recv()


def redelivery(elsewhere: bool) -> float:
    """Seconds from the kill until another worker has the job."""
    with folder() as place:
        push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=os.path.join(place, "journal.db"))
        with push, process(work, push.addresses[0], elsewhere) as (victim, pid):
            assert hear(victim) == "ready"
            push.wait_for_peers(1, timeout=30)
            push.send(body(1))
            hear(victim)
            with process(work, push.addresses[0], elsewhere) as (other, _):
                assert hear(other) == "ready"
                push.wait_for_peers(2, timeout=30)
                begun = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                at = float(hear(other))
                other.send("go on")
                assert hear(other) == "acked"
                push.flush(30)
    return at - begun


def kill(messages: int, rounds: int) -> None:
    """Near and far."""
    print("from SIGKILL of a worker until another one has its job")
    tries = max(1, 2 * rounds)
    beat = zmqkit.Heartbeat()
    row("", "median", "longest", "")
    for name, elsewhere, note in (
        ("same host, its death is proven", False, "(at most 0.05 s)"),
        ("elsewhere, it is silent", True, f"(heartbeat: {beat.interval * beat.liveness:.0f} s)"),
    ):
        found = [redelivery(elsewhere) for _ in range(tries)]
        row(name, f"{statistics.median(found):.4f} s", f"{max(found):.4f} s", note)


PARTS: dict[str, Callable[[int, int], None]] = {"group": group, "features": features, "kill": kill}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, metavar="WORD", help=f"one part: {', '.join(PARTS)}")
    parser.add_argument("--messages", type=int, help="500,000 of the features, 50,000 of the groups")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of few messages: shows that it runs")
    chosen = parser.parse_args()
    usual = {"group": 50_000, "features": 500_000, "kill": 1}
    with run_folder():
        for name, part in PARTS.items():
            if chosen.only in (None, name):
                messages = chosen.messages or usual[name]
                part(*((min(messages, 5_000), 1) if chosen.quick else (messages, chosen.rounds)))
                print()


if __name__ == "__main__":
    main()
