"""Proxy: any two plain sockets."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Unpack

from zmqkit.devices.device import At, Device, DeviceBase, DeviceCommon


class ProxyBase(DeviceBase):
    """A proxy, without the waiting."""

    _kind = "proxy"
    _role = "proxy"

    def __init__(
        self,
        frontend: At,
        backend: At,
        *,
        types: Sequence[str] = ("ROUTER", "DEALER"),
        **common: Unpack[DeviceCommon],
    ) -> None:
        kinds = tuple(types) if isinstance(types, Sequence) and not isinstance(types, str) else ()
        if len(kinds) != 2 or not all(isinstance(each, str) for each in kinds):
            raise TypeError(f"types must be two kinds of sockets, as in ('ROUTER', 'DEALER'), got {types!r}")
        self._types = (kinds[0].upper(), kinds[1].upper())
        super().__init__({"frontend": frontend, "backend": backend}, True, common)


class Proxy(ProxyBase, Device):
    """Carries messages of plain ZeroMQ peers between two sockets of any kinds that go together.

    ::

        with zmqkit.devices.Proxy("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558", types=("PULL", "PUSH")) as proxy:
            proxy.run()

    Args:
        frontend: an address, several, or a `Side`.
        backend: the other side.
        types: of the socket in front and the one at the back: ROUTER-DEALER, XSUB-XPUB, PULL-PUSH, the same turned
            round, DEALER-DEALER or ROUTER-ROUTER.
        **common: see `zmqkit.devices.DeviceCommon`.

    Raises:
        AddressError: an address cannot be read.
        InsecureAddress: one is beyond this host, without insecure=True.
        UsageError: both sides have one address, or no proxy stands between these kinds.
    """
