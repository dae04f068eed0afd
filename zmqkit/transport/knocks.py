"""Who knocks: a place that others connect to, which tells what kind of ZeroMQ socket each has, and turns all away.

Knows sockets of the system and the beginning of ZMTP 3 (RFC 23: greeting, READY); no libzmq. A peer that is turned away
before the handshake is done connects again by itself, as it does when a process is restarted. Had its handshake failed
at a socket of another kind, it would never come back: plain sockets give up then.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from zmqkit.address import parse
from zmqkit.errors import AddressError, AddressInUse
from zmqkit.transport import forks
from zmqkit.transport.sockets import answers
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

log = logging.getLogger("zmqkit")

MOST = 100
"""So many are heard at a time; more are turned away unheard."""

PATIENCE = 2.0
"""Seconds in which one has to say who he is."""

MOST_BYTES = 2048
"""Nobody needs more to say it."""

ENDING = 3.0
"""Seconds in which the thread has ended."""

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY"
SOCKET_TYPE = b"socket-type"

Heard = Callable[[int, str], object]
"""(side, kind of socket, as in "PUSH"; empty for one of a ZMTP before 3)"""


class Knocks:
    """Listens at some addresses of two sides, in a thread.

    Args:
        name: for the thread.
        sides: addresses to listen at; tcp and ipc only, others are left out.
        heard: called from the thread for each that says who he is.

    Attributes:
        addresses: where it listens, ports filled in, side by side; after `open`.
    """

    def __init__(self, name: str, sides: tuple[tuple[str, ...], tuple[str, ...]], heard: Heard) -> None:
        self.addresses: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self.ended = Ticket()
        self._name = name
        self._sides = sides
        self._heard = heard
        self._listeners: list[tuple[int, socket.socket, str]] = []
        self._knocking: dict[socket.socket, tuple[int, float, bytearray]] = {}
        self._ending = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Bind. Raises `AddressInUse` or `AddressError`; then nothing is left open."""
        self._wake, self._woken = socket.socketpair()
        try:
            bound = [tuple(self._listen(side, each) for each in of) for side, of in enumerate(self._sides)]
        except BaseException:
            self._close_all()
            raise
        self.addresses = (bound[0], bound[1])
        self._thread = threading.Thread(target=self._run, name=f"zmqkit-knocks-{self._name}", daemon=True)
        forks.register(self)
        self._thread.start()

    def close(self) -> None:
        """End; when this returns all ports are free. Idempotent."""
        self.begin_close()
        if self._thread is not None and threading.current_thread() is not self._thread:
            with contextlib.suppress(WaitExpired):
                wait(self.ended, ENDING)

    def begin_close(self, timeout: float | None = 0.0, *, flush: float = 0.0) -> None:
        """The same, without waiting."""
        self._ending = True
        if self._thread is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._wake.send(b"x")

    def become_forked(self) -> None:
        """This is the child of a fork: let go of the ports."""
        self._thread = None
        self._close_all()

    def _listen(self, side: int, text: str) -> str:
        address = parse(text)
        path = ""
        try:
            if address.scheme == "ipc":
                if answers(address.rest):
                    raise AddressInUse(f"cannot bind {text!r}: another process is bound there; choose another path")
                made = socket.socket(socket.AF_UNIX)
                self._listeners.append((side, made, path))
                path = "" if address.rest.startswith("@") else address.rest
                if path:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                made.bind(path or "\0" + address.rest[1:])
                self._listeners[-1] = (side, made, path)
            else:
                made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
                self._listeners.append((side, made, path))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(("" if address.host == "*" else address.host, address.port))
                port = made.getsockname()[1]
                text = text if address.port else f"{text.rpartition(':')[0]}:{port}"
            made.listen(MOST)
            made.setblocking(False)
        except AddressInUse:
            raise
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"cannot bind {text!r}: the address is in use; choose another port, or * for a free one"
                ) from error
            raise AddressError(f"cannot bind {text!r}: {error.strerror or error}") from error
        return text

    # ---- in the thread -----------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for side, listener, _ in self._listeners:
                selector.register(listener, selectors.EVENT_READ, side)
            while not self._ending:
                first = min((until for _, until, _ in self._knocking.values()), default=None)
                for key, _ in selector.select(None if first is None else max(0.0, first - time.monotonic())):
                    if self._ending:
                        break
                    self._serve(selector, key.fileobj, key.data)
                now = time.monotonic()
                for late in [each for each, (_, until, _) in self._knocking.items() if until <= now]:
                    self._turn_away(selector, late)
        forks.unregister(self)
        self._close_all()
        self.ended.resolve(None)

    def _serve(self, selector: selectors.BaseSelector, ready: Any, side: int | None) -> None:
        if ready is self._woken:
            return
        if ready not in self._knocking:
            with contextlib.suppress(OSError):  # gone already, or no descriptor left for him
                self._greet(selector, ready.accept()[0], side or 0)
            return
        at, _, said = self._knocking[ready]
        try:
            came = ready.recv(MOST_BYTES)
        except OSError:
            came = b""
        said += came
        kind = socket_kind(bytes(said))
        if not came or kind is not None or len(said) > MOST_BYTES:
            self._turn_away(selector, ready)
        if kind is not None:
            self._heard(at, kind)

    def _greet(self, selector: selectors.BaseSelector, knocking: socket.socket, side: int) -> None:
        if len(self._knocking) >= MOST:
            knocking.close()
            return
        self._knocking[knocking] = (side, time.monotonic() + PATIENCE, bytearray())
        knocking.setblocking(False)
        knocking.send(GREETING)  # it fits into any buffer
        selector.register(knocking, selectors.EVENT_READ, side)

    def _turn_away(self, selector: selectors.BaseSelector, knocking: socket.socket) -> None:
        with contextlib.suppress(KeyError):  # its greeting failed
            selector.unregister(knocking)
        del self._knocking[knocking]
        knocking.close()

    def _close_all(self) -> None:
        for _, listener, path in self._listeners:
            listener.close()
            if path and self._thread is not None:
                with contextlib.suppress(OSError):  # somebody took it away
                    os.unlink(path)
        for each in [*self._knocking, self._wake, self._woken]:
            each.close()
        self._knocking.clear()


def socket_kind(said: bytes) -> str | None:
    """The kind of socket that a peer says it has: None: it has not said it yet, or never will.

    Empty for a peer that speaks a ZMTP before 3.
    """
    if len(said) < 11 or said[:1] != b"\xff" or not said[9] & 1:
        return None
    if said[10] < 3:
        return ""
    if len(said) < len(GREETING) + 2:
        return None
    flags, rest = said[len(GREETING)], said[len(GREETING) + 1 :]
    if flags == 4:
        size, body = rest[0], rest[1:]
    elif flags == 6 and len(rest) >= 8:
        size, body = struct.unpack(">Q", rest[:8])[0], rest[8:]
    else:
        return None
    if not body.startswith(READY) or len(body) < size:
        return None
    at = len(READY)
    while at < size:
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        if value_at > size:
            return None
        value_end = value_at + int.from_bytes(body[name_end:value_at], "big")
        if value_end > size:
            return None
        if body[at + 1 : name_end].lower() == SOCKET_TYPE:
            return body[value_at:value_end].decode("ascii", "replace")
        at = value_end
    return None
