"""Which topics may share a frame: those that whoever subscribes any of them subscribes all together.

Pure (docs/protocol.md, section 14.2). A frame goes to those whose subscriptions it begins with. One that holds messages
of several topics begins with the words that they have in common; so it reaches whoever subscribes those words, or
fewer. Who subscribes more of a topic than them, a literal say, would miss it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from zmqkit.patterns.pubsub.topics import MAX_TOPIC_BYTES
from zmqkit.protocol.core import Link

MAX_PREFIXES: Final = 1_000_000
"""So many subscriptions are known. With more no frame is shared."""

MAX_SHORTER: Final = 2_000_000
"""So many beginnings of them are known. With more no frame is shared."""

MAX_WORDS: Final = 8
"""Topics share a frame for so many words that they have in common, at most."""

LONGEST: Final = 1 + MAX_TOPIC_BYTES + 1
"""Nothing that is published begins with what is longer."""


def in_common(topics: Collection[str]) -> str:
    """The words, up to `MAX_WORDS`, that all of several topics begin with, each with its dot: "prices.eu."; "" if there
    are none."""
    first, last = min(topics), max(topics)
    end = words = 0
    for at, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            break
        if one == ".":
            end = at + 1
            words += 1
            if words == MAX_WORDS:
                break
    return first[:end]


class Coverage:
    """The subscriptions of all data endpoints, asked whether any is longer than some words."""

    def __init__(self) -> None:
        self._prefixes: dict[Link, set[bytes]] = {}
        self._count = 0
        self._overfull = False
        self._longer: dict[bytes, int] = {}
        """How many subscriptions begin with these words, the kind of frame before them, and say more."""

    def add(self, link: Link, prefix: bytes) -> None:
        """Somebody subscribes what begins so."""
        known = self._prefixes.setdefault(link, set())
        if prefix[:1] != b"d" or len(prefix) > LONGEST or prefix in known:
            return
        if self._count >= MAX_PREFIXES or len(self._longer) > MAX_SHORTER:
            self._overfull = True
            return
        self._count += 1
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
        return not self._overfull and b"d" + prefix.encode() not in self._longer


def _shorter(prefix: bytes) -> list[bytes]:
    """All that a mixed frame may begin with, and this subscription says more than: ``d``, ``dprices.``, ..."""
    found: list[bytes] = []
    at = 0
    while at < len(prefix) - 1 and len(found) <= MAX_WORDS:
        found.append(prefix[: at + 1])
        at = prefix.find(b".", at + 1)
        if at < 0:
            break
    return found
