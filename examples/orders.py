"""Orders and announcements once: an inbox and an outbox in one transaction, in a shop that is killed again and again.

The shop takes orders, writes each down in its own database, and announces it onward. `job.transaction()` records the
order in the commit of its effects, and `push.transaction()` sends in the same commit: after a crash all of it is there,
or nothing. Prints how often the shop was killed, and that each order was booked and announced once.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import zmqkit

ORDERS, LIFE = 60, 20


def shop(orders: str, announcements: str, folder: Path) -> None:
    """One life: book and announce, and be killed in the middle of it."""
    with (
        zmqkit.Puller(orders, inbox=folder / "shop.db") as pull,
        zmqkit.Pusher(connect=announcements, journal=folder / "announcements.db") as push,
    ):
        for n, job in enumerate(pull):
            with job, job.transaction() as db, push.transaction(db) as outbox:
                db.execute("insert into booked values (?)", (job.body,))
                outbox.send(f"order {job.body} is booked")
                if n == LIFE:
                    os.kill(os.getpid(), signal.SIGKILL)  # booked and announced, not committed: as if it had never come


def main(folder: Path) -> None:
    with sqlite3.connect(folder / "shop.db") as db:
        db.execute("create table booked (number integer)")
    heard: set[str] = set()
    killed = 0
    with (
        zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "orders.db") as orders,
        zmqkit.Puller(bind="tcp://127.0.0.1:*") as announcements,
    ):
        orders.send_many(range(ORDERS))
        while len(heard) < ORDERS:
            arguments = [sys.executable, __file__, orders.addresses[0], announcements.addresses[0], str(folder)]
            life = subprocess.Popen(arguments)
            while len(heard) < ORDERS:
                job = announcements.receive(0.2)
                if job is not None:
                    with job:  # what a crash has made come twice has the same id: an inbox here would drop it
                        heard.add(job.body)
                elif life.poll() is not None:
                    break
            killed += life.poll() == -signal.SIGKILL
            life.terminate()
            life.wait()

    booked = [number for (number,) in sqlite3.connect(folder / "shop.db").execute("select number from booked")]
    print("the shop was killed", killed, "times")
    print(len(booked), "orders are booked,", len(heard), "announced")
    assert sorted(booked) == list(range(ORDERS)), "each order is booked once"
    assert len(heard) == ORDERS, "each one is announced, and no other"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        shop(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
