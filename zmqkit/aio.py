"""The async face: the same names as `zmqkit`, for asyncio and trio alike.

What waits is a coroutine here, ``with`` is ``async with`` and ``for`` is ``async for``; parameters, defaults
and meanings are those of the sync face. What never waits, such as options and errors, is the very same object.

This file only says where each name lives; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from zmqkit import version

if TYPE_CHECKING:
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
        DeadLetter,
        Outbox,
        Outgoing,
        Settled,
    )
    from zmqkit.patterns.pipeline.pulling_aio import (
        Batch,
        Job,
        Puller,
    )
    from zmqkit.patterns.pipeline.pushing_aio import (
        DeadLetters,
        Pusher,
        Receipt,
    )
    from zmqkit.patterns.pipeline.worker_aio import (
        Worker,
    )
    from zmqkit.patterns.pubsub.aio import (
        Message,
        Publisher,
        Subscriber,
    )
    from zmqkit.patterns.reqrep import (
        Request,
        method,
    )
    from zmqkit.patterns.reqrep.aio import (
        Client,
        Reply,
        Stream,
    )
    from zmqkit.patterns.reqrep.serving_aio import (
        Server,
    )
    from zmqkit.peer import (
        Common,
        on,
    )
    from zmqkit.peer.aio import (
        Peer,
        stop_on_signals,
    )

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
    "DeadLetter": "zmqkit.patterns.pipeline",
    "Outbox": "zmqkit.patterns.pipeline",
    "Outgoing": "zmqkit.patterns.pipeline",
    "Settled": "zmqkit.patterns.pipeline",
    "Batch": "zmqkit.patterns.pipeline.pulling_aio",
    "DeadLetters": "zmqkit.patterns.pipeline.pushing_aio",
    "Job": "zmqkit.patterns.pipeline.pulling_aio",
    "Puller": "zmqkit.patterns.pipeline.pulling_aio",
    "Pusher": "zmqkit.patterns.pipeline.pushing_aio",
    "Receipt": "zmqkit.patterns.pipeline.pushing_aio",
    "Worker": "zmqkit.patterns.pipeline.worker_aio",
    "Request": "zmqkit.patterns.reqrep",
    "method": "zmqkit.patterns.reqrep",
    "Client": "zmqkit.patterns.reqrep.aio",
    "Reply": "zmqkit.patterns.reqrep.aio",
    "Stream": "zmqkit.patterns.reqrep.aio",
    "Server": "zmqkit.patterns.reqrep.serving_aio",
    "Message": "zmqkit.patterns.pubsub.aio",
    "Publisher": "zmqkit.patterns.pubsub.aio",
    "Subscriber": "zmqkit.patterns.pubsub.aio",
    "Common": "zmqkit.peer",
    "on": "zmqkit.peer",
    "Peer": "zmqkit.peer.aio",
    "stop_on_signals": "zmqkit.peer.aio",
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
    "method",
    "on",
    "stop_on_signals",
    "version",
]


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'zmqkit.aio' has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
