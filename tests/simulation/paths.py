"""How those who connect in a scenario reach those who are to be reached: here directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from zmqkit.testing.world import World


class Place(TypedDict, total=False):
    """Keywords of `World.peer`."""

    bind: Sequence[str]
    connect: Sequence[str]


class Direct:
    """Nothing lies between. `tests.simulation.switched` puts devices there."""

    def arrange(self, world: World, names: Sequence[str], roles: tuple[str, str]) -> None:
        """Make what lies between, before the peers: `roles` are of those who connect, and of `names`."""

    def place(self, name: str) -> Place:
        """Where one of the names waits for those who connect."""
        return {"bind": [f"tcp://{name}:1"]}

    def reach(self, names: Sequence[str]) -> list[str]:
        """What is connected to, to reach all of the names."""
        return [f"tcp://{name}:1" for name in names]
