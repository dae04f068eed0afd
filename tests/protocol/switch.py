"""A learning switch in a thread, for tests of the peers before and behind it."""

from __future__ import annotations

import random
from typing import Self

from zmqkit.devices.switch import SwitchCore
from zmqkit.options import Heartbeat
from zmqkit.transport.iothread import IoThread

ANY = "tcp://127.0.0.1:*"
BEAT = Heartbeat(0.3, 3)


class Switch:
    """A switch in a thread.

    Attributes:
        front: where initiators dial.
        back: where acceptors dial, if they do.
    """

    def __init__(self, initiators: str, acceptors: str, dialled: list[str], *, front: str = ANY) -> None:
        core = SwitchCore(
            name="between", sides=("frontend", "backend"), roles=({initiators}, {acceptors}), dialled=dialled,
            open_ended=not dialled, rng=random.SystemRandom(),
        )  # fmt: skip
        self._driver = IoThread(core, name="between", heartbeat=BEAT, binds=[front, *([] if dialled else [ANY])])
        # The first that runs, before any message: a HELLO that comes earlier would be dropped.
        self._driver.post(lambda now: core.bound_at(self._driver.addresses[:1], self._driver.addresses[1:], now))
        self._driver.start()
        self.front, *back = self._driver.addresses
        self.back = back[0] if back else ""
        for address in dialled:
            self._driver.connect(address)

    def close(self) -> None:
        self._driver.close(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
