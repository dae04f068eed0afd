"""Every exception that zmqkit raises, in one tree.

::

    ZmqkitError
    ├── Retry                     raised BY a handler: try this job again later
    ├── Reject                    raised BY a handler: never try this job again
    ├── ServiceError              raised BY a method: an error of your own, with a code and data
    ├── UsageError                the caller's fault; nothing happened
    │   ├── AddressError          (also ValueError)   an address that cannot be read
    │   ├── InsecureAddress       a non-loopback address without insecure=True
    │   ├── AddressInUse          (also OSError)      somebody else is bound there
    │   ├── EncodeError           (also TypeError)    a body that cannot travel
    │   ├── Closed                the peer was closed
    │   ├── Forked                the peer belongs to the parent process
    │   ├── AlreadySettled        this job or batch was settled before
    │   └── CursorInUse           another live subscriber holds this cursor
    ├── WaitTimeout               (also TimeoutError) out of time; what was handed over goes on
    │   ├── Full                  ... before acceptance: nothing was stored
    │   └── Unsettled             closed with messages still waiting in memory
    ├── PartlySent                send_many stopped midway; .confirmed are safe
    ├── CallError                 a call that brought no result
    │   ├── NotSent               it never left: nothing was executed
    │   │   └── NotSentInTime     (also TimeoutError) ... before its time was out
    │   ├── Rejected              the server refused it: nothing was executed
    │   │   ├── UnknownMethod     ... it has no method of that name
    │   │   ├── BadArguments      ... the method does not take these arguments
    │   │   └── Overloaded        ... it has too much to do
    │   ├── RemoteError           the method was executed, and raised
    │   └── OutcomeUnknown        it was executed, or partly, or not at all: nobody can tell
    │       ├── NoReplyInTime     (also TimeoutError) ... when its time was out
    │       └── StreamBroken      ... after .received items had come
    ├── CursorNotMoved            a subscriber's position is not known to be stored at its publisher
    ├── MessagesLost              a subscriber's messages that no history holds; it goes on after them
    ├── Duplicate                 done before; nothing of it is done again
    ├── LeaseLost                 the job went to somebody else; this settle changed nothing
    ├── JournalError              the store's fault
    │   ├── JournalBusy           another process (or object) owns the file
    │   ├── DuplicateInstance     a copy of it, or itself under another name, is open
    │   ├── JournalFull           no room on the disk: what was being stored is not
    │   ├── JournalDamaged        the file does not hold what was written to it
    │   │   └── JournalRolledBack ... but less: an older copy, or its tail is gone
    │   ├── InboxRolledBack       an inbox has fewer commits than a pusher heard of: an older copy was put back
    │   ├── JournalVersion        the file belongs to another version, or is not a journal
    │   └── CommitIndeterminate   stored or not: cannot be known now
    ├── DiscoveryError            a name that cannot be looked up or announced
    └── ProtocolError             the other side's fault
        └── DecodeError           bytes that are not what they claim to be

Outcomes are three-valued: *done* is a return value, *not done* is named by the exception (`Full`,
`EncodeError`, `JournalFull`, `NotSent`, `Rejected`...), and *unknown* is said as such (`WaitTimeout`,
`CommitIndeterminate`, `OutcomeUnknown`).

This module imports nothing of zmqkit but `zmqkit.checks`.
"""

from __future__ import annotations

import functools
import typing

from zmqkit import checks


class ZmqkitError(Exception):
    """The root of everything that zmqkit raises on purpose."""


# ---- raised by handlers ----------------------------------------------------------


class Retry(ZmqkitError):
    """Raised by a handler: this job failed, deliver it again.

    It counts as a failure (see ``max_failures``).

    Args:
        delay: seconds until it is delivered again; None leaves it to the pusher's backoff.
        reason: kept with the failure, and in the dead letter if it comes to that.
    """

    def __init__(self, *, delay: float | None = None, reason: str = "") -> None:
        super().__init__(checks.text("reason", reason))
        self.delay = None if delay is None else checks.delay(delay)
        self.reason = reason

    def __reduce__(self) -> typing.Any:
        return functools.partial(Retry, delay=self.delay, reason=self.reason), ()  # from another process


