"""Many messages waiting in a journal: what a message costs then, on the disk, too, and how soon the journal is open.

Run it with ``python -m benchmarks.backlog [--waiting N ...] [--messages N] [--rounds N] [--quick]``. For 1,000,
1,000,000 and 10,000,000 waiting messages: one process fills a journal without a puller; a new one opens it and waits
until the first message is delivered. Then it sends 1,000 messages and another process takes and acks 1,000 from the
front, in turns, so that as many wait as before. The cost of a message is the pusher's CPU time, and the time on the
clock, for both; the median of the rounds. RSS is the highest, from /proc. Bodies are about 100 bytes, the journal is at
``power``. With ``--drain`` all that waits is taken at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import zmqkit
from benchmarks.pipeline_peers import body
from benchmarks.places import folder, run_folder
from benchmarks.pubsub_peers import Pipe, hear, process

WAITING = (1_000, 1_000_000, 10_000_000)
CHUNK = 1_000
PATIENCE_S = 1800.0


def rss_mb() -> float:
    """The highest resident memory of this process so far, in MB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def on_disk(journal: str) -> int:
    """Bytes of the journal's files."""
    place, name = os.path.split(journal)
    return sum(each.stat().st_size for each in os.scandir(place) if each.name.startswith(name))


def fill(journal: str, waiting: int) -> dict[str, float]:
    """Send so many, without anybody there to take them."""
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, linger=0.0) as push:
        empty = on_disk(journal)
        begun = time.perf_counter()
        push.send_many(body(number) for number in range(waiting))
        seconds = time.perf_counter() - begun
    return {
        "filled_s": seconds,
        "fill_rss": rss_mb(),
        "empty_mb": empty / 1e6,
        "bytes": (on_disk(journal) - empty) / waiting,
    }


def take(pipe: Pipe, address: str) -> None:
    """A puller in a process of its own: takes and acks as many as it is told, until it is told 0."""
    with zmqkit.Puller(address, prefetch=CHUNK) as pull:
        pull.receive().ack(wait=True)
        pipe.send("first")
        batches = pull.batches(CHUNK, 0.0)
        while left := pipe.recv():
            while left > 0:
                with next(batches) as batch:
                    left -= len(batch)
            pipe.send("taken")


def reopen(journal: str, waiting: int, messages: int, rounds: int, drain: bool) -> dict[str, float]:
    """Open it, and let messages in and out while as many wait as before."""
    begun = time.perf_counter()
    push = zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, linger=0.0)
    with push:
        opened = time.perf_counter() - begun
        with process(take, push.addresses[0]) as (pipe, _):
            push.wait_for_peers(1, timeout=60)
            there = time.perf_counter()
            assert hear(pipe, PATIENCE_S) == "first"
            first = opened + time.perf_counter() - there
            cpu, wall = [], []
            for _ in range(rounds + 1):
                started, busy = time.perf_counter(), time.process_time()
                for _ in range(messages // CHUNK):
                    push.send_many(body(number) for number in range(CHUNK))
                    pipe.send(CHUNK)
                    hear(pipe)
                cpu.append((time.process_time() - busy) / messages * 1e6)
                wall.append((time.perf_counter() - started) / messages * 1e6)
            found = {
                "opened_s": opened,
                "first_s": first,
                "cpu_us": statistics.median(cpu[1:]),
                "wall_us": statistics.median(wall[1:]),
                "rss": rss_mb(),
            }
            if drain:
                pipe.send(push.stats()["waiting"] - CHUNK)
                hear(pipe, PATIENCE_S)
                found["drained_rss"] = rss_mb()
            with contextlib.suppress(EOFError):
                pipe.send(0)
                hear(pipe)
    return found


def in_a_process(step: str, journal: str, waiting: int, chosen: argparse.Namespace) -> dict[str, float]:
    """A process for each step: its highest RSS is its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.backlog", "--step", step, "--journal", journal]
    command += ["--waiting", str(waiting), "--messages", str(chosen.messages), "--rounds", str(chosen.rounds)]
    command += ["--drain"] if chosen.drain else []
    run = subprocess.run(command, check=True, timeout=PATIENCE_S, stdout=subprocess.PIPE, text=True)
    told: dict[str, float] = json.loads(run.stdout)
    return told


def tell(waiting: int, found: dict[str, float], least: float) -> None:
    """What one size has shown."""
    print(f"{waiting:,} messages waiting:")
    print(f"  filled with {waiting / found['filled_s']:,.0f}/s, highest RSS {found['fill_rss']:.0f} MB")
    print(f"  on disk {found['bytes']:,.0f} bytes a message, beside {found['empty_mb']:.1f} MB of an empty journal")
    print(f"  opened again in {found['opened_s']:.3f} s, first message after {found['first_s']:.3f} s")
    print(
        f"  a message in and one out: {found['cpu_us']:.2f} us of the pusher's CPU, {found['wall_us']:.2f} us on the "
        f"clock: {found['cpu_us'] / least:.2f} x that of the first size (at most 1.2)"
    )
    print(f"  highest RSS {found['rss']:.0f} MB (at most 150)")
    if "drained_rss" in found:
        print(f"  all taken: highest RSS {found['drained_rss']:.0f} MB")
    sys.stdout.flush()


def step(chosen: argparse.Namespace) -> Any:
    """One step, in a process of its own."""
    (waiting,) = chosen.waiting
    if chosen.step == "fill":
        return fill(chosen.journal, waiting)
    return reopen(chosen.journal, waiting, chosen.messages, chosen.rounds, chosen.drain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, nargs="+", default=WAITING, metavar="N")
    parser.add_argument("--messages", type=int, default=100_000, help="that go in and out, a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drain", action="store_true", help="take all at the end")
    parser.add_argument("--quick", action="store_true", help="few messages: shows that it runs")
    parser.add_argument("--step", choices=("fill", "reopen"), help=argparse.SUPPRESS)
    parser.add_argument("--journal", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step is not None:
        print(json.dumps(step(chosen)))
        return
    if chosen.quick:
        chosen.waiting, chosen.messages, chosen.rounds = (1_000, 20_000), 5_000, 1
    least = 0.0
    with run_folder():
        for waiting in chosen.waiting:
            with folder() as place:
                journal = os.path.join(place, "journal.db")
                found = in_a_process("fill", journal, waiting, chosen)
                found |= in_a_process("reopen", journal, waiting, chosen)
            least = least or found["cpu_us"]
            tell(waiting, found, least)


if __name__ == "__main__":
    main()
