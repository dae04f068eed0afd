"""One worker process of the demo: finds the files by name, tokenizes each, pushes what it counted on.

Run as ``python -m zmqkit.demo.worker``. It keeps nothing: killed at any moment, it loses nothing.

Its standard input is a leash. A line ``go`` lets it go on where it holds a job (see ``--hold-at``); the end of the
input, which comes too when the parent is killed, stops it.
"""

from __future__ import annotations

import argparse
import os
import threading
import time

import zmqkit
from zmqkit.demo.counting import NotPython, count_source, quiet, reject_reason

PREFETCH = 8
"""How many jobs a worker has in hand: enough that it never waits for one, few enough that all get their share."""

STOP_S = 2.0
"""How long an orderly stop may take before the process just ends. It has nothing to lose."""


class Hands:
    """The handler, and the place where it can be made to hold a job.

    Args:
        name: goes into each result.
        hold_at: the how-maniest job is held, unfinished, until `go`; 0 for none.
    """

    def __init__(self, name: str, hold_at: int) -> None:
        self.name = name
        self.hold_at = hold_at
        self.begun = 0
        self.go = threading.Event()

    def count(self, body: dict[str, object]) -> dict[str, object]:
        """Handle one job: ``{"file": ..., "source": ...}`` becomes the counts of that file."""
        self.begun += 1
        if self.begun == self.hold_at and not self.go.is_set():
            os.write(1, b"holding\n")
            self.go.wait()
        label, source = body["file"], body["source"]
        assert isinstance(label, str)
        assert isinstance(source, bytes)
        try:
            return {"file": label, "worker": self.name, "count": count_source(source)}
        except NotPython as error:
            raise zmqkit.Reject(reject_reason(label, error)) from None


def obey(hands: Hands, worker: zmqkit.Worker) -> None:
    """Follow the leash until it ends. Runs in a thread of its own."""
    while order := os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would end the process with a crash
        if b"go\n" in order:
            hands.go.set()
    hands.go.set()
    worker.stop()
    time.sleep(STOP_S)
    os._exit(1)


def main() -> None:
    """Work until the leash ends."""
    parser = argparse.ArgumentParser(prog="python -m zmqkit.demo.worker", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--source", required=True, help="where files come from, as zeroconf://name")
    parser.add_argument("--sink", required=True, help="where counts go")
    parser.add_argument("--hold-at", type=int, default=0, help="hold the how-maniest job until told to go on")
    arguments = parser.parse_args()
    hands = Hands(arguments.name, arguments.hold_at)
    worker = zmqkit.Worker(
        hands.count,
        source=zmqkit.Puller(arguments.source, prefetch=PREFETCH),
        sink=arguments.sink,
        name=arguments.name,
    )
    threading.Thread(target=obey, args=(hands, worker), name="leash", daemon=True).start()
    with quiet():
        worker.run()


if __name__ == "__main__":
    main()
