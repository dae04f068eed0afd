"""What a simulated user waits on."""

from __future__ import annotations

from typing import Any

from zmqkit.testing.contract import ContractBroken


class SimTicket:
    """Takes the outcome of one verb, once; what the driver's ticket is to a waiter."""

    __slots__ = ("about", "done", "result")

    def __init__(self, about: Any = None) -> None:
        self.about = about
        self.done = False
        self.result: object = None

    def resolve(self, result: object) -> None:
        """Called by the peer with the reply. ContractBroken on the second one."""
        if self.done:
            raise ContractBroken(f"a second reply, {result!r}, to {self.about!r}, which was told {self.result!r}")
        self.done = True
        self.result = result
