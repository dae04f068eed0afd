"""The process of the demo that hands out the files: a pusher with a journal.

Run as ``python -m zmqkit.demo.sender``. Killed at any moment, its successor opens the same journal and sends everything
once more: each file under the same id, so that what is in the journal, or was there, is not stored again.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmqkit
from zmqkit.demo.counting import find_sources
from zmqkit.demo.leash import Leash

CHUNK = 64
"""How many files are handed over at a time."""

REMEMBERED_S = 86_400.0
"""How long the ids of files are remembered."""

TICK_S = 0.05
"""Between two looks whether all has settled."""

JOIN_S = 10.0
"""How long it waits at the end for a worker that has just been started."""


class Sender:
    """What is sent, and how far it is.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.sources = find_sources(arguments.files)
        self.hold_at: int = arguments.hold_at
        self.workers: int = arguments.workers
        self.sent = 0
        self.again = 0
        self.first_life = not arguments.address
        self.pusher = zmqkit.Pusher(
            arguments.address or "tcp://127.0.0.1:*",
            journal=arguments.journal,
            durability="power",
            dedupe=zmqkit.Window(seconds=REMEMBERED_S, count=max(100_000, len(self.sources))),
            announce=arguments.announce,
            name=arguments.name,
            linger=0.0,  # left early, it has nobody to serve: the workers go first
        )
        self.leash = Leash(self.pusher.stop)

    def run(self) -> None:
        """Send all, wait until all has settled, and tell what died."""
        pusher, leash = self.pusher, self.leash
        pusher.on(zmqkit.events.JobRedelivered, self._note_redelivered)
        with pusher:
            leash.tell(open=pusher.addresses[0])
            leash.follow()
            if self.first_life:
                self._wait_for_workers()
            leash.tell(joined=True)
            self._send()
            while not leash.ended.is_set():
                with contextlib.suppress(zmqkit.WaitTimeout):
                    pusher.flush(timeout=TICK_S)
                    break
                leash.tell_now_and_then(self.told)
            with contextlib.suppress(zmqkit.WaitTimeout):
                pusher.wait_for_peers(self.workers, timeout=JOIN_S)
            rejected = sorted(letter.reason for letter in pusher.dead_letters())
            leash.tell(**self.told(), settled=True, rejected=rejected)
            leash.ended.wait()

    def told(self) -> dict[str, Any]:
        """How far it is."""
        stats = self.pusher.stats()
        names = ("delivered", "redelivered", "acked")
        dead = len(self.pusher.dead_letters())
        return {"sent": self.sent, "dead": dead, **{name: int(stats[name]) for name in names}}

    def _note_redelivered(self, event: zmqkit.events.JobRedelivered) -> None:
        # Told also while files are held.
        self.again += event.count
        self.leash.tell(again=event.count, redelivered=self.again)

    def _wait_for_workers(self) -> None:
        while not self.leash.ended.is_set():
            with contextlib.suppress(zmqkit.WaitTimeout):
                self.pusher.wait_for_peers(self.workers, timeout=TICK_S)
                break

    def _send(self) -> None:
        for at in range(0, len(self.sources), CHUNK):
            self.pusher.send_many(self._files(at))
            before, self.sent = self.sent, min(at + CHUNK, len(self.sources))
            if before < self.hold_at <= self.sent:
                self.leash.tell(**self.told())
                self.leash.hold()
            self.leash.tell_now_and_then(self.told)

    def _files(self, at: int) -> Iterator[zmqkit.Outgoing[dict[str, object]]]:
        for index, source in enumerate(self.sources[at : at + CHUNK], at):
            yield zmqkit.Outgoing({"file": source.label, "source": source.read()}, id=f"file-{index}")


def main() -> None:
    """Send until the leash ends."""
    parser = argparse.ArgumentParser(prog="python -m zmqkit.demo.sender", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--files", type=Path, required=True, help="the folder whose files are sent")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--announce", required=True, help="under which name workers find it")
    parser.add_argument("--workers", type=int, required=True, help="how many of these there are")
    parser.add_argument("--address", default="", help="where the one before it was bound; none: it is the first")
    parser.add_argument("--hold-at", type=int, default=0, help="hold when so many files are sent")
    # Ended early, the pusher warns of what is left in its journal; but that goes with the folder.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        Sender(parser.parse_args()).run()


if __name__ == "__main__":
    main()
