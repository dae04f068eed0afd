"""For those who test what they build on zmqkit, and for zmqkit's own tests.

`job`, `message` and `run` try handlers without sockets, `serve` a service.

A deterministic simulator: pure cores in one thread, under a virtual clock, over a network and disks that fail as a
seed says. Define a `Scenario`, `simulate` one seed of it or `sweep` many.

This file only says where each name lives; a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqkit import lazily

if TYPE_CHECKING:
    from zmqkit.testing.clock import HostClock, VirtualClock
    from zmqkit.testing.contract import ContractBroken
    from zmqkit.testing.faults import Faults
    from zmqkit.testing.handlers import DeadLetter, Report, job, run
    from zmqkit.testing.journal import Disk, SimulatedCrash, SimulatedJournal
    from zmqkit.testing.messages import message
    from zmqkit.testing.network import SimulatedNetwork
    from zmqkit.testing.peers import SimPeer
    from zmqkit.testing.scenario import Failure, Outcome, Scenario, simulate
    from zmqkit.testing.served import serve
    from zmqkit.testing.sweeps import SweepFailed, Totals, sweep
    from zmqkit.testing.tickets import SimTicket
    from zmqkit.testing.world import World

_HOMES = {
    "ContractBroken": "contract",
    "DeadLetter": "handlers",
    "Disk": "journal",
    "Failure": "scenario",
    "Faults": "faults",
    "HostClock": "clock",
    "Outcome": "scenario",
    "Report": "handlers",
    "Scenario": "scenario",
    "SimPeer": "peers",
    "SimTicket": "tickets",
    "SimulatedCrash": "journal",
    "SimulatedJournal": "journal",
    "SimulatedNetwork": "network",
    "SweepFailed": "sweeps",
    "Totals": "sweeps",
    "VirtualClock": "clock",
    "World": "world",
    "job": "handlers",
    "message": "messages",
    "run": "handlers",
    "serve": "served",
    "simulate": "scenario",
    "sweep": "sweeps",
}
"""In which module of this package each public name is defined."""

__all__ = [
    "ContractBroken",
    "DeadLetter",
    "Disk",
    "Failure",
    "Faults",
    "HostClock",
    "Outcome",
    "Report",
    "Scenario",
    "SimPeer",
    "SimTicket",
    "SimulatedCrash",
    "SimulatedJournal",
    "SimulatedNetwork",
    "SweepFailed",
    "Totals",
    "VirtualClock",
    "World",
    "job",
    "message",
    "run",
    "serve",
    "simulate",
    "sweep",
]

__getattr__, __dir__ = lazily.attach(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
