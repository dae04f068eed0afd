"""The engine for plain ZeroMQ peers: libzmq's own proxy in C between two sockets.

Knows the proxy and discovery; nothing of zmqkit's sessions. What is promised is what ZeroMQ promises: order for each
peer, high-water marks that push back (or drop, where publishers do), and nothing about what a dead peer had received.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

from zmqkit import discovery
from zmqkit.devices.engine import Ended, Tell
from zmqkit.devices.sides import Side, high_water_mark, resolved
from zmqkit.errors import AddressError, Closed, UsageError
from zmqkit.options import Heartbeat, Limits
from zmqkit.peer.found import reachable
from zmqkit.transport.outlets import PAIRS, Outlet
from zmqkit.transport.proxies import Sense, SteeredProxy, Which

log = logging.getLogger("zmqkit.devices")

STANDS_FOR = {
    "ROUTER": ("server", "client"),
    "DEALER": ("client", "server"),
    "XSUB": ("subscribe", "publish"),
    "XPUB": ("publish", "subscribe"),
    "PULL": ("pull", "push"),
    "PUSH": ("push", "pull"),
}
"""As what each kind of socket is announced, and what it looks for."""

COUNTED = (
    "frontend_messages_received",
    "frontend_bytes_received",
    "frontend_messages_sent",
    "frontend_bytes_sent",
    "backend_messages_received",
    "backend_bytes_received",
    "backend_messages_sent",
    "backend_bytes_sent",
)


class PlainEngine:
    """Carries messages of plain peers as they are. See `zmqkit.devices.engine.Engine`.

    Args:
        types: of the two sockets, frontend first; one of `zmqkit.transport.outlets.PAIRS`.
        sense: looks at what comes first, until it knows; None: all is forwarded from the start.
        heartbeat: ZMTP heartbeats to peers, which then have to understand them; None: TCP's only.
        linger: not used; `close` says it.
        tell: not used; there is nothing to tell of peers that nobody knows.
    """

    def __init__(
        self,
        *,
        name: str,
        frontend: Side,
        backend: Side,
        types: tuple[str, str],
        heartbeat: Heartbeat | None = None,
        limits: Limits | None = None,
        insecure: bool = False,
        linger: float | None = 5.0,
        tell: Tell = lambda _: None,
        ended: Ended = lambda _: None,
        sense: Sense | None = None,
    ) -> None:
        if types not in PAIRS:
            pairs = ", ".join(sorted("-".join(pair) for pair in PAIRS))
            raise UsageError(f"no plain device stands between {' and '.join(map(str, types))}: it can be {pairs}")
        self.name = name
        self._sides = (frontend, backend)
        self._types = types
        self._heartbeat = heartbeat
        self._limits = limits
        self._insecure = insecure
        self._ended = ended
        self._sense = sense
        self._instance = os.urandom(16).hex()
        self._paused = False
        self._closed = False
        self._proxy: SteeredProxy | None = None
        self._lock = threading.Lock()
        self._found: dict[tuple[Which, str], frozenset[str]] = {}
        """What each name stands for now."""
        self._watches: list[discovery.Watch] = []
        self._announcements: list[discovery.Announcement] = []

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        return self._proxy.addresses(0) if self._proxy is not None else ()

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        return self._proxy.addresses(1) if self._proxy is not None else ()

    def open(self) -> None:
        frontend, backend = (self._outlet(side, kind) for side, kind in zip(self._sides, self._types, strict=True))
        self._proxy = SteeredProxy(self.name, frontend, backend, self._failed, sense=self._sense)
        try:
            self._proxy.open()
            self._look_up(0)
            self._look_up(1)
        except BaseException:
            self.close(0)
            raise

    def _outlet(self, side: Side, kind: str) -> Outlet:
        limits = side.limits or self._limits
        return Outlet(
            kind=kind,
            binds=tuple(map(str, resolved(side, self._insecure))),
            connects=tuple(str(each) for each in side.connects if not each.looked_up),
            messages=high_water_mark(limits),
            frame_bytes=(limits or Limits()).frame_bytes,
            heartbeat=self._heartbeat,
        )

    # ---- discovery -----------------------------------------------------------------

    def _look_up(self, which: Which) -> None:
        side, (role, wanted) = self._sides[which], STANDS_FOR[self._types[which]]
        for address in side.connects:
            if address.looked_up:
                on_change = partial(self._changed, which, str(address))
                self._watches.append(discovery.watch(address, on_change=on_change, roles={wanted}))
        if side.announce is not None:
            assert self._proxy is not None
            self._announcements.append(
                discovery.announce(
                    side.announce,
                    self._proxy.addresses(which),
                    role=role,
                    instance=self._instance,
                    peer_name=self.name,
                )
            )

    def _changed(self, which: Which, name: str, found: Iterable[discovery.Found]) -> None:
        """What stands behind a name came or went."""
        there = reachable(found, own=self._instance, insecure=self._insecure, who=self.name, name=name)
        with self._lock:
            before = self._all_found(which)
            self._found[which, name] = there
            after = self._all_found(which)
        proxy = self._proxy
        if proxy is None or self._closed:
            return
        for address in after - before:
            self._try(proxy.connect, which, address)
        # A queue to who is gone would take its share of the messages, and keep it.
        for address in before - after:
            self._try(proxy.disconnect, which, address)

    def _all_found(self, which: Which) -> frozenset[str]:
        return frozenset[str]().union(*(found for (at, _), found in self._found.items() if at == which))

    def _try(self, verb: Callable[[Which, str], None], which: Which, address: str) -> None:
        try:
            verb(which, address)
        except AddressError as error:
            log.warning("%s: %s", self.name, error)
        except Closed:
            log.debug("%s: %s came or went too late", self.name, address)

    # ---- steering ------------------------------------------------------------------

    def pause(self) -> None:
        if self._proxy is not None:
            self._proxy.pause()
            self._paused = True

    def resume(self) -> None:
        if self._proxy is not None:
            self._proxy.resume()
            self._paused = False

    def stats(self) -> dict[str, int | float]:
        counters = self._proxy.counters() if self._proxy is not None else (0,) * len(COUNTED)
        return {**dict(zip(COUNTED, counters, strict=True)), "sessions": 0, "paused": int(self._paused)}

    def close(self, timeout: float | None) -> None:
        self._closed = True
        for announcement in self._announcements:
            announcement.close()
        for watch in self._watches:
            watch.close()
        if self._proxy is not None:
            self._proxy.close(timeout)

    def begin_close(self) -> None:
        self._closed = True
        if self._proxy is not None:
            self._proxy.begin_close()
        if self._watches or self._announcements:  # to say goodbye takes some time
            with contextlib.suppress(RuntimeError):  # no threads any more: the interpreter ends
                threading.Thread(target=self.close, args=(0.0,), name="zmqkit-farewell", daemon=True).start()

    def _failed(self, error: BaseException) -> None:
        if not self._closed:
            self._ended(error)
