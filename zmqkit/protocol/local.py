"""What a peer says of itself, and what the session layer tells the pattern above.

Pure values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from zmqkit.options import Heartbeat
from zmqkit.protocol.core import Frames
from zmqkit.protocol.session import Session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """What a peer object is, as its handshakes tell it. The fields are those of `Hello`."""

    role: str
    accepts: frozenset[str]
    instance: bytes
    heartbeat: Heartbeat = Heartbeat()
    busy_bound: float = 3600.0
    frame_bytes: int = 64 * 1024 * 1024
    credit_messages: int = 0
    credit_bytes: int = 0
    name: str = ""
    host: str = ""
    pid: int = 0
    started: str = ""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Opened(NamedTuple):
    """A session began. Nothing was sent in it yet."""

    session: Session


class Received(NamedTuple):
    """A message came, each exactly once and in order."""

    session: Session
    frames: Frames
    messages: int


class Heard(NamedTuple):
    """``session.heard_by_peer`` or the credit moved on."""

    session: Session


class Changed(NamedTuple):
    """``session.link`` or ``session.busy`` is another than before: it may be better, or worse, to send in it now."""

    session: Session


class Lost(NamedTuple):
    """A session ended for good. ``session.heard_by_peer`` tells what the other side is known to have heard."""

    session: Session
    reason: str


Up = Opened | Received | Heard | Changed | Lost
