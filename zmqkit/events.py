"""Events: what happened that no return value tells. Frozen dataclasses, reached by ``peer.on(EventType, fn)``.

Every drop, duplicate, timeout, refusal and recovery is one of these, a counter in ``peer.stats()``, or both.
Callbacks run on the peer's I/O thread: be brief there; what they raise is logged.

This module imports nothing of zmqkit.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """The root of all events.

    Attributes:
        peer: the ``name`` of the peer object that it happened to.
    """

    peer: str


@dataclasses.dataclass(frozen=True, slots=True)
class PeerFound(Event):
    """A session with another instance was opened."""

    instance: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class PeerLost(Event):
    """A session ended for good: ``reason`` is "goodbye", "silent", "process gone", "replaced"..."""

    instance: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class PeerBusy(Event):
    """A peer's connection stands, but its loop has not answered for a heartbeat bound."""

    instance: str


@dataclasses.dataclass(frozen=True, slots=True)
class PeerResumed(Event):
    """A session went on over a new connection; nothing was lost."""

    instance: str
    resent: int


@dataclasses.dataclass(frozen=True, slots=True)
class PeerRefused(Event):
    """A handshake was refused, by us or by them: a wrong version or role."""

    instance: str
    code: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class BadFrame(Event):
    """A message that breaks the protocol was dropped."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class JobFailed(Event):
    """A handler failed on a job; it will be tried again or become a dead letter."""

    id: str
    reason: str
    traceback: str
    failures: int


@dataclasses.dataclass(frozen=True, slots=True)
class JobDead(Event):
    """A message became a dead letter."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class JobRedelivered(Event):
    """Jobs that a lost puller held are on their way to others."""

    instance: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class StaleSettle(Event):
    """A puller settled jobs that are no longer its own; nothing changed."""

    instance: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class JournalTrouble(Event):
    """The journal refused to store; ``reason`` says why. New messages are refused until it recovers."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class JournalRecovered(Event):
    """The journal stores again."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerOut(Event):
    """A client lost a server: no call goes there until it comes back."""

    server: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ServerBack(Event):
    """A server that was lost came back and has proved itself: it takes its share of the calls again."""

    server: str


@dataclasses.dataclass(frozen=True, slots=True)
class CallRetried(Event):
    """A call is sent once more; ``id`` is the caller's own or the call's number, ``reason`` why it came to that."""

    id: str
    reason: str
