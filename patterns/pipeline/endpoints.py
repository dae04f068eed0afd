"""Where a plain pusher or puller is: its addresses are those of a PUSH or PULL socket (docs/protocol.md, section 7.6).

Knows peers, addresses and the driver; neither side's core but by the names that both have.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final

from zmqkit.address import Address
from zmqkit.errors import UsageError
from zmqkit.peer.base import PeerBase, check_types
from zmqkit.transport.driver import DataKind, Driver

log = logging.getLogger("zmqkit.pipeline")

CLOSING: Final = 1.0
"""Seconds in which a core without sessions has finished."""

FOR_EVER: Final = 1e6
"""Seconds; what libzmq takes at most for a linger is some weeks more."""


class PipePeer(PeerBase):
    """A peer that may be a plain socket instead of one with sessions."""

    _socket: ClassVar[DataKind]
    """Which one."""
    _core: Any
    _plain = False

    def _set_plain(self, plain: bool, **given: bool) -> None:
        """Take ``plain=``. Raises `UsageError` for the first of what was given, by name, and makes no sense with it."""
        check_types(plain=(plain, bool))
        self._plain = plain
        if not plain:
            return
        for name, is_given in given.items():
            if is_given:
                raise UsageError(f"nobody answers over a plain {self._socket} socket: plain=True goes without {name}=")
        for address in (*self._to_bind, *self._to_connect):
            self._check_plain_address(address)

    @staticmethod
    def _check_plain_address(address: Address) -> None:
        if any(each.scheme == "inproc" for each in (address, *address.members)):
            raise UsageError(f"{address}: plain sockets are reached over tcp:// and ipc://, for within this process "
                             "zmqkit meets only itself")  # fmt: skip

    def _endpoints(self, binds: list[str]) -> dict[str, Any]:
        return {"data": self._socket, "data_binds": binds} if self._plain else super()._endpoints(binds)

    def _bound(self, driver: Driver) -> tuple[str, ...]:
        return driver.data_addresses if self._plain else super()._bound(driver)

    def _dial(self, driver: Driver, address: str) -> None:
        if self._plain:
            driver.connect_data(address)
        else:
            super()._dial(driver, address)

    def _hang_up(self, driver: Driver, address: str, now: float) -> None:
        if not self._plain:
            super()._hang_up(driver, address, now)
            return
        self._core.link_forgotten(("d", address), now)
        driver.disconnect_data(address)

    def _dialled_in_use(self) -> set[str]:
        if not self._plain:
            return super()._dialled_in_use()
        found: set[str] = self._core.connected()
        return found

    def _tell_alone(self, now: float) -> None:
        if not self._plain:
            super()._tell_alone(now)
        elif not (self._closed or self._core.connected()):
            log.warning("%s: %s yet", self.name, self._company())
