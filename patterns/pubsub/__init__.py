"""Publish-subscribe without silent loss: one publisher tells many subscribers, by topics.

The promise: a subscriber gets the messages of its topics in the order of their offsets, and what it cannot get is
named. Two planes carry it: the data plane (XPUB, XSUB) fans out, the recovery channel (sessions) fills in what the
first one lost, and serves those who come late or live slowly. ``topics.py``, ``wire.py`` and ``talk.py`` are what both
sides share; ``publisher.py``, ``subscriber.py`` and what they import the pure cores; the other modules the faces,
which wait.
"""

from __future__ import annotations

from zmqkit.patterns.pubsub.sync import Message, Publisher, Subscriber

__all__ = ["Message", "Publisher", "Subscriber"]
