"""Publish-subscribe without silent loss: one publisher tells many subscribers, by topics.

The promise: a subscriber gets the messages of its topics in the order of their offsets, and what it cannot get is
named. Two planes carry it: the data plane (XPUB, XSUB) fans out, the recovery channel (sessions) fills in what the
first one lost, and serves those who come late or live slowly. ``topics.py``, ``wire.py`` and ``talk.py`` are what both
sides share; ``publisher.py``, ``subscriber.py`` and what they import the pure cores; the other modules the faces,
which wait.

This file only says where each name lives; a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqkit import lazily

if TYPE_CHECKING:
    from zmqkit.patterns.pubsub.sync import Message, Publisher, Subscriber

_HOMES = {
    "Message": "zmqkit.patterns.pubsub.sync",
    "Publisher": "zmqkit.patterns.pubsub.sync",
    "Subscriber": "zmqkit.patterns.pubsub.sync",
}
"""Where each public name is defined."""

__all__ = ["Message", "Publisher", "Subscriber"]

__getattr__, __dir__ = lazily.attach(__name__, _HOMES)
