"""What the processes of a run of pipelines have in common: how their peers are made, and where effects are counted."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import zmqkit
from tests.chaos.devices import plan as devices
from tests.chaos.process import Process

HEARTBEAT = zmqkit.Heartbeat(interval=0.2, liveness=3)
PATIENT = zmqkit.Heartbeat(interval=devices.INTERVAL_S, liveness=round(devices.BOUND_S / devices.INTERVAL_S))
"""With devices in the path."""
EFFECTS = "effects.db"
"""The inbox that all sinks share; in its table `effects` stands a row for each result that was counted."""


class Peer(Process):
    """A process with peers of pipelines."""

    def common(self, address: str, name: str) -> zmqkit.Common:
        """How a peer is made that binds this address, under this name, or dials it."""
        common: zmqkit.Common = {
            "heartbeat": PATIENT if self.devices else HEARTBEAT,
            "name": f"{self.name}.{self.life}",
        }
        if address.startswith(">"):
            return {**common, "connect": address[1:]}
        return {**common, "bind": address, "announce": None if self.devices else name}


def make_databases(folder: Path, seed: int, senders: int) -> None:
    """The databases of a run: of the sinks, and of each sender. They recover in another way in each journal mode."""
    rng = Random(f"{seed} databases")
    tables = {EFFECTS: "effects(n integer primary key, id text, item text, place integer)"}
    tables |= {f"sender-{index}.db": "orders(item text, outputs integer)" for index in range(senders)}
    for name, table in tables.items():
        connection = sqlite3.connect(folder / name)
        connection.execute(f"pragma journal_mode = {rng.choice(('wal', 'delete'))}")
        connection.execute(f"create table {table}")
        connection.commit()
        connection.close()
