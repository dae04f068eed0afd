"""Where the other side's recovery channel is, going by what it says of it (docs/protocol.md, 14.3).

Pure. What a stranger says must not make us connect to whatever he likes: only to the host that the data comes from.
"""

from __future__ import annotations

from zmqkit.address import Address, is_loopback, parse
from zmqkit.errors import AddressError


def recovery_address(data: str, told: str) -> str | None:
    """Where to connect for recovery. "": nowhere. None: that is no address, or one of another host or transport.

    Args:
        data: the address to which we connected for data.
        told: ":PORT" at its host, a whole address at its host, or "".
    """
    if not told:
        return ""
    try:
        there = parse(data)
        if told[0] == ":":
            if there.scheme != "tcp":
                return None
            told = f"tcp://{there.rest.rpartition(':')[0]}{told}"
        found = parse(told)
    except AddressError:
        return None
    if found.scheme != there.scheme or found.looked_up or (found.scheme == "tcp" and not _same_host(found, there)):
        return None
    return str(found)


def _same_host(one: Address, other: Address) -> bool:
    if not one.port or one.wildcard:
        return False
    return one.host.lower().rstrip(".") == other.host.lower().rstrip(".") or (is_loopback(one) and is_loopback(other))
