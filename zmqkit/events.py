"""Events: what happened that no return value tells. Frozen dataclasses, reached by ``peer.on(EventType, fn)``.

Every drop, duplicate, timeout, refusal and recovery is one of these, a counter in ``peer.stats()``, or both.
Callbacks run on the peer's I/O thread: be brief there; what they raise is logged. ``str()`` of an event is a sentence
for people, as it stands in the log; its fields are for programs.

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

    def __str__(self) -> str:
        words = f"{self.peer}: {self._told()}"
        # Some of them are strangers': none shall make lines of his own in a log, or steer a terminal.
        return words if words.isprintable() else repr(words)[1:-1]

    def _told(self) -> str:
        return type(self).__name__


@dataclasses.dataclass(frozen=True, slots=True)
class PeerFound(Event):
    """A session with another instance was opened."""

    instance: str
    address: str

    def _told(self) -> str:
        return f"{_shown(self.instance)} came, at {self.address}"


@dataclasses.dataclass(frozen=True, slots=True)
class PeerLost(Event):
    """A session ended for good: ``reason`` is "goodbye", "silent", "process gone", "replaced"..."""

    instance: str
    reason: str

    def _told(self) -> str:
        return f"{_shown(self.instance)} is lost: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class PeerBusy(Event):
    """A peer's connection stands, but its loop has not answered for a heartbeat bound."""

    instance: str

    def _told(self) -> str:
        return f"{_shown(self.instance)} does not answer, though its connection stands: it is taken for busy"


@dataclasses.dataclass(frozen=True, slots=True)
class PeerResumed(Event):
    """A session went on over a new connection; nothing was lost."""

    instance: str
    resent: int

    def _told(self) -> str:
        return f"{_shown(self.instance)} is back over a new connection; {_counted(self.resent, 'message')} sent again"


@dataclasses.dataclass(frozen=True, slots=True)
class PeerRefused(Event):
    """A handshake was refused, by us or by them: a wrong version or role."""

    instance: str
    code: str
    reason: str

    def _told(self) -> str:
        return f"the handshake with {_shown(self.instance)} was refused ({self.code}): {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class BadFrame(Event):
    """A message that breaks the protocol was dropped."""

    reason: str

    def _told(self) -> str:
        return f"dropped a message that breaks the protocol: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class JobFailed(Event):
    """A handler failed on a job; it will be tried again or become a dead letter."""

    id: str
    reason: str
    traceback: str
    failures: int

    def _told(self) -> str:
        return f"job {self.id} failed, {_counted(self.failures, 'time')} so far: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class JobDead(Event):
    """A message became a dead letter."""

    id: str
    reason: str

    def _told(self) -> str:
        return f"job {self.id} is a dead letter: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class JobExpired(Event):
    """A message outlived its time to live, and will not be delivered."""

    id: str

    def _told(self) -> str:
        return f"job {self.id} has expired"


@dataclasses.dataclass(frozen=True, slots=True)
class ClockJumped(Event):
    """The wall clock is not where the journal last saw it: nothing expires until it is, or until the next opening.

    Attributes:
        seconds: how far it is from there; negative: back.
    """

    seconds: float

    def _told(self) -> str:
        return f"the clock is {self.seconds} s from where the journal saw it last: no message expires meanwhile"


@dataclasses.dataclass(frozen=True, slots=True)
class JobRedelivered(Event):
    """Jobs that a puller held are on their way to others: it is lost, or has closed. Its `PeerLost` says which."""

    instance: str
    count: int

    def _told(self) -> str:
        return f"{_counted(self.count, 'job')} that {_shown(self.instance)} held go to others: it closed, or is lost"


