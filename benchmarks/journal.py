"""What the journal costs: commits and rows a second, opening and emptying a large backlog.

Run it with ``python benchmarks/journal.py [--dir DIR] [--quick]``; DIR lies on the disk to be measured. Each figure is
the median of its rounds. Beside the journal stands the least that could be done: appending the same bytes to a plain
file and syncing it, once a commit. The ratio says what order, checksums and totals cost on top.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from zmqkit.journal import Journal, MemoryJournal, SqliteJournal
from zmqkit.protocol.core import Read, Write

BATCH = os.urandom(25_600)
"""256 messages of 100 bytes, as one row."""
MESSAGE = BATCH[:100]


def rate(work: Callable[[], int], rounds: int) -> float:
    """Median of units a second; ``work`` says how many units it did."""
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates)


def plain_file(directory: str, size_bytes: int, commits: int, rounds: int) -> float:
    """Appends and fdatasyncs a second of a file that is written round and round, as a write-ahead log is."""
    data = os.urandom(size_bytes)
    fd = os.open(os.path.join(directory, "plain"), os.O_RDWR | os.O_CREAT)

    def work() -> int:
        for index in range(commits):
            os.pwrite(fd, data, index * size_bytes % (4 << 20))
            os.fdatasync(fd)
        return commits

    work()
    try:
        return rate(work, rounds)
    finally:
        os.close(fd)


class Queue:
    """A queue in steady state: each commit puts new rows, and deletes as many old ones."""

    def __init__(self, journal: Journal, value: bytes, rows: int, commits: int) -> None:
        self.journal, self.value, self.rows, self.commits = journal, value, rows, commits
        self.next = 1

    def __call__(self) -> int:
        for _ in range(self.commits):
            first, self.next = self.next, self.next + self.rows
            writes = [Write("messages", key, 1, self.value) for key in range(first, self.next)]
            old = first - 20 * self.rows
            if old > 0:
                writes += [Write("messages", key, 0, None) for key in range(old, old + self.rows)]
            self.journal.commit(writes)
        return self.commits


def backlog(directory: str, rows: int, weight: int, value: bytes, per_commit: int) -> None:
    """Fill a journal with 2,000,000 messages, open it in a fresh process, read it all, empty it."""
    path = os.path.join(directory, f"backlog-{weight}.db")
    journal = SqliteJournal(path)
    start = time.perf_counter()
    for first in range(1, rows + 1, per_commit):
        journal.commit([Write("messages", key, weight, value) for key in range(first, first + per_commit)])
    filled = time.perf_counter() - start
    journal.close()
    program = (
        "import sys, time\nfrom zmqkit.journal import SqliteJournal\nstart = time.perf_counter()\n"
        "journal = SqliteJournal(sys.argv[1])\nprint(time.perf_counter() - start, journal.totals('messages').weight)"
    )
    answer = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    opened, found = answer.stdout.split()
    print(f"{int(found):,} messages waiting, {rows:,} rows, {os.path.getsize(path) >> 20} MB")
    print(
        f"    put, {per_commit} rows a commit     {rows / filled:12,.0f} rows/s"
        f"  {rows * weight / filled:12,.0f} messages/s"
    )
    print(f"    opened by a new process   {float(opened) * 1000:8.0f} ms")
    journal = SqliteJournal(path)
    first, start = 1, time.perf_counter()
    while got := journal.read(Read("messages", first, 2**62, 1 << 20)):
        first = got[-1].key + 1
    spent = time.perf_counter() - start
    print(f"    read, 1 MB at a time      {rows / spent:12,.0f} rows/s  {rows * len(value) / spent / 1e6:8,.0f} MB/s")
    start = time.perf_counter()
    step = max(1, per_commit // 4)
    for first in range(1, rows + 1, step):
        journal.commit([Write("messages", key, 0, None) for key in range(first, min(first + step, rows + 1))])
    spent = time.perf_counter() - start
    print(f"    emptied, {step} rows a commit  {rows / spent:12,.0f} rows/s")
    journal.close()
    print(f"    then the file holds       {os.path.getsize(path) >> 10:8,} KB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=None, help="a directory on the disk to be measured (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    rounds = 3 if arguments.quick else 5
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        shapes = [("1 batch of 25 KB", BATCH, 1, 500), ("1 row of 100 B", MESSAGE, 1, 500)]
        shapes += [("1,000 rows of 100 B", MESSAGE, 1000, 100)]
        print("A queue in steady state: each commit puts rows, and deletes as many old ones.")
        for name, value, rows, commits in shapes:
            commits //= scale
            plain = plain_file(directory, len(value) * rows, commits, rounds)
            print(f"{name:22s} plain file, fdatasync {plain:10,.0f} commits/s {plain * rows:12,.0f} rows/s")
            journals: list[Journal] = [
                SqliteJournal(os.path.join(directory, f"{rows}-{len(value)}-power.db")),
                SqliteJournal(os.path.join(directory, f"{rows}-{len(value)}-process.db"), durability="process"),
                MemoryJournal(),
            ]
            for journal in journals:
                queue = Queue(journal, value, rows, commits)
                queue()
                figure = rate(queue, rounds)
                ratio = f"{figure / plain:6.2f} x plain" if journal.durability == "power" else ""
                print(
                    f"{'':22s} {journal.durability:21s} {figure:10,.0f} commits/s {figure * rows:12,.0f} rows/s {ratio}"
                )
                journal.close()
        backlog(directory, 8_000 // scale, 250, BATCH, 16)
        backlog(directory, 2_000_000 // scale, 1, MESSAGE, 1000)
        print(f"highest memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
