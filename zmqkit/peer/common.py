"""The keywords that every peer takes. No code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from zmqkit.options import Heartbeat, Limits

Addresses = str | Sequence[str]


class Common(TypedDict, total=False):
    """Keywords that every peer takes.

    Attributes:
        bind: addresses to bind, besides those in front.
        connect: addresses to connect to, besides those in front.
        announce: a name under which others find the bound addresses (``zeroconf://NAME``). Without an address to
            bind, a free port on loopback is bound.
        name: in logs, threads, events; None: host:pid.
        codec: of what is sent ("msgpack", "json", "raw" or a registered one); what is received names its own.
        insecure: allow addresses beyond this host without keys; also ZMQKIT_INSECURE=1.
        heartbeat: how life is proved.
        limits: bounds of what others make us hold.
        linger: seconds that close() goes on serving what waits; None: until all is settled. 5.0.
    """

    bind: Addresses
    connect: Addresses
    announce: str | None
    name: str | None
    codec: str
    insecure: bool
    heartbeat: Heartbeat
    limits: Limits
    linger: float | None
