"""Where publishers and subscribers are: the user's addresses are those of the data plane, recovery stands beside them.

Knows peers, addresses and the driver; neither side's core but by the names that both have.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from zmqkit import checks
from zmqkit.address import Address, parse, require_secure
from zmqkit.errors import UsageError
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import places
from zmqkit.patterns.pubsub.wire import FRAME_BYTES, HEAD_BYTES
from zmqkit.peer.base import Addresses, PeerBase
from zmqkit.transport.driver import DataKind, Driver


class DataPeer(PeerBase):
    """A peer whose addresses are data endpoints."""

    _data: ClassVar[DataKind]
    _core: Any
    _plain = False
    _recovery: list[Address] | None = None

    def _set_recovery(self, recovery: Addresses | None) -> None:
        """Take the user's addresses for recovery; None: they are derived. Raises as addresses of peers do."""
        if recovery is None:
            return
        found = [parse(each) for each in checks.several("recovery", recovery)]
        for each in found:
            if each.looked_up:
                raise UsageError(f"recovery={each} cannot be bound: name the address itself")
            require_secure(each, self._insecure, "bind")
        if found and not self._to_bind:
            raise UsageError("recovery= is bound beside a bound address: a peer that only connects finds it itself")
        if self._plain:
            raise UsageError("plain=True has no recovery channel: leave recovery= out")
        for data in self._to_bind if found else ():
            if not any(places.fits(data, each) for each in found):
                raise UsageError(f"recovery= names nothing on the transport and host of {data}: nobody follows a "
                                 f"publisher's word to another host")  # fmt: skip
        self._recovery = found

    def _endpoints(self, binds: list[str]) -> dict[str, Any]:
        recovery: list[str] = []
        if self._recovery is not None:
            recovery = [str(each) for each in self._recovery]
        elif not self._plain:
            recovery = places.beside([parse(each) for each in binds])
        data: DataKind = "PUB" if self._plain and self._data == "XPUB" else self._data
        return {"binds": recovery, "data": data, "data_binds": binds}

    def _frame_limits(self) -> Limits:
        # A publisher may fill a frame with so many messages, whatever its subscribers' limits are, and one message may
        # be as large as the limit says. Neither counts what is told of the messages beside their bodies.
        size = max(self._limits.frame_bytes, FRAME_BYTES) + HEAD_BYTES
        return self._limits if self._plain else dataclasses.replace(self._limits, frame_bytes=size)

    def _told_recovery(self, driver: Driver) -> dict[str, str]:
        """Bound data address -> what to tell there of where recovery is."""
        return places.told(driver.data_addresses, driver.addresses)

    def _bound(self, driver: Driver) -> tuple[str, ...]:
        return driver.data_addresses

    @property
    def recovery_addresses(self) -> tuple[str, ...]:
        """Where the recovery channel is bound, ports filled in; empty before opening, and if nothing is bound."""
        return self._driver.addresses if self._driver is not None else ()

    def _dial(self, driver: Driver, address: str) -> None:
        driver.connect_data(address)

    def _dialled_in_use(self) -> set[str]:
        found: set[str] = self._core.connected()
        return found

    def _tell_alone(self, now: float) -> None:
        if not self._plain:  # nobody says there that he came
            super()._tell_alone(now)

    def _hang_up(self, driver: Driver, address: str, now: float) -> None:
        self._core.link_forgotten(("d", address), now)
        driver.disconnect_data(address)
