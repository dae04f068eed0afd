"""Many messages waiting in a journal: how long it takes to open it again, and how much memory its pusher holds.

Run it with ``python benchmarks/backlog.py [--messages N]``. One process fills a journal without a puller; a new one
opens it and waits until the first message is delivered; RSS is read from /proc after each step.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import zmqkit


def rss_mb() -> float:
    """Resident memory of this process, and its highest so far, in MB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def fill(journal: str, count: int) -> None:
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, linger=0.0) as push:
        begun = time.perf_counter()
        push.send_many({"n": number, "text": "x" * 70, "ok": True, "price": 1.5} for number in range(count))
        seconds = time.perf_counter() - begun
        print(f"  filled with {count:,} in {seconds:.1f} s ({count / seconds:,.0f}/s), highest RSS {rss_mb():.0f} MB")


def reopen(journal: str, count: int) -> None:
    begun = time.perf_counter()
    with zmqkit.Pusher("tcp://127.0.0.1:*", journal=journal, linger=0.0) as push:
        opened = time.perf_counter() - begun
        with zmqkit.Puller(push.addresses[0], prefetch=8192) as pull:
            pull.receive().ack()
            first = time.perf_counter() - begun
            done = 1
            for batch in pull.batches(1000, 0.01):
                with batch:
                    done += len(batch)
                if done >= count:
                    break
            push.flush(60)
    print(
        f"  opened in {opened:.3f} s, first message after {first:.3f} s, highest RSS with its puller {rss_mb():.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--step", choices=("fill", "reopen"))
    parser.add_argument("--journal")
    chosen = parser.parse_args()
    if chosen.step is not None:
        {"fill": fill, "reopen": reopen}[chosen.step](chosen.journal, chosen.messages)
        return
    print(f"{chosen.messages:,} messages waiting in a journal (power):", flush=True)
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".bench-") as folder:
        for step in ("fill", "reopen"):
            command = [sys.executable, "-W", "ignore", __file__, "--step", step, "--messages", str(chosen.messages)]
            subprocess.run([*command, "--journal", os.path.join(folder, "journal.db")], check=True, timeout=600)


if __name__ == "__main__":
    main()
