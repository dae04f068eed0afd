"""Every exception that zmqkit raises, in one tree.

::

    ZmqkitError
    ├── Retry                     raised BY a handler: try this job again later
    ├── Reject                    raised BY a handler: never try this job again
    ├── UsageError                the caller's fault; nothing happened
    │   ├── AddressError          (also ValueError)   an address that cannot be read
    │   ├── InsecureAddress       a non-loopback address without insecure=True
    │   ├── AddressInUse          (also OSError)      somebody else is bound there
    │   ├── EncodeError           (also TypeError)    a body that cannot travel
    │   ├── Closed                the peer was closed
    │   ├── Forked                the peer belongs to the parent process
    │   └── AlreadySettled        this job or batch was settled before
    ├── WaitTimeout               (also TimeoutError) out of time; what was handed over goes on
    │   ├── Full                  ... before acceptance: nothing was stored
    │   └── Unsettled             closed with messages still waiting in memory
    ├── PartlySent                send_many stopped midway; .confirmed are safe
    ├── LeaseLost                 the job went to somebody else; this settle changed nothing
    ├── JournalError              the store's fault
    │   ├── JournalBusy           another process (or object) owns the file
    │   ├── JournalFull           no room on the disk: what was being stored is not
    │   ├── JournalDamaged        the file does not hold what was written to it
    │   ├── JournalVersion        the file belongs to another version, or is not a journal
    │   └── CommitIndeterminate   stored or not: cannot be known now
    ├── DiscoveryError            a name that cannot be looked up or announced
    └── ProtocolError             the other side's fault
        └── DecodeError           bytes that are not what they claim to be

Outcomes are three-valued: *done* is a return value, *not done* is named by the exception (`Full`,
`EncodeError`, `JournalFull`...), and *unknown* is said as such (`WaitTimeout`, `CommitIndeterminate`).

This module imports nothing of zmqkit.
"""

from __future__ import annotations


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
        if delay is not None and not 0 <= delay < 1e9:
            raise ValueError(f"delay must be 0 or more seconds, below 1e9, got {delay!r}")
        super().__init__(reason)
        self.delay = delay
        self.reason = reason


class Reject(ZmqkitError):
    """Raised by a handler: this job can never succeed; make it a dead letter now.

    Args:
        reason: kept in the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# ---- the caller's fault ----------------------------------------------------------


class UsageError(ZmqkitError):
    """The call cannot be carried out as it was made. Nothing happened."""


class AddressError(UsageError, ValueError):
    """An address that cannot be read; the message names it and the forms that can."""


class InsecureAddress(UsageError):
    """A bind or connect beyond this host without keys. ``insecure=True`` allows it by name."""


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


class LeaseLost(ZmqkitError):
    """The job was taken from this puller and given to another; this settle changed nothing."""


# ---- the store's fault -----------------------------------------------------------


class JournalError(ZmqkitError):
    """The durable store failed. The subclass says how, the message what to do."""


class JournalBusy(JournalError):
    """Another process or object owns the journal; the message says who."""


class JournalFull(JournalError):
    """No room on the disk. What was being stored is not; what was confirmed is."""


class JournalDamaged(JournalError):
    """The file does not hold what was written to it."""


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
