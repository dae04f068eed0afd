"""A process that is killed and stopped: what all of them do, whatever their work is.

Standard input is a leash: ``finish`` ends the work in good order, its end (also when the parent is killed) at once.
On standard output stands ``open ADDRESS...``, then ``busy`` at the first piece of work, at last ``done``.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.history import History

STATS_EVERY_S = 0.2


class Process:
    """What all roles share: the leash, the history, and what is told to the parent."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.name = f"{arguments.role}-{arguments.index}"
        self.index: int = arguments.index
        self.life = arguments.life
        self.address: str = arguments.address
        self.run = arguments.run
        self.plant = arguments.plant
        self.devices: int = arguments.devices
        """How many devices stand in the path; none: peers find each other by themselves."""
        self.folder = Path(arguments.folder)
        self.history = History(self.folder / f"{self.name}.{self.life}.history")
        self.rng = random.Random(f"{arguments.seed} {self.name} {self.life}")
        self.finish = threading.Event()
        self.on_finish = self.finish.set
        self._told_busy = False

    def follow_the_leash(self, peer: Any) -> None:
        """Begin to obey the parent, and to write counters down."""
        threading.Thread(target=self._leash, daemon=True).start()
        threading.Thread(target=self._stats, args=(peer,), daemon=True).start()

    def _leash(self) -> None:
        while order := os.read(0, 1024):
            if b"finish" in order:
                self.finish.set()
                self.on_finish()
        os._exit(3)

    def _stats(self, peer: Any) -> None:
        told: dict[str, Any] = {}
        while True:
            found = peer.stats()
            if found != told:
                told = found
                self.history.mention(f"stats {json.dumps({name: each for name, each in told.items() if each})}")
            if peer.closed:
                return
            time.sleep(STATS_EVERY_S)

    def tell(self, line: str) -> None:
        """Say something to the parent."""
        os.write(1, f"{line}\n".encode())

    def busy(self) -> None:
        """The first piece of work is done."""
        if not self._told_busy:
            self._told_busy = True
            self.tell("busy")

    @abstractmethod
    def __call__(self) -> None:
        """Work until told to finish."""


def main(roles: Mapping[str, type[Process]]) -> None:
    """One life of one process: the command line of a module of roles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=list(roles))
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--address", default="tcp://127.0.0.1:*")
    parser.add_argument("--run", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--plant", default="")
    parser.add_argument("--devices", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    roles[arguments.role](arguments)()
