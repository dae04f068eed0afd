"""Where recovery channels are: beside the data addresses, unless the user says otherwise.

Knows addresses, and asks the system which ports are free; no socket of ZeroMQ's, no core.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from zmqkit.address import Address, parse

SUFFIX = ".recovery"
"""What a path or a name gets appended."""


def beside(data: Sequence[Address]) -> list[str]:
    """What to bind for recovery, one for each data address.

    Of tcp the next port if it is free now, else any; of ipc and inproc the name with `SUFFIX`.
    """
    return [_beside(each) for each in data]


def _beside(address: Address) -> str:
    if address.scheme != "tcp":
        return str(address) if address.rest == "*" else f"{address}{SUFFIX}"
    host = address.rest.rpartition(":")[0]
    port = address.port + 1
    if not address.port or port > 65535 or not _is_free(address.host, port):
        return f"tcp://{host}:*"
    return f"tcp://{host}:{port}"


def _is_free(host: str, port: int) -> bool:
    """Whether this port can be bound now. Of a host that only ZeroMQ can read, such as a device: no."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        probe.bind(("" if host == "*" else host, port))
        return True
    return False


def told(data: Sequence[str], recovery: Sequence[str]) -> dict[str, str]:
    """What to tell at each bound data address of where recovery is.

    ``:PORT`` where it is the same host, as whoever asks calls it; of ipc and inproc the whole address; "" where there
    is none. Elsewhere no subscriber would go (`zmqkit.patterns.pubsub.reach`).

    Args:
        data: bound addresses.
        recovery: bound addresses; where there are as many, they go in pairs.
    """
    pairs = len(data) == len(recovery)
    return {each: _told(parse(each), recovery[at : at + 1] if pairs else recovery) for at, each in enumerate(data)}


def _told(data: Address, recovery: Sequence[str]) -> str:
    for each in map(parse, recovery):
        if fits(data, each):
            return f":{each.port}" if each.scheme == "tcp" else str(each)
    return ""


def fits(data: Address, recovery: Address) -> bool:
    """Whether whoever reaches the one address is told of the other: of the same transport, and host."""
    if recovery.scheme != data.scheme or data.scheme != "tcp":
        return recovery.scheme == data.scheme
    return recovery.wildcard or data.wildcard or recovery.host == data.host
