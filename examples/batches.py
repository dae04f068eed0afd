"""Many at a time: `send_many` journals in groups, `batches` hands over what has come, one block acks it all.

Bulk work such as an insert into a database is far cheaper by hundreds. A batch that fails is delivered again job by
job, so that one bad row does not condemn its neighbours. Prints why the bad row was refused, and how many transactions
it took: some twenty, and one for each row of the batch that failed.
"""

import logging
import sqlite3
import tempfile
from pathlib import Path

import zmqkit
from zmqkit.events import JobDead

COUNT = 4_000
BAD = 1_234


def main(folder: Path) -> None:
    logging.getLogger("zmqkit").setLevel(logging.CRITICAL)  # it logs each failure; here one is made on purpose
    database = sqlite3.connect(folder / "rows.db")
    database.execute("create table rows (n integer check (n >= 0))")
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "jobs.db", max_failures=1) as push:
        push.on(JobDead, lambda event: print("refused:", event.reason))
        sent = push.send_many({"n": -1 if n == BAD else n} for n in range(COUNT))
        print(sent, "rows are in the journal")

        with zmqkit.Puller(push.addresses[0], prefetch=1000) as pull:
            sizes = []
            for batch in pull.batches(max=200, wait=0.05):
                # Left from the right: the database commits first, then the batch acks.
                with batch, database:
                    database.executemany("insert into rows values (?)", [(body["n"],) for body in batch.bodies])
                    sizes.append(len(batch))
                if _rows(database) == COUNT - 1:
                    break
            print(push.flush(timeout=30))
    print(f"{_rows(database)} rows by {len(sizes)} transactions, the largest of {max(sizes)}")
    database.close()


def _rows(database: sqlite3.Connection) -> int:
    (count,) = database.execute("select count(*) from rows").fetchone()
    return int(count)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
