"""Forwarder: what publishers publish, to subscribers elsewhere."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from zmqkit.devices.device import At, Device, DeviceBase, DeviceCommon
from zmqkit.devices.engine import Engine


class ForwarderBase(DeviceBase):
    """A forwarder, without the waiting."""

    _kind = "forwarder"
    _role = "forwarder"
    _types = ("XSUB", "XPUB")

    def __init__(self, frontend: At, backend: At, *, plain: bool | None = None, **common: Unpack[DeviceCommon]) -> None:
        super().__init__({"frontend": frontend, "backend": backend}, plain, common)

    def _zmqkit_engine(self, **given: Any) -> Engine:
        from zmqkit.devices.forwarding import ForwardEngine

        return ForwardEngine(**given)


class Forwarder(ForwarderBase, Device):
    """Carries what is published at its frontend to the subscribers at its backend (XSUB-XPUB).

    ::

        with zmqkit.devices.Forwarder("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558") as forwarder:
            forwarder.run()

    Only what somebody subscribed to comes through. To zmqkit peers it is a switch for what subscribers missed, besides:
    then each side opens a second port, the next one if it is free. Let both through a firewall.

    Args:
        frontend: where publishers are: an address, several, or a `Side`.
        backend: where subscribers are.
        plain: True: plain ZeroMQ peers; False: zmqkit peers (and plain subscribers, less quickly); None: whoever comes
            first decides. Say it where it counts.
        **common: see `zmqkit.devices.DeviceCommon`.

    Raises:
        AddressError: an address cannot be read.
        InsecureAddress: one is beyond this host, without insecure=True.
        UsageError: both sides have one address, or cannot be served as they are.
    """
