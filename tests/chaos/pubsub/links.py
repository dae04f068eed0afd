"""TCP links that are cut, stalled and healed, each by itself. Nothing of zmqkit, nothing of libzmq.

Every subscriber calls the publishers' host by another address of the loopback network, and every publisher has its two
ports, of data and of recovery. So each way between two processes has a listener of its own at the address and port
which the subscriber believes to be the publisher's, and publishers may name ports and need not know of all this.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Literal, Self

HOST: Final = "127.0.0.2"
"""Where publishers bind."""

HELD_BYTES: Final = 256 * 1024
"""So much is under way in each direction of a connection; then no more is read, as a full network would have it."""

TICK_S: Final = 0.02

Harm = Literal["cut", "stall", "deafen", "silence"]


def host_of(subscriber: int) -> str:
    """By what address a subscriber calls the publishers' host."""
    return f"127.0.0.{11 + subscriber}"


class _End:
    """One end of a relayed connection.

    Attributes:
        near: it is the subscriber's.
        held: what is to be written here.
        over: nothing more will be: the other end has closed, or broke.
    """

    def __init__(self, link: Link, sock: socket.socket, *, near: bool) -> None:
        self.link = link
        self.sock = sock
        self.near = near
        self.other: _End = self
        self.held = bytearray()
        self.over = False
        self.events = 0


class Link:
    """One way between a subscriber and a port of a publisher."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self.listener = listener
        self.target = target
        self.ends: set[_End] = set()
        self.down_until = 0.0
        self.deaf_until = 0.0
        """Nothing is carried to the subscriber until then..."""
        self.silent_until = 0.0
        """...nor from it until then."""

    def held_up(self, end: _End, now: float) -> bool:
        """Whether nothing is carried to this end now."""
        return now < (self.deaf_until if end.near else self.silent_until)


class Links:
    """All links of a run, as a context; a thread carries what goes over them."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, str], int] = {}
        """By publisher and plane."""
        self._links: dict[tuple[str, str, str], Link] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)

    def add(self, publisher: str, subscribers: Sequence[str]) -> None:
        """Make the links of a publisher; call it before entering. The port of each plane is free at its host, too.

        That of recovery is the one after that of data: where forwarders bind it.
        """
        hosts = [host_of(at) for at in range(len(subscribers))]
        while True:
            port, data = _listen(hosts)
            found = _listen_at(hosts, port + 1)
            if found is not None:
                break
            for each in data:
                each.close()
        for plane, at, listeners in (("data", port, data), ("recovery", port + 1, found)):
            self.ports[publisher, plane] = at
            for name, listener in zip(subscribers, listeners, strict=True):
                listener.setblocking(False)
                link = self._links[publisher, name, plane] = Link(listener, (HOST, at))
                self._selector.register(listener, selectors.EVENT_READ, link)

    def harm(self, publisher: str, subscriber: str, plane: str, kind: Harm, seconds: float) -> None:
        """Break a link; it heals by itself."""
        until = time.monotonic() + seconds
        with self._lock:
            for each in ("data", "recovery") if plane == "both" else (plane,):
                link = self._links[publisher, subscriber, each]
                if kind == "cut":
                    link.down_until = until
                    for end in list(link.ends):
                        self._drop(end)
                if kind in ("stall", "deafen"):
                    link.deaf_until = until
                if kind in ("stall", "silence"):
                    link.silent_until = until
        self._wake.send(b"!")

    def heal(self) -> None:
        """Let all links be whole from now on."""
        with self._lock:
            for link in self._links.values():
                link.down_until = link.deaf_until = link.silent_until = 0.0
        self._wake.send(b"!")

    # ---- carrying ------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            found = self._selector.select(TICK_S)
            now = time.monotonic()
            with self._lock:
                for key, events in found:
                    if isinstance(key.data, Link):
                        self._accept(key.data, now)
                    elif isinstance(key.data, _End):
                        if events & selectors.EVENT_READ:
                            self._read(key.data)
                        if events & selectors.EVENT_WRITE:
                            self._write(key.data)
                    else:
                        self._woken.recv(4096)
                for link in self._links.values():
                    for end in list(link.ends):
                        self._watch(end, now)

    def _accept(self, link: Link, now: float) -> None:
        try:
            near, _ = link.listener.accept()
        except OSError:
            return  # it has gone again
        far = None
        if now >= link.down_until:
            with contextlib.suppress(OSError):  # the publisher is dead
                far = socket.create_connection(link.target, timeout=1.0)
        if far is None:
            near.close()
            return
        one, other = _End(link, near, near=True), _End(link, far, near=False)
        one.other, other.other = other, one
        for end in (one, other):
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.ends.add(end)

    def _read(self, end: _End) -> None:
        if end not in end.link.ends:
            return
        try:
            data = end.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            end.other.held += data
            self._write(end.other)
        else:
            end.other.over = True

    def _write(self, end: _End) -> None:
        if end not in end.link.ends or not end.held or end.link.held_up(end, time.monotonic()):
            return
        try:
            del end.held[: end.sock.send(end.held)]
        except BlockingIOError:
            return
        except OSError:
            self._drop(end)

    def _watch(self, end: _End, now: float) -> None:
        """Look for what can happen at an end now."""
        if end not in end.link.ends:
            return
        held_up = end.link.held_up(end, now)
        if end.over and not end.held and not held_up:
            self._drop(end)
            return
        events = 0
        if len(end.other.held) < HELD_BYTES and not end.other.over:
            events |= selectors.EVENT_READ
        if end.held and not held_up:
            events |= selectors.EVENT_WRITE
        if events != end.events:
            if not end.events:
                self._selector.register(end.sock, events, end)
            elif events:
                self._selector.modify(end.sock, events, end)
            else:
                self._selector.unregister(end.sock)
            end.events = events

    def _drop(self, end: _End) -> None:
        """Close a connection, with all that is on its way."""
        for each in (end, end.other):
            if each in each.link.ends:
                each.link.ends.discard(each)
                if each.events:
                    self._selector.unregister(each.sock)
                each.sock.close()

    # ---- beginning and ending ------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self._ended = True
        self._wake.send(b"!")
        self._thread.join(10)
        for link in self._links.values():
            for end in list(link.ends):
                self._drop(end)
            link.listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()


def _listen(hosts: Sequence[str]) -> tuple[int, list[socket.socket]]:
    """Listeners at one port of several hosts, which is free at `HOST`, too."""
    while True:
        with socket.create_server((hosts[0], 0)) as probe:
            port = probe.getsockname()[1]
        found = _listen_at(hosts, port)
        if found is not None:
            return port, found


def _listen_at(hosts: Sequence[str], port: int) -> list[socket.socket] | None:
    """The same at this port; None: it is taken somewhere."""
    made: list[socket.socket] = []
    try:
        socket.create_server((HOST, port)).close()
        for host in hosts:
            made.append(socket.create_server((host, port)))  # noqa: PERF401 - those made before it are closed
    except (OSError, OverflowError):
        for each in made:
            each.close()
        return None
    return made