@dataclasses.dataclass(frozen=True, slots=True)
class InDoubt(Event):
    """Jobs wait for a puller that presents their inbox, and none has come for a heartbeat bound.

    Whether they had their effect, only that inbox can tell. ``zmqkit journal release`` gives them to others.

    Attributes:
        id: of the first of them.
        inbox: its id, 32 hex digits.
        count: how many, as far as they are in memory.
    """

    id: str
    inbox: str
    count: int

    def _told(self) -> str:
        return (
            f"{_counted(self.count, 'job')} in doubt, {self.id} first: only the inbox {self.inbox[:8]} knows what "
            "became of them, and no puller has it"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class StaleSettle(Event):
    """A puller settled jobs that are no longer its own; nothing changed."""

    instance: str
    count: int

    def _told(self) -> str:
        return (
            f"{_shown(self.instance)} settled {_counted(self.count, 'job')} too late: "
            "they had gone to somebody else, and nothing changed"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class JournalTrouble(Event):
    """The journal refused to store; ``reason`` says why. New messages are refused until it recovers."""

    reason: str

    def _told(self) -> str:
        return f"the journal does not store, and nothing new is taken until it does: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class JournalRecovered(Event):
    """The journal stores again."""

    def _told(self) -> str:
        return "the journal stores again"


@dataclasses.dataclass(frozen=True, slots=True)
class ServerOut(Event):
    """A client lost a server: no call goes there until it comes back."""

    server: str
    reason: str

    def _told(self) -> str:
        return f"server {self.server} is lost, no call goes there: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class ServerBack(Event):
    """A server that was lost came back and has proved itself: it takes its share of the calls again."""

    server: str

    def _told(self) -> str:
        return f"server {self.server} is back and takes calls again"


@dataclasses.dataclass(frozen=True, slots=True)
class CallRetried(Event):
    """A call is sent once more; ``id`` is the caller's own or the call's number, ``reason`` why it came to that."""

    id: str
    reason: str

    def _told(self) -> str:
        return f"call {self.id} is sent once more: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class GapFound(Event):
    """A subscriber noticed that messages are missing: of this topic, from one offset to another, or some of these.

    They are fetched, if ``on_gap=`` says so and the publisher still has them. ``topic`` is "" where it is not known.
    """

    publisher: str
    topic: str
    first: int
    last: int

    def _told(self) -> str:
        of = f"of the topic {self.topic}" if self.topic else "of some topics"
        return f"messages {of} are missing from {self.first} to {self.last} at publisher {self.publisher[:8]}"


@dataclasses.dataclass(frozen=True, slots=True)
class EpochChanged(Event):
    """A publisher was opened anew. ``last`` is the newest offset that came of what it published before.

    With a journal it is the same ``publisher``, and what it stored before is still served. Without one it is another,
    and nobody can tell what the one before it published after ``last``: ``tail_unknown``.
    """

    publisher: str
    epoch: str
    last: int
    tail_unknown: bool

    def _told(self) -> str:
        tail = "; what followed is not known" if self.tail_unknown else ""
        whose = f"publisher {self.publisher[:8]} was opened anew, in epoch {self.epoch[:8]}"
        return f"{whose}: {self.last} is the newest offset that came of what was before{tail}"


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryUnreachable(Event):
    """A subscriber has no recovery channel to a publisher: what is missing cannot be fetched. It goes on trying.

    ``publisher`` is "" where none has said yet who it is: at ``address`` there may be no zmqkit publisher.
    """

    publisher: str
    address: str
    reason: str

    def _told(self) -> str:
        whom = f"publisher {self.publisher[:8]}" if self.publisher else "whoever is there"
        return f"no recovery channel to {whom} at {self.address}: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class FellBehind(Event):
    """A subscriber is too slow to take messages as they are published. It gets them from the publishers' histories."""

    address: str
    reason: str

    def _told(self) -> str:
        return f"fell behind what is published at {self.address}: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class SubscriberSlow(Event):
    """A subscriber does not keep up: its publisher closes its data connection. It may go on from the history.

    ``subscriber`` is its name; empty if nobody answers for the connection. ``behind``: so many offsets, about.
    """

    subscriber: str
    behind: int

    def _told(self) -> str:
        who = f"subscriber {self.subscriber}" if self.subscriber else "a subscriber that answers nothing"
        return f"{who} is too slow, {_counted(self.behind, 'message')} behind: its data connection is closed"


@dataclasses.dataclass(frozen=True, slots=True)
class SubscriptionsRefused(Event):
    """A subscriber wants more topics than a publisher allows.

    At the publisher, ``subscriber`` is its name; empty if it is not known. At the subscriber it is its own.
    """

    subscriber: str
    reason: str

    def _told(self) -> str:
        who = f"subscriber {self.subscriber}" if self.subscriber else "a subscriber"
        return f"{who} subscribes too much: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class MessagesExpired(Event):
    """Messages were older than ``max_age=`` when they came, and were dropped."""

    publisher: str
    count: int

    def _told(self) -> str:
        return f"{_counted(self.count, 'message')} of publisher {self.publisher[:8]} came too late, and were dropped"


def _shown(instance: str) -> str:
    """An instance, as far as people need it to tell it from others."""
    return f"peer {instance[:8]}" if instance else "a peer"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
