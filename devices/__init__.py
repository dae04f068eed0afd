"""Devices: what stands between peers and passes messages on. Installs as ``zmqkit.devices``.

::

    from zmqkit.devices import Queue

    Queue("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556").run()

`zmqkit.devices.aio` bears the same names for asyncio and trio; `DeviceProcess` runs one in a process of its own. This
file only says where each name lives; a name is imported when it is first used.

The folder stands at the top of the repository, so a program started there could import it under its bare
name and get a second copy of every class; this file refuses that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqkit import lazily

if __name__ != "zmqkit.devices":
    raise ImportError(f"the package is called zmqkit.devices, not {__name__}: import zmqkit.devices instead")

if TYPE_CHECKING:
    from zmqkit.devices import aio
    from zmqkit.devices.device import Device, DeviceCommon
    from zmqkit.devices.forwarder import Forwarder
    from zmqkit.devices.processes import DeviceProcess
    from zmqkit.devices.proxy import Proxy
    from zmqkit.devices.queue import Queue
    from zmqkit.devices.sides import Side
    from zmqkit.devices.streamer import Streamer

_MODULES = ("aio",)

_HOMES = {
    "Device": "zmqkit.devices.device",
    "DeviceCommon": "zmqkit.devices.device",
    "DeviceProcess": "zmqkit.devices.processes",
    "Forwarder": "zmqkit.devices.forwarder",
    "Proxy": "zmqkit.devices.proxy",
    "Queue": "zmqkit.devices.queue",
    "Side": "zmqkit.devices.sides",
    "Streamer": "zmqkit.devices.streamer",
}
"""Where each public name is defined."""

__all__ = [
    "Device",
    "DeviceCommon",
    "DeviceProcess",
    "Forwarder",
    "Proxy",
    "Queue",
    "Side",
    "Streamer",
    "aio",
]

__getattr__, __dir__ = lazily.attach(__name__, _HOMES, _MODULES)
