"""What a device asks of the engine that carries its messages, whichever it is.

::

    PlainEngine     plain.py        plain ZeroMQ peers, at C speed
    SwitchEngine    switching.py    zmqkit peers of request-reply and pipelines: the learning switch
    ForwardEngine   forwarding.py   zmqkit publishers and subscribers
    CustodyEngine   custody.py      zmqkit pipelines with a journal between

All are made with the same keywords, and each with some of its own::

    Engine(
        name="host:4711",           # for logs, threads and events
        frontend=Side(...),         # as the user gave it, or with the ports that were bound before it
        backend=Side(...),
        heartbeat=None,             # as the user gave it; None: Heartbeat() among zmqkit peers, none to plain ones
        limits=None,                # of sides that have none of their own; None: the engine's own defaults
        insecure=False,             # what discovery finds beyond this host is connected to, too
        linger=5.0,                 # seconds; None: no bound
        tell=event_callback,        # Callable[[Event], object], from whatever thread; be brief in it
        ended=error_callback,       # Callable[[BaseException], object]: it failed by itself, after `open`; once at most
        # ... and its own:
        # PlainEngine:   types=("ROUTER", "DEALER")
        # SwitchEngine:  roles=("client", "server")       who is at the frontend, and who at the backend
        # ForwardEngine: none
        # CustodyEngine: journal="jobs.db", plain_frontend=Side(...) or None, plain_backend=Side(...) or None
    )

Constructing does no I/O; it raises `UsageError` for sides that this engine cannot serve. This module has no code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from zmqkit.events import Event

Tell = Callable[[Event], object]
"""Takes an event. Called from any thread."""

Ended = Callable[[BaseException], object]
"""Takes the error that ended an engine by itself. Called once at most, from any thread but that of a verb."""

STATS = (
    "frontend_messages_received",
    "frontend_bytes_received",
    "frontend_messages_sent",
    "frontend_bytes_sent",
    "backend_messages_received",
    "backend_bytes_received",
    "backend_messages_sent",
    "backend_bytes_sent",
    "sessions",
    "paused",
)
"""What `stats` of every engine has: since it was opened, counted over pauses. ``sessions`` are those that go through
it now, ``paused`` is 0 or 1. Bytes are those of the frames. What `PlainEngine` says is what libzmq's proxy counts: each
frame of a multipart message is a message of its own there, the routing ids of ROUTER included; so a request from REQ
counts as three. An engine may have more."""


class Engine(Protocol):
    """Carries messages between two sides. Every method may be called from any thread, and blocks shortly at most."""

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """What is bound in front, ports filled in. Empty before `open`; after `close` as it was."""

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """The same of the other side."""

    def open(self) -> None:
        """Bind, connect, look up, announce, and begin. Called once.

        Raises:
            AddressInUse: somebody else is bound there.
            AddressError: an address cannot be bound.
            DiscoveryError: a name cannot be looked up or announced.
            JournalError: the journal cannot be opened.
        After any of these nothing is left open.
        """

    def close(self, timeout: float | None) -> None:
        """End, and give everything back: what is under way may leave within `timeout` seconds (None: no bound).

        Idempotent, also before `open`. In a forked child it does nothing.
        """

    def begin_close(self) -> None:
        """The same at once and without waiting, whatever thread this is (a finalizer's, say)."""

    def pause(self) -> None:
        """Let nothing through until `resume`. When this returns, no more is taken from either side. Idempotent."""

    def resume(self) -> None:
        """Go on; nothing is lost. Idempotent."""

    def stats(self) -> dict[str, int | float]:
        """Counters by name, `STATS` among them. Also after `close`: as they were then."""
