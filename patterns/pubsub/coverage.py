"""Which topics may share a frame: those that whoever subscribes any of them subscribes all together.

Pure (docs/protocol.md, section 9.2). A frame goes to those whose subscriptions it begins with. One that holds messages
of several topics begins with the words that they have in common; so it reaches whoever subscribes those words, or
fewer. Who subscribes more of a topic than them, a literal say, would miss it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from zmqkit.protocol.core import Link

MAX_PREFIXES: Final = 1_000_000
"""So many subscriptions are known. With more no frame is shared."""


def in_common(topics: Collection[str]) -> str:
    """The words that all of several topics begin with, each with its dot: "prices.eu."; "" if there are none."""
    first, last = min(topics), max(topics)
    end = 0
    for at, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            break
        if one == ".":
            end = at + 1
    return first[:end]


class Coverage:
    """The subscriptions of all data endpoints, asked whether any is longer than some words."""

    def __init__(self) -> None:
        self._prefixes: dict[Link, set[bytes]] = {}
        self._count = 0
        self._longer: dict[bytes, int] = {}
        """How many subscriptions begin with these words, the kind of frame before them, and say more."""

    def add(self, link: Link, prefix: bytes) -> None:
        """Somebody subscribes what begins so."""
        known = self._prefixes.setdefault(link, set())
        if prefix[:1] != b"d" or prefix in known:
            return
        self._count += 1
        if self._count > MAX_PREFIXES:
            return
        known.add(prefix)
        longer = self._longer
        for words in _shorter(prefix):
            longer[words] = longer.get(words, 0) + 1

    def remove(self, link: Link, prefix: bytes) -> None:
        """Nobody does any more, at this endpoint."""
        known = self._prefixes.get(link)
        if known is None or prefix not in known:
            return
        known.remove(prefix)
        self._forget(prefix)

    def lost(self, link: Link) -> None:
        """The endpoint is gone."""
        for prefix in self._prefixes.pop(link, ()):
            self._forget(prefix)

    def _forget(self, prefix: bytes) -> None:
        self._count -= 1
        longer = self._longer
        for words in _shorter(prefix):
            left = longer[words] - 1
            if left:
                longer[words] = left
            else:
                del longer[words]

    def may_share(self, prefix: str) -> bool:
        """Whether topics that begin with these words may share a frame."""
        return self._count <= MAX_PREFIXES and b"d" + prefix.encode() not in self._longer


def _shorter(prefix: bytes) -> list[bytes]:
    """All that a mixed frame may begin with, and this subscription says more than: ``d``, ``dprices.``, ..."""
    found, at = [], 0
    while at < len(prefix) - 1:
        found.append(prefix[: at + 1])
        at = prefix.find(b".", at + 1)
        if at < 0:
            break
    return found
