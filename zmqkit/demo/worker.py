"""One worker process of the demo: finds the files by name, tokenizes each, pushes what it counted on.

Run as ``python -m zmqkit.demo.worker``. It keeps nothing: killed at any moment, it loses nothing.
"""

from __future__ import annotations

import argparse

import zmqkit
from zmqkit.demo.counting import NotPython, count_source, quiet, reject_reason
from zmqkit.demo.leash import Leash

PREFETCH = 8
"""How many jobs a worker has in hand: enough that it never waits for one, few enough that all get their share."""


class Hands:
    """The handler, and the place where it can be made to hold a job.

    Args:
        name: goes into each result.
        hold_at: the how-maniest job is held, unfinished, until the leash lets it go; 0 for none.
    """

    def __init__(self, name: str, hold_at: int) -> None:
        self.name = name
        self.hold_at = hold_at
        self.begun = 0
        self.leash: Leash | None = None

    def count(self, body: dict[str, object]) -> dict[str, object]:
        """Handle one job: ``{"file": ..., "source": ...}`` becomes the counts of that file."""
        self.begun += 1
        if self.begun == self.hold_at and self.leash is not None:
            self.leash.hold()
        label, source = body["file"], body["source"]
        assert isinstance(label, str)
        assert isinstance(source, bytes)
        try:
            return {"file": label, "worker": self.name, "count": count_source(source)}
        except NotPython as error:
            raise zmqkit.Reject(reject_reason(label, error)) from None


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
    hands.leash = Leash(worker.stop)
    hands.leash.follow()
    with quiet():
        worker.run()


if __name__ == "__main__":
    main()
