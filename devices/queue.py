"""Queue: requests from many clients to many workers or servers, and the answers back."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from zmqkit.devices.device import At, Device, DeviceBase, DeviceCommon
from zmqkit.devices.engine import Engine


class QueueBase(DeviceBase):
    """A queue, without the waiting."""

    _kind = "queue"
    _role = "queue"
    _types = ("ROUTER", "DEALER")

    def __init__(self, frontend: At, backend: At, *, plain: bool | None = None, **common: Unpack[DeviceCommon]) -> None:
        super().__init__({"frontend": frontend, "backend": backend}, plain, common)

    def _zmqkit_engine(self, **given: Any) -> Engine:
        from zmqkit.devices.switching import SwitchEngine

        return SwitchEngine(roles=("client", "server"), **given)


class Queue(QueueBase, Device):
    """Carries requests from its frontend to its backend, and answers back (ROUTER-DEALER).

    ::

        with zmqkit.devices.Queue("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556") as queue:
            queue.run()

    To plain peers it is ZeroMQ's queue: REQ and DEALER in front, REP, ROUTER and DEALER behind, in turn. To zmqkit
    peers it is a learning switch: each Client has a session with each Server, as if there were no device.

    Args:
        frontend: where clients are: an address, several, or a `Side`.
        backend: where servers are.
        plain: True: plain ZeroMQ peers; False: zmqkit peers; None: whoever comes first decides. Say it where it counts.
        **common: see `zmqkit.devices.DeviceCommon`.

    Raises:
        AddressError: an address cannot be read.
        InsecureAddress: one is beyond this host, without insecure=True.
        UsageError: both sides have one address, or cannot be served as they are.
    """
