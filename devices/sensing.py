"""The engine of a device that was not told whose messages it carries: who comes first decides.

The sockets of the plain engine are opened, and what comes first is looked at before it is forwarded. A HELLO, or the
subscription of a private topic: that is zmqkit, and the sockets make room for the other engine, at the same addresses;
peers say everything again by themselves. Anything else is plain, and goes on over the very same sockets. Neither is
looked at again.

To PULL and PUSH no HELLO comes: there, who knocks is heard before anybody is let in (`zmqkit.devices.knocking`).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from zmqkit.devices.engine import Engine
from zmqkit.devices.knocking import KnockingEngine, can_hear
from zmqkit.devices.sides import Side
from zmqkit.errors import DecodeError, UsageError
from zmqkit.patterns.pubsub.wire import read_private
from zmqkit.protocol import wire
from zmqkit.transport.proxies import Verdict, Which

log = logging.getLogger("zmqkit.devices")

PATIENCE = 0.1
"""Seconds after the first subscriptions in which one of a private topic may follow: a peer sends all of its at once."""

MOST_KEPT = 1_000
"""After so many plain subscriptions nothing more is waited for."""

PIPELINE = ("PULL", "PUSH")

SUBSCRIBE, UNSUBSCRIBE = b"\x01", b"\x00"


class Senser:
    """Tells plain peers from zmqkit's by what comes first. See `zmqkit.transport.proxies.Sense`.

    Args:
        types: of the two sockets.
        plain: called when it is plain traffic, before any of it is forwarded.
        zmqkit: called when it is zmqkit's.
    """

    def __init__(
        self,
        types: tuple[str, str],
        plain: Callable[[], object],
        zmqkit: Callable[[], object],
    ) -> None:
        self._types = types
        self._plain = plain
        self._zmqkit = zmqkit
        self._kept = 0

    @property
    def patience(self) -> float | None:
        return PATIENCE if self._kept else None

    def message(self, which: Which, frames: list[bytes]) -> Verdict:
        kind = self._types[which]
        if kind == "XPUB" and frames[0][:1] in (SUBSCRIBE, UNSUBSCRIBE):
            if is_private(frames[0]):
                return self._it_is_zmqkit()
            self._kept += 1
            return "wait" if self._kept < MOST_KEPT else self._it_is_plain()
        said = frames[1:] if kind == "ROUTER" else frames
        return self._it_is_zmqkit() if said and is_hello(said[0]) else self._it_is_plain()

    def quiet(self) -> Verdict:
        return self._it_is_plain()

    def _it_is_plain(self) -> Verdict:
        self._plain()
        return "forward"

    def _it_is_zmqkit(self) -> Verdict:
        self._zmqkit()
        return "end"


def is_hello(frame: bytes) -> bool:
    """Whether this is how a zmqkit peer begins (docs/protocol.md, section 3)."""
    try:
        header = wire.unpack(frame)
    except DecodeError:
        return False
    return isinstance(header, list) and len(header) > 1 and header[0] == wire.HELLO and isinstance(header[1], dict)


def is_private(subscription: bytes) -> bool:
    """Whether only a zmqkit subscriber subscribes this (docs/protocol.md, section 14.3)."""
    try:
        read_private(subscription[1:])
    except DecodeError:
        return False
    return subscription[:1] == SUBSCRIBE


class SensingEngine:
    """Opens the plain engine, and changes it for the other one if that is who comes. See `zmqkit.devices.engine`.

    Args:
        types: of the plain sockets.
        plain: makes the plain engine.
        zmqkit: makes the other one. Refuses it these sides, the device is a plain one.
        **given: what both are made with.
    """

    def __init__(
        self, *, types: tuple[str, str], plain: Callable[..., Engine], zmqkit: Callable[..., Engine], **given: Any
    ) -> None:
        self.carries: Literal["plain", "zmqkit"] | None = None
        self._zmqkit = zmqkit
        self._given = given
        self._lock = threading.Lock()
        """Held while engines change, and by who steers them."""
        self._closed = False
        self._paused = False
        self._types = types
        self._plain = plain
        self._engine: Engine
        if self._is_plain():
            self.carries = "plain"
            self._engine = plain(**given)
        else:
            self._engine = self._sensing(given)

    def _is_plain(self) -> bool:
        """Whether it can carry plain traffic only, or nobody could be heard."""
        try:
            self._zmqkit(**self._given)
        except UsageError as error:
            log.debug("%s: a plain device: %s", self._given.get("name"), error)
            return True
        return self._types == PIPELINE and not can_hear(self._given["frontend"], self._given["backend"])

    def _sensing(self, given: dict[str, Any]) -> Engine:
        forward, carry = (partial(self._soon, make) for make in (self._forwarding, self._carrying))
        if self._types == PIPELINE:
            return KnockingEngine(types=self._types, plain=forward, zmqkit=carry, **given)
        return self._plain(sense=Senser(self._types, self._stay, carry), **given)

    def _forwarding(self, given: dict[str, Any]) -> Engine:
        return self._plain(**given)

    def _carrying(self, given: dict[str, Any]) -> Engine:
        return self._zmqkit(**given)

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        return self._engine.frontend_addresses

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        return self._engine.backend_addresses

    def open(self) -> None:
        self._engine.open()

    def pause(self) -> None:
        with self._lock:
            self._engine.pause()
            self._paused = True

    def resume(self) -> None:
        with self._lock:
            self._engine.resume()
            self._paused = False

    def stats(self) -> dict[str, int | float]:
        return self._engine.stats()

    def close(self, timeout: float | None) -> None:
        self._closed = True
        with self._lock:
            self._engine.close(timeout)

    def begin_close(self) -> None:
        self._closed = True
        self._engine.begin_close()

    def _stay(self) -> None:
        self.carries = "plain"

    def _soon(self, make: Callable[[dict[str, Any]], Engine]) -> None:
        # This is the thread of those who sense, which is to end.
        threading.Thread(target=self._change, args=(make,), name="zmqkit-sensing", daemon=True).start()

    def _change(self, make: Callable[[dict[str, Any]], Engine]) -> None:
        """Let another engine take the place of the present one, at its addresses."""
        with self._lock:
            if self._closed:
                return
            addresses = self.frontend_addresses, self.backend_addresses
            self._engine.close(0)
            sides = {
                name: _at(self._given[name], bound)
                for name, bound in zip(("frontend", "backend"), addresses, strict=True)
            }
            try:
                engine = make({**self._given, **sides})
                engine.open()
                if self._paused:
                    engine.pause()
            except Exception as error:
                log.exception("%s could not go on", self._given.get("name"))
                self._given["ended"](error)
                return
            self._engine = engine
            self.carries = "zmqkit" if make == self._carrying else "plain"
        if self._closed:  # without the lock: by a finalizer
            engine.begin_close()


def _at(side: Side, bound: tuple[str, ...]) -> Side:
    """The same side, where it is bound already."""
    return dataclasses.replace(side, bind=bound) if bound else side
