"""Topics and patterns: what may be one, how each stands on the wire, and which pattern lets which topic in.

Pure (docs/protocol.md, section 14.1). A topic is words with dots between them. A pattern is a topic in which ``*``
stands for exactly one word and ``#``, as the last word, for any number of words, none included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from zmqkit.errors import DecodeError
from zmqkit.protocol import wire

MAX_TOPIC_BYTES: Final = 255
"""The longest topic or pattern, in UTF-8."""

TERMINATOR: Final = b"\0"
"""Ends a topic on the wire, so that ``data`` does not let ``data-secret`` in."""

CACHED: Final = 20_000
"""So many topics' verdicts are remembered where wildcards must be walked for them."""


# ---- what may be one -------------------------------------------------------------


def check_topic(topic: object, name: str = "topic") -> str:
    """`topic`, if one may publish to it.

    Raises:
        TypeError: it is no text.
        ValueError: it cannot be a topic; the message says why.
    """
    found = _check_words(topic, name)
    if ("*" in found or "#" in found) and not _WILDCARDS.isdisjoint(found.split(".")):
        raise ValueError(f"{name} {found!r} has a wildcard as a word: only subscribers may use * and #")
    return found


def check_pattern(pattern: object, name: str = "topics") -> str:
    """`pattern`, if one may subscribe to it. Raises as `check_topic`."""
    found = _check_words(pattern, name)
    if "#" in found and "#" in found.split(".")[:-1]:
        raise ValueError(f"{name}: in {found!r} # stands before other words; it may only be the last one")
    return found


def check_patterns(patterns: object, name: str = "topics") -> list[str]:
    """The patterns of one text or of several texts, in their order, each once. Raises as `check_topic`."""
    if isinstance(patterns, str):
        return [check_pattern(patterns, name)]
    if isinstance(patterns, bytes | bytearray) or not isinstance(patterns, Iterable):
        raise TypeError(f"{name} must be text, as in 'alerts.#', or several of them, got {patterns!r:.100}")
    return list(dict.fromkeys(check_pattern(each, name) for each in patterns))


def read_topic(value: object) -> str:
    """A topic from a stranger. Raises `DecodeError`."""
    try:
        return check_topic(value)
    except (TypeError, ValueError):
        raise DecodeError(f"no topic: {wire.shown(value)}") from None


def read_pattern(value: object) -> str:
    """A pattern from a stranger. Raises `DecodeError`."""
    try:
        return check_pattern(value)
    except (TypeError, ValueError):
        raise DecodeError(f"no pattern of topics: {wire.shown(value)}") from None


_WILDCARDS: Final = frozenset({"*", "#"})


def _check_words(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r:.100}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that can be written in UTF-8, got {value!r:.100}") from None
    if size > MAX_TOPIC_BYTES:
        raise ValueError(f"{name} must be at most {MAX_TOPIC_BYTES} bytes of UTF-8, got {size}: {value!r:.60}...")
    if not value:
        raise ValueError(f"{name} must not be empty")
    if "\0" in value:
        raise ValueError(f"{name} must be without null characters, got {value!r:.300}")
    if value[0] == "." or value[-1] == "." or ".." in value:
        raise ValueError(f"{name} must be words with single dots between them, got {value!r:.300}")
    return value


# ---- names on the wire -----------------------------------------------------------

BEATS: Final = b"b"
"""What a subscriber subscribes for beats."""


def wire_topic(topic: str) -> bytes:
    """How a data frame of the topic begins; also the subscription of a literal."""
    return b"d%b\0" % topic.encode()


def mixed_topic(prefix: str) -> bytes:
    """How a frame with messages of several topics begins, which all have these words in front: "prices.eu.", or ""."""
    return b"d%b\0" % prefix.encode()


