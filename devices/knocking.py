"""The engine of a pipeline's device of which it is not known yet whose jobs it carries: it only hears who knocks.

PULL and PUSH take no zmqkit peer, the switch's sockets take no plain one, and a plain socket that met the wrong kind
once never comes back. So nobody is let in before it is known who comes first; all connect again by themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from zmqkit import discovery
from zmqkit.address import Address, parse
from zmqkit.devices.engine import STATS
from zmqkit.devices.plain import STANDS_FOR
from zmqkit.devices.sides import Side, resolved
from zmqkit.transport.knocks import Knocks

log = logging.getLogger("zmqkit.devices")

HEARD = ("tcp", "ipc")
"""At addresses of other schemes nobody can be heard."""

ZMQKIT = frozenset({"DEALER", "ROUTER"})


def can_hear(*sides: Side) -> bool:
    """Whether anything is bound at which one can hear who knocks."""
    return any(is_audible(address) or address.scheme == "env" for side in sides for address in side.binds)


def is_audible(address: Address) -> bool:
    """Whether one can listen there without libzmq, which alone knows free paths."""
    return address.scheme in HEARD and address.rest != "*"


class KnockingEngine:
    """Lets nobody in. See `zmqkit.devices.engine.Engine`.

    Args:
        types: of the plain sockets that may come to stand here.
        plain: called when a plain peer knocks that these can serve.
        zmqkit: called when a zmqkit peer does. Of both, the first call counts.
        **more: not used.
    """

    def __init__(
        self, *, name: str, frontend: Side, backend: Side, insecure: bool, types: tuple[str, str],
        plain: Callable[[], object], zmqkit: Callable[[], object], **more: Any,
    ) -> None:  # fmt: skip
        self.name = name
        self._sides = (frontend, backend)
        self._insecure = insecure
        self._types = types
        self._plain = plain
        self._zmqkit = zmqkit
        self._paused = False
        self._decided = False
        self._knocks: Knocks | None = None
        self._addresses: list[tuple[str, ...]] = [(), ()]
        self._announcements: list[discovery.Announcement] = []

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        return self._addresses[0]

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        return self._addresses[1]

    def open(self) -> None:
        binds = [tuple(map(str, resolved(side, self._insecure))) for side in self._sides]
        audible = [tuple(each for each in of if is_audible(parse(each))) for of in binds]
        knocks = Knocks(self.name, (audible[0], audible[1]), self._heard)
        knocks.open()
        self._knocks = knocks
        for at, heard in enumerate(knocks.addresses):
            opened = iter(heard)
            self._addresses[at] = tuple(next(opened) if each in audible[at] else each for each in binds[at])
        try:
            for at, side in enumerate(self._sides):
                if side.announce is not None:
                    self._announcements.append(
                        discovery.announce(
                            side.announce, self._addresses[at], role=STANDS_FOR[self._types[at]][0],
                            instance=os.urandom(16).hex(), peer_name=self.name,
                        )
                    )  # fmt: skip
        except BaseException:
            self.close(0)
            raise

    def _heard(self, side: int, kind: str) -> None:
        """In the thread of those who listen."""
        if self._decided or self._paused:
            return
        if kind in ZMQKIT:
            self._decided = True
            self._zmqkit()
        elif STANDS_FOR[self._types[side]][1] == STANDS_FOR.get(kind, ("", ""))[0] or not kind:
            self._decided = True
            self._plain()
        else:
            log.debug("%s: a %s knocked, which no streamer serves", self.name, kind[:20])

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def stats(self) -> dict[str, int | float]:
        return {**dict.fromkeys(STATS, 0), "paused": int(self._paused)}

    def close(self, timeout: float | None) -> None:
        for each in self._announcements:
            each.close()
        if self._knocks is not None:
            self._knocks.close()

    def begin_close(self) -> None:
        if self._knocks is not None:
            self._knocks.begin_close()
        if self._announcements:  # to say goodbye takes some time
            with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends
                threading.Thread(target=self.close, args=(0.0,), name="zmqkit-farewell", daemon=True).start()
