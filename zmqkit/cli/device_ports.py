"""Whether addresses are free to be bound, now. Binds nothing for longer than it takes to see that."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

from zmqkit import Client
from zmqkit.address import Address, parse
from zmqkit.cli.device_file import Config, Mistake
from zmqkit.errors import ZmqkitError

ASK_S: Final = 2.0
"""How long a daemon that runs with this file may take to say what it has bound."""


def taken(config: Config) -> list[Mistake]:
    """A mistake for each address of a file that cannot be bound now, but for those that its own daemon holds."""
    own = set(_bound_by_daemon(config.control)) if config.control is not None else set[str]()
    return [
        Mistake(each.line, f"{each.what} is at {each.address}: {why}")
        for each in config.bound
        if str(each.address) not in own and (why := why_not(each.address)) is not None
    ]


def _bound_by_daemon(control: str) -> Iterator[str]:
    """What the daemon says that answers there, if one does."""
    address = parse(control)
    # A look at who listens at a path is a connection, which a daemon would wonder about: it is asked at once.
    there = os.path.exists(address.rest) if address.scheme == "ipc" else why_not(address) is not None
    if not there:
        return
    with contextlib.suppress(ZmqkitError), Client(control, timeout=ASK_S, name="zmqkit device run") as client:
        described = client.call("describe")
        yield control
        for each in described if isinstance(described, list) else []:
            for side in ("frontend", "backend", "control"):
                found = each.get(side) if isinstance(each, dict) else None
                yield from found if isinstance(found, list) else []


def why_not(address: Address) -> str | None:
    """Why an address cannot be bound now; None: it can."""
    if address.scheme == "ipc":
        return _why_not_path(address.rest)
    if address.scheme != "tcp" or not address.port:
        return None
    host = None if address.host == "*" else address.host
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"{address.host} is no host that is known here: {error.strerror or error}"
    return _first(_why_not_bound(family, place) for family, _, _, _, place in found)


def _why_not_bound(family: int, place: tuple[Any, ...]) -> str | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "it is in use by another process"
            return f"it cannot be bound: {error.strerror or error}"
    return None


def _why_not_path(path: str) -> str | None:
    if path == "*":
        return None
    abstract = path.startswith("@")
    folder = os.path.dirname(path) or "."
    if not abstract and not os.path.isdir(folder):
        return f"there is no folder {folder}"
    if not abstract and not os.access(folder, os.W_OK):
        return f"nothing may be made in the folder {folder}"
    if not abstract and not os.path.exists(path):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect("\0" + path[1:] if abstract else path)
        except BlockingIOError:
            pass  # its queue of connections is full: somebody is there
        except OSError:
            return None
    return "it is in use by another process"


def _first(found: Iterable[str | None]) -> str | None:
    return next((each for each in found if each is not None), None)