def wire_prefixes(pattern: str) -> tuple[bytes, ...]:
    """What a subscriber of the pattern subscribes: no less than it lets in. What is more, the subscriber drops."""
    words = pattern.split(".")
    if _WILDCARDS.isdisjoint(words):
        return (wire_topic(pattern),)
    before = next(i for i, word in enumerate(words) if word in _WILDCARDS)
    if not before:
        return (b"d",)
    stem = b"d" + ".".join(words[:before]).encode()
    if words[before] == "#":
        return (stem + TERMINATOR, stem + b".")
    return (stem + b".",)


def private_topic(private: str) -> bytes:
    """The topic on which one subscriber gets its fence; `private` is made by `wire.private_name`."""
    return b"p%b\0" % private.encode()


# ---- which lets which in ---------------------------------------------------------


class Filter:
    """A set of patterns, asked whether any of them lets a topic in.

    A literal costs a look into a set. Wildcards stand in a tree by words; what it said of a topic is remembered, for
    `CACHED` topics.
    """

    __slots__ = ("_cache", "_everything", "_literals", "_tree", "_wild")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._literals: set[str] = set()
        self._wild: set[str] = set()
        self._everything = False
        self._tree: dict[str, Any] = {}
        self._cache: dict[str, bool] = {}
        for each in patterns:
            self.add(each)

    def __len__(self) -> int:
        return len(self._literals) + len(self._wild)

    def __iter__(self) -> Iterator[str]:
        yield from self._wild
        yield from self._literals

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._literals or pattern in self._wild

    @property
    def everything(self) -> bool:
        """It lets every topic in."""
        return self._everything

    @property
    def literals(self) -> set[str] | None:
        """All topics that are let in, where there are no wildcards; None where there are. Not to be changed."""
        return None if self._wild else self._literals

    def add(self, pattern: str) -> bool:
        """Take in a pattern, checked before. False: it was there."""
        words = pattern.split(".") if "*" in pattern or "#" in pattern else ()
        if _WILDCARDS.isdisjoint(words):
            if pattern in self._literals:
                return False
            self._literals.add(pattern)
            return True
        if pattern in self._wild:
            return False
        self._wild.add(pattern)
        node = self._tree
        for word in words:
            node = node.setdefault(word, {})
        node[_END] = True
        self._everything = "#" in self._wild
        self._cache.clear()
        return True

    def remove(self, pattern: str) -> bool:
        """Take out a pattern. False: it was not there."""
        if pattern in self._literals:
            self._literals.discard(pattern)
            return True
        if pattern not in self._wild:
            return False
        self._wild.discard(pattern)
        path = [self._tree]
        words = pattern.split(".")
        for word in words:
            path.append(path[-1][word])
        del path[-1][_END]
        for node, word in zip(reversed(path[:-1]), reversed(words), strict=True):
            if node[word]:
                break
            del node[word]
        self._everything = "#" in self._wild
        self._cache.clear()
        return True

    def clear(self) -> None:
        """Let nothing in."""
        self.__init__()  # type: ignore[misc]

    def matches(self, topic: str) -> bool:
        """Whether some pattern lets the topic in."""
        if self._everything or topic in self._literals:
            return True
        if not self._wild:
            return False
        known = self._cache.get(topic)
        if known is None:
            if len(self._cache) >= CACHED:
                self._cache.clear()
            known = self._cache[topic] = self._walk(topic.split("."))
        return known

    def covers(self, prefix: str) -> bool:
        """Whether every topic is let in that has these words in front ("prices.eu."), and one more at least.

        False says nothing.
        """
        node = self._tree
        for word in prefix.split(".")[:-1]:
            if "#" in node:
                return True
            if word not in node:
                return False
            node = node[word]
        return "#" in node

    def _walk(self, words: list[str]) -> bool:
        nodes = [self._tree]
        for word in words:
            below = []
            for node in nodes:
                if "#" in node:
                    return True
                if word in node:
                    below.append(node[word])
                if "*" in node:
                    below.append(node["*"])
            if not below:
                return False
            nodes = below
        return any(_END in node or "#" in node for node in nodes)


_END: Final = ""
"""No word is empty: under this key a tree says that a pattern ends here."""
