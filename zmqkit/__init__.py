"""zmqkit: durable, multi-host messaging for Python with no broker to run.

::

    import zmqkit

    with zmqkit.Pusher("tcp://127.0.0.1:5557", journal="jobs.db") as push:
        push.send({"n": 1})

    with zmqkit.Puller("tcp://127.0.0.1:5557") as pull:
        for job in pull:
            with job:
                print(job.body)

`zmqkit.aio` bears the same names for asyncio and trio. This file only says where each name lives; a name is
imported when it is first used, so that ``import zmqkit`` costs next to nothing and opens nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmqkit import aio, devices, events, testing
    from zmqkit.errors import (
        AddressError,
        AddressInUse,
        AlreadySettled,
        BadArguments,
        CallError,
        Closed,
        CommitIndeterminate,
        CursorInUse,
        CursorNotMoved,
        DecodeError,
        DiscoveryError,
        Duplicate,
        DuplicateInstance,
        EncodeError,
        Forked,
        Full,
        InboxRolledBack,
        InsecureAddress,
        JournalBusy,
        JournalDamaged,
        JournalError,
        JournalFull,
        JournalRolledBack,
        JournalVersion,
        LeaseLost,
        MessagesLost,
        NoReplyInTime,
        NotSent,
        NotSentInTime,
        OutcomeUnknown,
        Overloaded,
        PartlySent,
        ProtocolError,
        Reject,
        Rejected,
        RemoteError,
        Retry,
        ServiceError,
        StreamBroken,
        UnknownMethod,
        Unsettled,
        UsageError,
        WaitTimeout,
        ZmqkitError,
    )
    from zmqkit.options import (
        Backoff,
        Durability,
        Heartbeat,
        Limits,
        OnError,
        Point,
        Retention,
        Window,
    )
    from zmqkit.patterns.pipeline import (
        Batch,
        DeadLetter,
        DeadLetters,
        Job,
        Outbox,
        Outgoing,
        Puller,
        Pusher,
        Receipt,
        Settled,
        Worker,
    )
    from zmqkit.patterns.pubsub import (
        Message,
        Publisher,
        Subscriber,
    )
    from zmqkit.patterns.reqrep import (
        Client,
        Reply,
        Request,
        Server,
        Stream,
        method,
    )
    from zmqkit.peer import (
        Common,
        Peer,
        on,
        stop_on_signals,
    )

_MODULES = ("aio", "devices", "events", "testing")

_HOMES = {
    "AddressError": "zmqkit.errors",
    "AddressInUse": "zmqkit.errors",
    "AlreadySettled": "zmqkit.errors",
    "BadArguments": "zmqkit.errors",
    "CallError": "zmqkit.errors",
    "Closed": "zmqkit.errors",
    "CommitIndeterminate": "zmqkit.errors",
    "CursorInUse": "zmqkit.errors",
    "CursorNotMoved": "zmqkit.errors",
    "DecodeError": "zmqkit.errors",
    "DiscoveryError": "zmqkit.errors",
    "DuplicateInstance": "zmqkit.errors",
    "Duplicate": "zmqkit.errors",
    "EncodeError": "zmqkit.errors",
    "Forked": "zmqkit.errors",
    "Full": "zmqkit.errors",
    "InboxRolledBack": "zmqkit.errors",
    "InsecureAddress": "zmqkit.errors",
    "JournalBusy": "zmqkit.errors",
    "JournalDamaged": "zmqkit.errors",
    "JournalError": "zmqkit.errors",
    "JournalFull": "zmqkit.errors",
    "JournalRolledBack": "zmqkit.errors",
    "JournalVersion": "zmqkit.errors",
    "LeaseLost": "zmqkit.errors",
    "MessagesLost": "zmqkit.errors",
    "NoReplyInTime": "zmqkit.errors",
    "NotSent": "zmqkit.errors",
    "NotSentInTime": "zmqkit.errors",
    "OutcomeUnknown": "zmqkit.errors",
    "Overloaded": "zmqkit.errors",
    "PartlySent": "zmqkit.errors",
    "ProtocolError": "zmqkit.errors",
    "Reject": "zmqkit.errors",
    "Rejected": "zmqkit.errors",
    "RemoteError": "zmqkit.errors",
    "Retry": "zmqkit.errors",
    "ServiceError": "zmqkit.errors",
    "StreamBroken": "zmqkit.errors",
    "UnknownMethod": "zmqkit.errors",
    "Unsettled": "zmqkit.errors",
    "UsageError": "zmqkit.errors",
    "WaitTimeout": "zmqkit.errors",
    "ZmqkitError": "zmqkit.errors",
    "Backoff": "zmqkit.options",
    "Durability": "zmqkit.options",
    "Heartbeat": "zmqkit.options",
    "Limits": "zmqkit.options",
    "OnError": "zmqkit.options",
    "Point": "zmqkit.options",
    "Retention": "zmqkit.options",
    "Window": "zmqkit.options",
    "Batch": "zmqkit.patterns.pipeline",
    "DeadLetter": "zmqkit.patterns.pipeline",
    "DeadLetters": "zmqkit.patterns.pipeline",
    "Job": "zmqkit.patterns.pipeline",
    "Outbox": "zmqkit.patterns.pipeline",
    "Outgoing": "zmqkit.patterns.pipeline",
    "Puller": "zmqkit.patterns.pipeline",
    "Pusher": "zmqkit.patterns.pipeline",
    "Receipt": "zmqkit.patterns.pipeline",
    "Settled": "zmqkit.patterns.pipeline",
    "Worker": "zmqkit.patterns.pipeline",
    "Client": "zmqkit.patterns.reqrep",
    "Reply": "zmqkit.patterns.reqrep",
    "Request": "zmqkit.patterns.reqrep",
    "Server": "zmqkit.patterns.reqrep",
    "Stream": "zmqkit.patterns.reqrep",
    "method": "zmqkit.patterns.reqrep",
    "Message": "zmqkit.patterns.pubsub",
    "Publisher": "zmqkit.patterns.pubsub",
    "Subscriber": "zmqkit.patterns.pubsub",
    "Common": "zmqkit.peer",
    "Peer": "zmqkit.peer",
    "on": "zmqkit.peer",
    "stop_on_signals": "zmqkit.peer",
}
"""Where each public name is defined."""

__all__ = [
    "AddressError",
    "AddressInUse",
    "AlreadySettled",
    "Backoff",
    "BadArguments",
    "Batch",
    "CallError",
    "Client",
    "Closed",
    "CommitIndeterminate",
    "Common",
    "CursorInUse",
    "CursorNotMoved",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "DiscoveryError",
    "Duplicate",
    "DuplicateInstance",
    "Durability",
    "EncodeError",
    "Forked",
    "Full",
    "Heartbeat",
    "InboxRolledBack",
    "InsecureAddress",
    "Job",
    "JournalBusy",
    "JournalDamaged",
    "JournalError",
    "JournalFull",
    "JournalRolledBack",
    "JournalVersion",
    "LeaseLost",
    "Limits",
    "Message",
    "MessagesLost",
    "NoReplyInTime",
    "NotSent",
    "NotSentInTime",
    "OnError",
    "Outbox",
    "OutcomeUnknown",
    "Outgoing",
    "Overloaded",
    "PartlySent",
    "Peer",
    "Point",
    "ProtocolError",
    "Publisher",
    "Puller",
    "Pusher",
    "Receipt",
    "Reject",
    "Rejected",
    "RemoteError",
    "Reply",
    "Request",
    "Retention",
    "Retry",
    "Server",
    "ServiceError",
    "Settled",
    "Stream",
    "StreamBroken",
    "Subscriber",
    "UnknownMethod",
    "Unsettled",
    "UsageError",
    "WaitTimeout",
    "Window",
    "Worker",
    "ZmqkitError",
    "aio",
    "devices",
    "events",
    "method",
    "on",
    "stop_on_signals",
    "testing",
    "version",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"zmqkit.{name}")
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'zmqkit' has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def version() -> str:
    """The version of zmqkit that is installed, as in "0.1.0"."""
    from importlib import metadata

    return metadata.version("zmqkit")
