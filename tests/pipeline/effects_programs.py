"""Programs that `tests.pipeline.test_effects` runs as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

import zmqkit
from tests.pipeline.programs import Interrupts, say
from zmqkit.inbox import Transaction
from zmqkit.inbox import outbox as files
from zmqkit.inbox.outbox import OutboxFile
from zmqkit.patterns.pipeline.jobs import JobBase
from zmqkit.patterns.pipeline.outbox import Relay

QUICK = zmqkit.Heartbeat(0.2)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def apply(address: str, inbox: str, at: str, count: str) -> None:
    """Apply jobs, and be killed at that step of the job of that number. Ends when nothing comes for a while."""
    left = int(count)

    def due(step: str) -> bool:
        nonlocal left
        if step != at:
            return False
        left -= 1
        return left == 0

    commit, ack = Transaction.commit, JobBase._ack

    def commits(transaction: Transaction) -> None:
        if applying and due("before commit"):
            die()
        commit(transaction)

    def acks(job: JobBase[Any]) -> None:
        if applying and due("after commit"):
            die()
        ack(job)

    Transaction.commit = commits  # type: ignore[assignment,method-assign]
    JobBase._ack = acks  # type: ignore[assignment,method-assign]
    applying = False
    with zmqkit.Puller(address, inbox=inbox, heartbeat=QUICK, prefetch=8) as pull:
        while (job := pull.receive(2.0)) is not None:
            with job:
                with job.transaction() as db:
                    applying = True
                    db.execute("insert into effects values (?)", (job.body,))
                    if due("within"):
                        die()
                applying = False
            if due("after ack"):
                die()


def fork(inbox: str) -> None:
    """Fork within a transaction: the child tries to end it."""
    with zmqkit.Pusher("tcp://127.0.0.1:*") as push, zmqkit.Puller(push.addresses[0], inbox=inbox) as pull:
        push.send("a")
        push.send("b")
        job, other = pull.receive(), pull.receive()
        with job, job.transaction() as db:
            db.execute("insert into effects values (?)", (job.body,))
            child = os.fork()
            if not child:
                told = {}
                commit = job._held._commit
                for name, verb in {
                    "commit": commit.commit, "begin": lambda: other.transaction().__enter__(),
                    "rollback": commit.rollback,
                }.items():  # fmt: skip
                    try:
                        verb()
                    except Exception as error:
                        told[name] = type(error).__name__
                say(told)
                sys.stdout.flush()
                os._exit(5)
            say(["child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
        other.reject("of no use")
        say(["acked", push.flush(20).acked])


def interrupted(inbox: str, times: str) -> None:
    """Apply jobs, interrupted again and again."""
    interrupts = Interrupts(0.002)
    sent = 0
    with zmqkit.Pusher("tcp://127.0.0.1:*") as push:
        pull = zmqkit.Puller(push.addresses[0], inbox=inbox, prefetch=16).open()

        def step() -> None:
            job = pull.receive(0.01)
            if job is not None:
                with job, job.transaction() as db:
                    db.execute("insert into effects values (?)", (job.body,))

        while interrupts.count < int(times):
            push.send(sent)
            sent += 1
            with contextlib.suppress(zmqkit.WaitTimeout):
                interrupts.repeat(step, interrupts.count + 1)
        pull.close()
        with zmqkit.Puller(push.addresses[0], inbox=inbox) as fresh:

            def handle(job: zmqkit.Job) -> None:
                with job.transaction() as db:
                    db.execute("insert into effects values (?)", (job.body,))

            thread = threading.Thread(target=fresh.run, args=(handle,), daemon=True)
            thread.start()
            settled = push.flush(20)
            fresh.stop()
            thread.join(20)
    say({"interrupts": interrupts.count, "sent": sent, "dead": settled.dead})


# ---- outboxes ------------------------------------------------------------------------


def leave_outbox(journal: str, shop: str) -> None:
    """Commit messages that do not get to the journal; say their ids and wait to be killed."""
    Relay._move = lambda relay, file: 0  # type: ignore[assignment,method-assign]
    push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal).open()
    ids = []
    for n in range(3):
        with push.transaction(shop) as outbox:
            ids.append(outbox.send(n))
    say(ids)
    sys.stdin.readline()


def order(address: str, journal: str, shop: str, at: str, life: str) -> None:
    """Order and announce it, and be killed at that step of the third order."""
    commit, remove = files.commit, OutboxFile.remove
    orders = 0

    def commits(connection: Any, path: str) -> None:
        if orders == 3 and at == "before commit":
            die()
        commit(connection, path)
        if orders == 3 and at == "after commit":
            die()

    def removes(file: OutboxFile, messages: Any) -> None:
        if orders == 3 and at == "stored":
            die()
        remove(file, messages)
        if orders == 3 and at == "deleted":
            die()

    files.commit = commits
    OutboxFile.remove = removes  # type: ignore[assignment,method-assign]
    with zmqkit.Pusher(connect=address, journal=journal, heartbeat=QUICK) as push:
        for orders in range(1, 4):
            with push.transaction(shop) as outbox:
                body = 10 * int(life) + orders
                outbox.connection.execute("insert into orders values (?)", (body,))
                outbox.send(body)
            push.flush(20, until="journalled")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
