"""The two sides of a device: what each binds and connects, read and checked in one place.

This module reads addresses, and variables of the environment. It opens no socket.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from zmqkit import checks, discovery
from zmqkit.address import Address, parse, require_secure
from zmqkit.errors import UsageError
from zmqkit.options import Limits

HIGH_WATER_MARK = 1_000
"""Messages that wait for one peer, or come from one, where no limits are given: ZeroMQ's own default."""

ANY_PORT = "tcp://127.0.0.1:*"
"""What is bound where only a name is given to announce."""


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """One side of a device. It may bind and connect, to one address or several.

    Wherever a side is asked for, an address or a list of them does as well: what can be bound is bound, what has to be
    looked up (``zeroconf://``, ``static://``, ``env://``) is connected to. A mark in front says it otherwise:
    ``@tcp://127.0.0.1:5557`` is bound, ``>tcp://127.0.0.1:5557`` is connected to.

    Attributes:
        bind: addresses to bind. ``zeroconf://NAME`` among them is the same as announce="NAME".
        connect: addresses to connect to; what stands behind a name may come and go.
        announce: a name under which others find what is bound. Without an address to bind, a free port on loopback is.
        limits: of this side; None: those of the device. To plain peers ``queued_messages`` is the high-water mark of
            each connection (1,000 where there are no limits at all), ``frame_bytes`` the largest frame.

    Raises:
        AddressError: an address cannot be read.
        UsageError: there is no address, or one cannot be used that way.
    """

    bind: str | Sequence[str] = ()
    connect: str | Sequence[str] = ()
    announce: str | None = None
    limits: Limits | None = None

    def __post_init__(self) -> None:
        for name, kind in (("announce", str), ("limits", Limits)):
            value = getattr(self, name)
            if not isinstance(value, kind | None):
                raise TypeError(f"{name} must be {kind.__name__} or None, got {value!r}")
        binds: list[str] = []
        announce = self.announce
        for address in map(parse, checks.several("bind", self.bind)):
            if address.scheme == "zeroconf":
                if announce not in (None, address.rest):
                    raise UsageError(f"{address} and announce={announce!r} are two names for one side: choose one")
                announce = address.rest
            else:
                binds += [str(each) for each in address.members or (address,)]
        connects = [parse(each) for each in checks.several("connect", self.connect)]
        for address in connects:
            for each in address.members or (address,):
                if each.wildcard or (each.scheme == "tcp" and not each.port):
                    what = "a host" if each.wildcard else "a port"
                    raise UsageError(f"{each} can be bound, but nobody can connect to it: name {what}")
        if announce is not None and not binds:
            binds.append(ANY_PORT)
        if not binds and not connects:
            raise UsageError("a side of a device needs an address, as in tcp://127.0.0.1:5557 or zeroconf://jobs")
        for name, value in (("bind", tuple(binds)), ("connect", tuple(map(str, connects))), ("announce", announce)):
            object.__setattr__(self, name, value)

    @property
    def binds(self) -> tuple[Address, ...]:
        """What is bound, read. ``env://`` is among them as it is: see `zmqkit.discovery.expand`."""
        return tuple(map(parse, self.bind))

    @property
    def connects(self) -> tuple[Address, ...]:
        """What is connected to, read. Names are among them as they are: see `zmqkit.discovery.watch`."""
        return tuple(map(parse, self.connect))

    def __str__(self) -> str:
        return ", ".join([*(f"@{each}" for each in self.bind), *(f">{each}" for each in self.connect)])


def read(name: str, value: Any) -> Side:
    """What a user gave as a side: a `Side`, an address, or a list of addresses.

    Args:
        name: of the keyword, for the message.
        value: what was given.

    Raises:
        TypeError: it is neither.
        AddressError: an address cannot be read.
        UsageError: there is no address, or one cannot be used that way.
    """
    if isinstance(value, Side):
        return value
    binds: list[str] = []
    connects: list[str] = []
    for text in checks.several(name, value):
        mark = text[:1] if isinstance(text, str) else ""
        address = parse(text[1:] if mark in ("@", ">") else text)
        (connects if mark == ">" or (mark != "@" and address.looked_up) else binds).append(str(address))
    try:
        return Side(bind=binds, connect=connects)
    except UsageError as error:
        raise type(error)(f"{name}: {error}") from None


def check(sides: dict[str, Side], insecure: bool) -> None:
    """Look at all sides of a device together.

    Args:
        sides: by the name of their keyword.
        insecure: addresses beyond this host are allowed.

    Raises:
        InsecureAddress: one is beyond this host, and that is not allowed.
        UsageError: two sides have one address in common, so that messages would come back or the port be taken.
    """
    seen: list[tuple[str, Address]] = []
    for name, side in sides.items():
        own = []
        for address in side.binds:
            require_secure(address, insecure, "bind")
            own.append(address)
        for address in side.connects:
            require_secure(address, insecure, "connect")
            own += address.members or (address,)
        if side.announce is not None:
            own.append(parse(f"zeroconf://{side.announce}"))
        for address in own:
            for other, theirs in seen:
                if same(address, theirs):
                    raise UsageError(f"{other} and {name} are both at {address}: give each side an address of its own")
        seen += [(name, address) for address in own]


def same(one: Address, other: Address) -> bool:
    """Whether two addresses lead to one place. What is looked up is compared by its name."""
    if one.scheme != other.scheme:
        return False
    if one.scheme != "tcp":
        # A free path, or a free name, is another one each time.
        return one.rest == other.rest and one.rest != "*"
    if one.port != other.port or not one.port:
        return False
    return one.wildcard or other.wildcard or _host(one) == _host(other)


def _host(address: Address) -> str:
    host = address.host.lower().rstrip(".")
    return "127.0.0.1" if host == "localhost" else host


def resolved(side: Side, insecure: bool) -> list[Address]:
    """What a side binds, environment variables read. Done when it is opened.

    Raises:
        DiscoveryError: a variable is not set.
        InsecureAddress: what it says is beyond this host, and that is not allowed.
        UsageError: it names what cannot be bound.
    """
    found = [each for address in side.binds for each in discovery.expand(address)]
    for address in found:
        if address.looked_up:
            raise UsageError(f"{address} cannot be bound: name the address itself")
        require_secure(address, insecure, "bind")
    return found


def high_water_mark(limits: Limits | None) -> int:
    """Messages that wait at a plain socket, for each connection."""
    return HIGH_WATER_MARK if limits is None else limits.queued_messages
