"""Addresses: what may stand where a peer binds or connects, read once and checked in one place.

::

    tcp://HOST:PORT         HOST a name, an IPv4, an [IPv6], or * (bind: every interface); PORT * or 0: any (bind)
    ipc://PATH              a Unix socket; ipc://@name is an abstract one
    inproc://NAME           within this process
    zeroconf://NAME         whoever announces NAME
    static://A:1,B:2        several fixed addresses; tcp is implied, ipc://... is possible too
    env://VARIABLE          what the environment says: one or several of the others, separated by commas or spaces

This module reads text. It opens nothing, resolves nothing, and knows no socket.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from typing import Literal

from zmqkit.errors import AddressError, InsecureAddress

TRANSPORTS = frozenset({"tcp", "ipc", "inproc"})
"""Schemes that a socket can bind or connect to."""

DISCOVERY = frozenset({"zeroconf", "static", "env"})
"""Schemes that stand for other addresses and have to be looked up."""

ALLOW = "insecure=True (or ZMQKIT_INSECURE=1)"
"""How to allow an address beyond this host, in Python; the command line has an option for it."""

_FORMS = (
    "write tcp://HOST:PORT, ipc://PATH, inproc://NAME, zeroconf://NAME, static://HOST:PORT,HOST:PORT or env://VARIABLE"
)
_LONGEST_PATH_BYTES = 107  # sun_path of unix(7), less its terminator
_NTH = "\t#"
"""Between an address and the number of a further connection: no address that `parse` reads can hold a tab."""

_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """One address that was read. ``str()`` gives its text back.

    Attributes:
        scheme: ``tcp``, ``ipc``, ``inproc``, ``zeroconf``, ``static`` or ``env``.
        rest: what follows ``://``; the path of ipc, the name of inproc, zeroconf and env.
        host: of tcp, without the brackets of an IPv6; else empty.
        port: of tcp; 0 is any (``*`` in the text), else 0.
        members: of static, in the order they were given.
    """

    scheme: str
    rest: str
    host: str = ""
    port: int = 0
    members: tuple[Address, ...] = ()

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"

    @property
    def looked_up(self) -> bool:
        """Whether this stands for others, which discovery finds."""
        return self.scheme in DISCOVERY

    @property
    def wildcard(self) -> bool:
        """Whether this is tcp on every interface: one can bind it, but not connect to it."""
        return self.scheme == "tcp" and self.host in ("*", "0.0.0.0", "::")


def parse(text: str | Address) -> Address:
    """Read one address.

    Raises:
        AddressError: it cannot be one; the message names it and the forms that work.
    """
    if isinstance(text, Address):
        return text
    if not isinstance(text, str):
        raise AddressError(f"an address is text, not {text!r}: {_FORMS}")
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in TRANSPORTS | DISCOVERY:
        raise _wrong(text, "it has no scheme" if not separator else f"there is no scheme {scheme!r}")
    if not rest:
        raise _wrong(text, "nothing follows ://")
    if not rest.isprintable() or (rest != rest.strip()):
        raise _wrong(text, "it holds blanks or control characters where none may be")
    if scheme == "tcp":
        host, port = _host_and_port(text, rest)
        return Address(scheme, rest, host, port)
    if scheme == "static":
        return Address(scheme, rest, members=_members(text, rest))
    if scheme == "ipc" and len(os.fsencode(rest)) > _LONGEST_PATH_BYTES:
        raise AddressError(
            f"the path of {text!r} is longer than the {_LONGEST_PATH_BYTES} bytes that a Unix socket allows: "
            f"use a shorter one, as in ipc:///tmp/NAME"
        )
    if scheme == "env" and not _VARIABLE.fullmatch(rest):
        raise _wrong(text, "a variable's name has letters, digits and _ only")
    if scheme in ("zeroconf", "env", "inproc") and re.search(r"[\s/,]" if scheme != "inproc" else r"\s", rest):
        raise _wrong(text, "its name holds a blank, a slash or a comma")
    return Address(scheme, rest)


def parse_several(text: str) -> tuple[Address, ...]:
    """Read addresses that commas or blanks separate, as in the value of an environment variable.

    Raises:
        AddressError: one cannot be read, or there is none.
    """
    # The commas of static://a:1,b:2 belong to it: a new address begins only where a scheme does.
    words = [word.strip() for word in re.split(r"\s*,\s*(?=[A-Za-z]+://)|\s+", text.strip())]
    found = tuple(parse(word.rstrip(",")) for word in words if word.strip(","))
    if not found:
        raise AddressError(f"no address in {text!r}: {_FORMS}")
    return found


def nth(address: str, n: int) -> str:
    """The name of the `n`-th connection to an address; the first one's is the address itself.

    Who is told to have several connections to one address (docs/protocol.md, section 15) keeps them apart by these
    names. They stand where addresses stand inside, and never where people see them: show `bare`.
    """
    address = bare(address)
    return address if n == 1 else f"{address}{_NTH}{n}"


def bare(address: str) -> str:
    """The address of a connection that `nth` named: where it leads. Of any other text, that text."""
    return address.partition(_NTH)[0]


def is_loopback(address: Address) -> bool:
    """Whether nothing sent there leaves this host: 127/8, ::1, localhost; ipc and inproc; static of only those.

    What has yet to be looked up (zeroconf, env) is not: judge what was found.
    """
    if address.scheme in ("ipc", "inproc"):
        return True
    if address.scheme == "static":
        return all(map(is_loopback, address.members))
    if address.scheme != "tcp":
        return False
    if address.host.lower().rstrip(".") == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def require_secure(address: Address, insecure: bool, what: Literal["bind", "connect"]) -> None:
    """Refuse what would leave this host without keys.

    zeroconf and env addresses pass: what they stand for is judged when it is found.

    Args:
        address: to bind or connect.
        insecure: the user allowed it; the environment's ``ZMQKIT_INSECURE=1`` does too.
        what: for the message.

    Raises:
        InsecureAddress: neither allows it and the address is not a loopback one.
    """
    if address.scheme in ("zeroconf", "env") or is_loopback(address):
        return
    if insecure or os.environ.get("ZMQKIT_INSECURE") == "1":
        return
    raise InsecureAddress(
        f"to {what} {address} would let others on the network read and send messages: use 127.0.0.1 or ipc://, "
        f"or, on a network that you trust, allow it with {ALLOW}"
    )


def _wrong(text: str, reason: str) -> AddressError:
    return AddressError(f"{text!r} is not an address ({reason}): {_FORMS}")


def _host_and_port(text: str, rest: str) -> tuple[str, int]:
    host, separator, port = rest.rpartition(":")
    if not separator or not host or (":" in host and not host.startswith("[")):
        raise _wrong(text, "an IPv6 host stands in [brackets]" if rest.count(":") > 1 else "host and port are needed")
    if port != "*" and not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise _wrong(text, f"{port!r} is not a port: 1 to 65535, or to bind a free one * or 0")
    if host.startswith("["):
        inner = host[1:-1]
        try:
            ipaddress.IPv6Address(inner)
        except ValueError:
            raise _wrong(text, f"{host!r} is not an IPv6 address") from None
        if not host.endswith("]"):
            raise _wrong(text, f"{host!r} is not an IPv6 address")
        host = inner
    elif host != "*" and not (_HOST.fullmatch(host) and _plausible(host)):
        raise _wrong(text, f"{host!r} is not a host")
    return host, 0 if port == "*" else int(port)


def _plausible(host: str) -> bool:
    """What looks like an IPv4 has to be one: 127.0.0.300 is nobody's name."""
    if not re.fullmatch(r"[0-9.]+", host):
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _members(text: str, rest: str) -> tuple[Address, ...]:
    members = []
    for word in rest.split(","):
        try:
            member = parse(word if "://" in word else f"tcp://{word}")
        except AddressError:
            raise _wrong(text, f"{word!r} is not HOST:PORT") from None
        if member.looked_up:
            raise _wrong(text, f"{member.scheme}:// cannot stand inside static://")
        members.append(member)
    return tuple(members)
