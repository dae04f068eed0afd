"""Where the time of a message goes: what each stage of a durable pipeline takes, by sampling both processes.

Run it with ``python -m benchmarks.pipeline_stages [ROW ...] [--messages N] [--quick]``; rows: batches, jobs, aio jobs,
as in benchmarks/pipeline.py; and 16 threads, 1,000 tasks, as in benchmarks/pipeline_features.py. It needs py-spy
(``pip install zmqkit[bench]``), which looks at the stacks of all threads that run, some hundred times a second. A
sample belongs to the innermost function of zmqkit on its stack: what C code takes (msgpack, SQLite, libzmq) belongs to
who called it. Waiting for the disk is in it, as the journal's; waiting for another thread or process is not.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable

from benchmarks.pipeline import durable, pull_aio, pull_batches, pull_jobs
from benchmarks.pipeline_features import by_tasks, by_threads
from benchmarks.places import folder, run_folder

RATE = 400

ROWS: dict[str, tuple[Callable[[int], object], int]] = {
    "batches": (lambda count: durable(count, pull_batches), 1),
    "jobs": (lambda count: durable(count, pull_jobs), 1),
    "aio jobs": (lambda count: durable(count, pull_aio), 1),
    "16 threads": (lambda count: by_threads(16, count), 20),
    "1,000 tasks": (lambda count: by_tasks(1000, count), 10),
}
"""What runs, and with how many times fewer messages."""

STAGES = (
    ("encode, decode", r"zmqkit/codec\.py"),
    ("journal: SQLite and the disk", r"zmqkit/journal/"),
    ("sockets: libzmq", r"zmqkit/transport/(wires|links|sockets|connections|sleeping|wakeup|outlets|knocks)\.py"),
    ("sessions: order, credit, life", r"zmqkit/protocol/"),
    ("pusher: accept and store", r"patterns/pipeline/(storing|admission|rows|hands|dedupe|lanes|walltime)\.py"),
    ("pusher: lend and settle", r"patterns/pipeline/(pusher|backlog|leases|runs|letters)\.py"),
    ("messages: pack and read", r"patterns/pipeline/wire\.py"),
    ("face: send", r"patterns/pipeline/(sending|pushing|pushing_aio|bulk|outgoing)\.py"),
    ("puller: hand out and gather acks", r"patterns/pipeline/puller\.py"),
    ("face: take and ack", r"patterns/pipeline/(taking|jobs|pulling|pulling_aio|pace)\.py"),
    ("turns, wake-ups, waiting", r"zmqkit/(transport|peer)/"),
    ("the benchmark's own loop", r"pipeline\w*\.py"),
)


def stage_of(stack: str) -> str:
    """The stage of the innermost function that belongs to one."""
    if "importlib" in stack:
        return "starting and ending"
    for frame in reversed(stack.split(";")):
        for name, where in STAGES:
            if re.search(where, frame):
                return name
    return "starting and ending"


def side_of(stack: str) -> str:
    """Whose it is: the other process is the only one that was spawned."""
    return "puller" if "spawn_main" in stack else "pusher"


def shares(lines: Iterable[str]) -> dict[str, collections.Counter[str]]:
    """Samples by side and stage, from lines of ``frame;frame;... count``."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if "resource_tracker" not in stack:
            found[side_of(stack)][stage_of(stack)] += int(count)
    return found


def measure(row: str, messages: int) -> None:
    """Run one row under the sampler, and print its table."""
    with folder() as place:
        samples = os.path.join(place, "samples")
        command = ["py-spy", "record", "--subprocesses", "--nonblocking", "-r", str(RATE), "-f", "raw", "-o", samples]
        command += ["--", sys.executable, "-m", "benchmarks.pipeline_stages", "--step", row]
        run = subprocess.run([*command, "--messages", str(messages)], capture_output=True, text=True, timeout=900)
        if not os.path.exists(samples):
            raise SystemExit(f"py-spy cannot look into processes here: {run.stderr[-500:]}")
        with open(samples) as lines:
            found = shares(lines)
    print(f"{row}, {messages:,} messages: running, or waiting for the disk")
    for side, stages in found.items():
        stages.pop("starting and ending", 0)
        total = sum(stages.values())
        print(f"  {side:<36}{total / RATE / messages * 1e6:>8.2f} us a message")
        for name, count in stages.most_common():
            print(f"    {name:<34}{count / RATE / messages * 1e6:>8.2f} us {count / total * 100:>6.1f} %")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--quick", action="store_true", help="few messages: shows that it runs")
    parser.add_argument("--step", choices=ROWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step is not None:
        warnings.simplefilter("ignore")  # what senders leave waiting
        ROWS[chosen.step][0](chosen.messages)
        return
    unknown = [row for row in chosen.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    if shutil.which("py-spy", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))) is None:
        print("py-spy is not installed: pip install 'zmqkit[bench]'")
        return
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    with run_folder():
        for row in chosen.rows or ROWS:
            measure(row, (100_000 if chosen.quick else chosen.messages) // ROWS[row][1])


if __name__ == "__main__":
    main()
