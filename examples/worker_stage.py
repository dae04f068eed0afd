"""Three stages, and a middle one that dies: each result counts once all the same.

::

    pusher --lines--> worker, worker --words--> sink

A `Worker` acks a line when all of its words have settled at the sink. One is killed by SIGKILL midway, so some lines
are split again by the other, and some words come twice: with the same id, made of the line's id and the word's place
in it. The sink keeps ids and counts in one database and one transaction. Prints what came twice, and that every
count is right.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import zmqkit

LINES = [f"the quick brown fox number {n} jumps over the lazy dog" for n in range(400)]


def split(line: str) -> Iterator[str]:
    """The workers' handler. What it yields goes on, in a stable order: a word's place is part of its id."""
    yield from line.split()


def count(sink: zmqkit.Puller[str], path: Path, enough: threading.Event, repeated: list[str]) -> None:
    """The sink: each id once, and its effect in the same transaction."""
    database = sqlite3.connect(path)
    for batch in sink.batches(max=200):
        with batch, database:  # left from the right: the database commits, then the batch acks
            for job in batch:
                if database.execute("insert or ignore into seen values (?)", (job.id,)).rowcount:
                    database.execute(
                        "insert into counts values (?, 1) on conflict do update set n = n + 1", (job.body,)
                    )
                else:
                    repeated.append(job.id)
        enough.set()
    database.close()


def main(folder: Path) -> None:
    path = folder / "counts.db"
    with sqlite3.connect(path) as database:
        database.execute("create table seen (id text primary key)")
        database.execute("create table counts (word text primary key, n integer)")
    enough, repeated = threading.Event(), list[str]()
    with (
        zmqkit.Pusher("tcp://127.0.0.1:*", journal=folder / "lines.db") as push,
        zmqkit.Puller[str](bind="tcp://127.0.0.1:*") as sink,  # workers connect on both sides
    ):
        counting = threading.Thread(target=count, args=(sink, path, enough, repeated))
        counting.start()
        push.send_many(LINES)
        command = [sys.executable, __file__, push.addresses[0], sink.addresses[0]]
        workers = [subprocess.Popen(command) for _ in range(2)]
        try:
            enough.wait(30)
            os.kill(workers[0].pid, signal.SIGKILL)
            print("one worker is dead;", push.flush(timeout=40))
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
        sink.stop()
        counting.join()
        print(f"{push.stats()['redelivered']} lines went to the other worker, {len(repeated)} words came twice")
    found = dict(database.execute("select word, n from counts"))
    database.close()
    assert found == Counter(word for line in LINES for word in line.split())
    print(f"{sum(found.values())} words counted, each once; 'the': {found['the']}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        zmqkit.Worker(split, source=sys.argv[1], sink=sys.argv[2]).run()
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
