"""Who listens to a plain publisher, as far as subscriptions tell (docs/protocol.md, section 14.8).

Pure. A plain SUB has no session. What is known of it are the prefixes that it subscribes, and the connection over
which each came. That a connection broke is told by its subscriptions' ends, which do not say whose they were.
"""

from __future__ import annotations

from typing import Final

from zmqkit.protocol.core import Link

MAX_SUBSCRIPTIONS: Final = 1_000_000
"""So many subscriptions are counted; who subscribes on top gets messages all the same."""

Name = bytes | int
"""A connection's token; or, where nobody tells it, a number among those who subscribe the same."""


class Listeners:
    """The subscriptions at all data endpoints of a plain publisher."""

    def __init__(self) -> None:
        self._holders: dict[tuple[Link, bytes], dict[Name, None]] = {}
        self._connections: dict[tuple[Link, Name], int] = {}
        """How many subscriptions each has."""
        self._count = 0
        self._leaving: Name = 0
        """Who was taken for gone last: all that it subscribed ends together."""

    def subscribed(self, link: Link, prefix: bytes, token: bytes) -> None:
        """What begins so is wanted over the connection with this token; b"": it is not known which it is."""
        if self._count >= MAX_SUBSCRIPTIONS:
            return
        holders = self._holders.setdefault((link, prefix), {})
        name: Name = token
        if not token:
            name = 1
            while name in holders:
                name += 1
        elif token in holders:
            return
        holders[name] = None
        self._count += 1
        self._connections[link, name] = self._connections.get((link, name), 0) + 1

    def unsubscribed(self, link: Link, prefix: bytes, token: bytes) -> None:
        """It is no longer wanted there; b"": by somebody who is gone, or cannot be told from others."""
        holders = self._holders.get((link, prefix))
        if holders is None:
            return
        name: Name | None = token
        if not token:
            name = self._leaving if self._leaving in holders else _least_known(holders)
            self._leaving = name
        if name not in holders:
            return
        del holders[name]
        if not holders:
            del self._holders[link, prefix]
        self._forget(link, name)

    def lost_link(self, link: Link) -> None:
        """The endpoint is gone, and all who were there."""
        for key in [key for key in self._holders if key[0] == link]:
            for name in self._holders.pop(key):
                self._forget(link, name)

    def _forget(self, link: Link, name: Name) -> None:
        self._count -= 1
        left = self._connections[link, name] - 1
        if left:
            self._connections[link, name] = left
        else:
            del self._connections[link, name]

    def wanted(self, topic: str | None) -> int:
        """How many connections get what is published to a topic, or to any."""
        if topic is None:
            return len(self._connections)
        name = topic.encode()
        found: set[tuple[Link, Name]] = set()
        for link in {link for link, _ in self._connections}:
            for end in range(len(name) + 1):
                found.update((link, each) for each in self._holders.get((link, name[:end]), ()))
        return len(found)


def _least_known(holders: dict[Name, None]) -> Name:
    """One without a token, the last that came; else the one that is there longest."""
    numbers = [each for each in holders if isinstance(each, int)]
    return max(numbers) if numbers else next(iter(holders))