class Reject(ZmqkitError):
    """Raised by a handler: this job can never succeed; make it a dead letter now.

    Args:
        reason: kept in the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(checks.text("reason", reason))
        self.reason = reason


class ServiceError(ZmqkitError):
    """Raised by a method, to tell the caller of an error in words that his program understands.

    It arrives as a `RemoteError` with the same code, message and data; it is not logged as a failure.

    Args:
        code: for programs, as in "out-of-stock".
        message: for people.
        data: anything that the codec takes.
    """

    def __init__(self, code: str, message: str = "", data: typing.Any = None) -> None:
        super().__init__(checks.text("code", code), checks.text("message", message), data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


# ---- the caller's fault ----------------------------------------------------------


class UsageError(ZmqkitError):
    """The call cannot be carried out as it was made. Nothing happened."""


class AddressError(UsageError, ValueError):
    """An address that cannot be read; the message names it and the forms that can."""


class InsecureAddress(UsageError):
    """A bind or connect beyond this host without keys. ``insecure=True`` allows it."""


class AddressInUse(UsageError, OSError):
    """The address to bind is taken."""


class EncodeError(UsageError, TypeError):
    """A body that cannot travel. The message names the place, as in ``body["when"]``.

    Attributes:
        index: which of several bodies it is, from 0; None where it is the only one.
    """

    index: int | None = None


class Closed(UsageError):
    """The peer was closed; make a new one."""


class Forked(UsageError):
    """An open peer of the parent process was used in a forked child. Open a new one there."""


class AlreadySettled(UsageError):
    """The job or batch was acked, nacked, rejected or released before. The first one counts."""


class CursorInUse(UsageError):
    """Another subscriber that lives holds this cursor at the publisher. Close it, or use another name."""


# ---- positions at a publisher ----------------------------------------------------


class CursorNotMoved(ZmqkitError):
    """`message.commit()` was not confirmed by the publisher that keeps the cursor: nobody's mistake here.

    The publisher is gone, and the cursor with it, if it had no journal; or its journal could not store; or the
    subscriber was closed first. The message says which. What was dealt with may come again, with the same
    `message.id`: make that harmless, or keep positions and effects together with ``inbox=``. A later commit stores all
    before it, too.
    """


# ---- out of time -----------------------------------------------------------------


class WaitTimeout(ZmqkitError, TimeoutError):
    """Out of time. What was handed over goes on: it is possibly stored.

    Attributes:
        id: of the message that was waited for, where it is one.
    """

    def __init__(self, message: str, *, id: str | None = None) -> None:
        super().__init__(message)
        self.id = id


class Full(WaitTimeout):
    """No room before the time was out. Nothing was stored or sent."""


class Unsettled(WaitTimeout):
    """Closed with messages that nobody settled and no journal keeps.

    Attributes:
        count: how many.
    """

    def __init__(self, message: str, *, count: int) -> None:
        super().__init__(message)
        self.count = count


class PartlySent(ZmqkitError):
    """``send_many`` stopped midway; the cause is chained.

    Attributes:
        confirmed: how many of the first bodies are safe at the durability that was asked for.
    """

    def __init__(self, message: str, *, confirmed: int) -> None:
        super().__init__(message)
        self.confirmed = confirmed


# ---- calls -----------------------------------------------------------------------


class CallError(ZmqkitError):
    """A call brought no result. The subclass says whether it was executed: no, yes, or nobody can tell."""


class NotSent(CallError):
    """The call never left. Nothing was executed; it may be made again."""


class NotSentInTime(NotSent, TimeoutError):
    """No server could take the call before its time was out. Nothing was executed."""


class Rejected(CallError):
    """The server refused the call. Nothing was executed.

    Attributes:
        code: why, for programs: "method", "arguments", "overloaded", "draining"...
    """

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class UnknownMethod(Rejected):
    """The server has no method of that name. Nothing was executed."""


class BadArguments(Rejected):
    """The method does not take these arguments, or is of the other kind (`stream` for generators, `call` for the
    rest). Nothing was executed."""


class Overloaded(Rejected):
    """Every server that is there has too much to do. Nothing was executed; try again later."""


class RemoteError(CallError):
    """The method was executed, and raised. What it had done by then is done.

    Attributes:
        type: the name of the exception's class, as in "ValueError".
        code: of a `ServiceError`; None of others.
        data: of a `ServiceError`.
        remote_traceback: where the server tells it (``Server(tracebacks=)``); None otherwise.
    """

    def __init__(
        self,
        message: str = "",
        *,
        type: str = "",
        code: str | None = None,
        data: typing.Any = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.type = type
        self.code = code
        self.data = data
        self.remote_traceback = remote_traceback


class OutcomeUnknown(CallError):
    """The call was handed to a server, and no answer came. It was executed, or partly, or not at all.

    Attributes:
        request_id: of the call: the caller's own, or the one that the server knew it by.
    """

    def __init__(self, message: str = "", *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id


class NoReplyInTime(OutcomeUnknown, TimeoutError):
    """No answer came before the call's time was out. The server was told that nobody waits any more."""


