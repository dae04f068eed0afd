"""Where a simulated process binds and connects, in this incarnation and in later ones.

Knows the network; the part of a `SimPeer` that its other parts need not know.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from zmqkit.testing.data import DataKind, Endpoint
from zmqkit.testing.network import Dial

if TYPE_CHECKING:
    from zmqkit.protocol.core import Core
    from zmqkit.testing.peers import SimPeer
    from zmqkit.testing.world import World


class Places:
    """Addresses of a process.

    Attributes:
        dials: what it connects to, by address.
        data_kind: of its data sockets; None: it has no data plane.
        data: the data sockets of this incarnation, by address.
    """

    name: str
    world: World
    core: Core | None

    def __init__(self, data: DataKind | None) -> None:
        self.dials: dict[str, Dial] = {}
        self.data_kind = data
        self.data: dict[str, Endpoint] = {}
        self._binds: list[str] = []
        self._connects: list[str] = []
        self._data_binds: list[str] = []
        self._data_connects: list[str] = []
        self._dialled: Counter[str] = Counter()

    @property
    def _peer(self) -> SimPeer:
        return cast("SimPeer", self)

    @property
    def binds(self) -> tuple[str, ...]:
        """The addresses that it binds."""
        return tuple(self._binds)

    def bind(self, address: str) -> None:
        """Bind here, in this incarnation and all later ones."""
        self._binds.append(address)
        if self.core is not None:
            self.world.network.listen(self._peer, address)

    def unbind(self, address: str) -> None:
        """Bind there no more, from the next incarnation on: another may. ValueError while it runs."""
        if self.core is not None:
            raise ValueError(f"{self.name} runs, and is bound to {address}")
        self._binds.remove(address)

    def connect(self, address: str) -> None:
        """Connect there, in this incarnation and all later ones. Idempotent."""
        if address not in self._connects:
            self._connects.append(address)
            if self.core is not None:
                self.dials[address] = self.world.network.dial(self._peer, address)

    @property
    def connects(self) -> tuple[str, ...]:
        """The addresses that it connects to, whatever its core dials besides."""
        return tuple(self._connects)

    def disconnect(self, address: str) -> None:
        """Connect there no more; the core is told `link_down`. Idempotent."""
        if address in self._connects:
            self._connects.remove(address)
            dial = self.dials.pop(address, None)
            if dial is not None:
                self.world.network.hang_up(dial)
                self._peer.notify(0.0, "link_down", dial.link)

    @property
    def data_binds(self) -> tuple[str, ...]:
        """The addresses that its data sockets are bound to."""
        return tuple(self._data_binds)

    def bind_data(self, address: str) -> None:
        """Bind a data socket here, in this incarnation and all later ones. ValueError if it has no data plane."""
        if self.data_kind is None:
            raise ValueError(f"{self.name} has no data sockets")
        self._data_binds.append(address)
        if self.core is not None:
            self._open_data(address, bind=True)

    def unbind_data(self, address: str) -> None:
        """As `unbind`."""
        if self.core is not None:
            raise ValueError(f"{self.name} runs, and is bound to {address}")
        self._data_binds.remove(address)

    def connect_data(self, address: str) -> None:
        """Connect a data socket there, in this incarnation and all later ones. Idempotent."""
        if self.data_kind is None:
            raise ValueError(f"{self.name} has no data sockets")
        if address not in self._data_connects:
            self._data_connects.append(address)
            if self.core is not None:
                self._open_data(address, bind=False)

    def disconnect_data(self, address: str) -> None:
        """Connect there no more; the core is told `link_down`. Idempotent."""
        if address in self._data_connects:
            self._data_connects.remove(address)
            endpoint = self.data.get(address)
            if endpoint is not None:
                self.world.network.data.close(endpoint)
                self._peer.notify(0.0, "link_down", endpoint.link)

    def _open_data(self, address: str, *, bind: bool) -> None:
        assert self.data_kind is not None
        endpoint = self.world.network.data.open(self._peer, self.data_kind, address, bind=bind)
        if bind:
            self._peer._commands.append(("link_up", (endpoint.link,)))
            self._peer.wake_by(self.world.clock.now)

    def _dial(self, address: str, wanted: bool) -> None:
        """What the core asked for by `Outputs.dials`: in this incarnation only."""
        self._dialled[address] += 1 if wanted else -1
        if wanted and address not in self.dials:
            self.dials[address] = self.world.network.dial(self._peer, address)
        elif address not in self._connects and self._dialled[address] < 1:
            dial = self.dials.pop(address, None)
            if dial is not None:
                self.world.network.hang_up(dial)
                self._peer.notify(0.0, "link_down", dial.link)
