"""Devices for asyncio and trio: the same names as `zmqkit.devices`, awaited.

The work is done in threads all the same: a loop that is busy holds nothing up.
"""

from __future__ import annotations

import anyio

from zmqkit.devices.device import GLANCE, DeviceBase
from zmqkit.devices.forwarder import ForwarderBase
from zmqkit.devices.proxy import ProxyBase
from zmqkit.devices.queue import QueueBase
from zmqkit.devices.streamer import StreamerBase
from zmqkit.peer.aio import Peer, in_thread, stop_on_signals, to_the_end
from zmqkit.peer.base import check_types, deadline_of, left_of
from zmqkit.transport.tickets import wait_async


class Device(DeviceBase, Peer):
    """What Queue, Forwarder, Streamer and Proxy have in common. See `zmqkit.devices.Device`."""

    async def run(self) -> None:
        """Carry messages until `stop`, SIGINT or SIGTERM; then close. See `zmqkit.devices.Device.run`."""
        with stop_on_signals(self):  # first: a signal while it opens counts, too
            await self.open()
            try:
                await wait_async(self._over)
            finally:
                await to_the_end(self.close)

    async def pause(self) -> None:
        """Let nothing through until `resume`. See `zmqkit.devices.Device.pause`."""
        await in_thread(self._set_paused, True)

    async def resume(self) -> None:
        """Go on after `pause`. See `zmqkit.devices.Device.resume`."""
        await in_thread(self._set_paused, False)

    async def wait_for_peers(self, count: int = 1, *, timeout: float | None = None) -> None:
        """Wait until so many sessions of zmqkit peers go through it. See `zmqkit.devices.Device.wait_for_peers`."""
        check_types(count=(count, int))
        deadline = deadline_of(timeout)
        await self._start_async()
        while not self._look(count):
            left = left_of(deadline)
            if left == 0:
                raise self._too_few_sessions(count, timeout)
            await anyio.sleep(GLANCE if left is None else min(left, GLANCE))

    async def _start_async(self) -> None:
        self._check_open()
        if not self._opened:
            await in_thread(self._start)

    async def _close(self, linger: float | None) -> None:
        # Not to be cancelled halfway: it is bounded, and whoever cancels expects everything to be given back.
        await to_the_end(in_thread, self._close_now, linger)


class Queue(QueueBase, Device):
    """Carries requests from its frontend to its backend, and answers back. See `zmqkit.devices.Queue`."""


class Forwarder(ForwarderBase, Device):
    """Carries what is published at its frontend to the subscribers at its backend. See `zmqkit.devices.Forwarder`."""


class Streamer(StreamerBase, Device):
    """Carries jobs from its frontend to its backend. See `zmqkit.devices.Streamer`."""


class Proxy(ProxyBase, Device):
    """Carries messages of plain peers between two sockets. See `zmqkit.devices.Proxy`."""


__all__ = ["Device", "Forwarder", "Proxy", "Queue", "Streamer"]