class StreamBroken(OutcomeUnknown):
    """A stream ended before its end.

    Attributes:
        received: how many items had come.
    """

    def __init__(self, message: str = "", *, request_id: str = "", received: int = 0) -> None:
        super().__init__(message, request_id=request_id)
        self.received = received


class MessagesLost(ZmqkitError):
    """Messages that were published and cannot be had any more. The subscriber goes on after them.

    Attributes:
        publisher: whose: 32 hex digits.
        epoch: 32 hex digits.
        topics: those known to be hit; empty: not known which.
        first: offset of the first one that may be among them.
        last: offset of the last one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        publisher: str = "",
        epoch: str = "",
        topics: tuple[str, ...] = (),
        first: int = 0,
        last: int = 0,
    ) -> None:
        super().__init__(message)
        self.publisher = publisher
        self.epoch = epoch
        self.topics = topics
        self.first = first
        self.last = last


class Duplicate(ZmqkitError):
    """This was done before, by somebody who shares the inbox; nothing of it is done again."""


class LeaseLost(ZmqkitError):
    """The job was taken from this puller and given to another; this settle changed nothing."""


# ---- the store's fault -----------------------------------------------------------


class JournalError(ZmqkitError):
    """The durable store failed. The subclass says how, the message what to do."""


class JournalBusy(JournalError):
    """Another process or object owns the journal; the message says who."""


class DuplicateInstance(JournalError):
    """The journal is open already, under another name or as a copy: both would give out the same ids."""


class JournalFull(JournalError):
    """No room on the disk. What was being stored is not; what was confirmed is."""


class JournalDamaged(JournalError):
    """The file does not hold what was written to it."""


class JournalRolledBack(JournalDamaged):
    """The journal holds less than was stored in it: an older copy of it was put back, or its last commits are gone.

    Attributes:
        commits: how many commits are missing, as far as the sidecar knows; 0: it cannot tell.
        logs: by log, the highest key that is there, and the highest that had been used; where the two differ.
    """

    def __init__(
        self, message: str, *, commits: int = 0, logs: typing.Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        super().__init__(message)
        self.commits = commits
        self.logs = dict(logs or {})


class InboxRolledBack(JournalError):
    """A puller's inbox has fewer commits than it once told a pusher: an older copy of it was put back.

    What it did since that copy may have had its effects, and it does not know that any more.

    Attributes:
        inbox: its id, 32 hex digits.
        commits: how many it has.
        known: how many the pusher has heard of.
    """

    def __init__(self, message: str, *, inbox: str = "", commits: int = 0, known: int = 0) -> None:
        super().__init__(message)
        self.inbox = inbox
        self.commits = commits
        self.known = known


class JournalVersion(JournalError):
    """The file is of another version of zmqkit, or is not a journal at all."""


class CommitIndeterminate(JournalError):
    """A commit failed in a way that leaves open whether it is on the disk.

    Attributes:
        id: of the message, where it is one.
    """

    def __init__(self, message: str, *, id: str | None = None) -> None:
        super().__init__(message)
        self.id = id


# ---- the others' fault -----------------------------------------------------------


class DiscoveryError(ZmqkitError):
    """A name that cannot be looked up or announced."""


class ProtocolError(ZmqkitError):
    """The other side broke the protocol."""


class DecodeError(ProtocolError):
    """Bytes that are not what they claim to be."""
