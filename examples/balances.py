"""Effects once: a subscriber that keeps balances in its own database, and is killed while it does.

With `inbox=` the position and the effects of a message are committed together, by ``message.transaction()``: after a
crash both are there, or neither. Prints how often the reader was killed, and the balances, to the cent what was
published.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import zmqkit

PAYMENTS, LIFE = 200, 60


def read(address: str, database: Path, lives_for: int) -> None:
    """One life: book payments, and be killed in the middle of one, unless all are booked."""
    with zmqkit.Subscriber(address, topics="paid.#", inbox=database) as sub:
        for n, message in enumerate(sub):
            with message, message.transaction() as db:
                db.execute(
                    "insert into balances values (?, ?) on conflict (who) do update set cents = cents + excluded.cents",
                    (message.topic.removeprefix("paid."), message.body),
                )
                if n == lives_for:
                    os.kill(os.getpid(), signal.SIGKILL)  # booked, not committed: as if it had never come
            if message.sequence == PAYMENTS:
                return


def main(folder: Path) -> None:
    database = folder / "balances.db"
    with sqlite3.connect(database) as db:
        db.execute("create table balances (who text primary key, cents integer)")

    expected = {"ada": 0, "bob": 0, "cyd": 0}
    with zmqkit.Publisher("tcp://127.0.0.1:*", journal=folder / "payments.db") as payments:
        for n in range(PAYMENTS):
            who = ("ada", "bob", "cyd")[n % 3]
            expected[who] += n
        payments.publish_many((f"paid.{('ada', 'bob', 'cyd')[n % 3]}", n) for n in range(PAYMENTS))

        killed = 0
        arguments = [sys.executable, __file__, payments.addresses[0], str(database), str(LIFE)]
        while (ended := subprocess.run(arguments, timeout=40).returncode) == -signal.SIGKILL:
            killed += 1
        assert ended == 0, ended

    found = dict(sqlite3.connect(database).execute("select * from balances order by who"))
    print("the reader was killed", killed, "times")
    print("balances:", found)
    assert killed == 3
    assert found == expected


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
