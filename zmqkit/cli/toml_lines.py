"""Where the keys of a TOML document stand: tomllib reads documents, but does not tell lines. Pure.

Knows TOML's shape (toml.io, v1.0.0), and is for documents that tomllib has taken: what is wrong with others it does
not find out.
"""

from __future__ import annotations

import re
from typing import Final

Place = tuple[str | int, ...]
"""A way into a document: names of keys, and indices where there are several."""

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN: Final = re.compile(r"[^,\]}#\r\n]+")
"""Numbers, dates and booleans: whatever is neither text nor made of others."""


def lines_of(text: str) -> dict[Place, int]:
    """The line, from 1, on which each table, key and item of a list begins. A table's is that of its first header.

    Args:
        text: a document that tomllib can read.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Place, int] = {}
        self._counts: dict[Place, int] = {}
        """How many tables each array of tables has so far."""

    def read(self) -> dict[Place, int]:
        table: Place = ()
        while self._skip(_BLANK) < len(self._text):
            line = self._line()
            if self._take("[["):
                table = self._enter(self._key(), line, several=True)
                self._take("]]")
            elif self._take("["):
                table = self._enter(self._key(), line, several=False)
                self._take("]")
            else:
                self._pair(table)
        return self._lines

    def _enter(self, key: list[str], line: int, *, several: bool) -> Place:
        """The place of a table with this header."""
        place: Place = ()
        for at, name in enumerate(key):
            place = (*place, name)
            self._lines.setdefault(place, line)
            if several and at == len(key) - 1:
                self._counts[place] = self._counts.get(place, 0) + 1
            if place in self._counts:  # of an array of tables the last one is meant
                place = (*place, self._counts[place] - 1)
                self._lines.setdefault(place, line)
        return place

    def _pair(self, table: Place) -> None:
        line = self._line()
        place = table
        for name in self._key():
            place = (*place, name)
            self._lines.setdefault(place, line)
        self._take("=")
        self._value(place)

    def _key(self) -> list[str]:
        """One key, dotted or not."""
        names = []
        while True:
            self._skip(_SPACE)
            match = _BARE.match(self._text, self._at) or _STRING.match(self._text, self._at)
            if match is None:
                raise ValueError(f"line {self._line()}: no key; tomllib would not have taken this document")
            self._at = match.end()
            names.append(_plain(match[0]))
            self._skip(_SPACE)
            if not self._take("."):
                return names

    def _value(self, place: Place) -> None:
        self._skip(_SPACE)
        if match := _STRING.match(self._text, self._at):
            self._at = match.end()
        elif self._take("["):
            index = 0
            while self._skip(_BLANK) < len(self._text) and not self._take("]"):
                self._lines[(*place, index)] = self._line()
                self._value((*place, index))
                self._skip(_BLANK)
                self._take(",")
                index += 1
        elif self._take("{"):
            while self._skip(_BLANK) < len(self._text) and not self._take("}"):
                self._pair(place)
                self._skip(_BLANK)
                self._take(",")
        elif match := _PLAIN.match(self._text, self._at):
            self._at = match.end()
        else:
            raise ValueError(f"line {self._line()}: no value; tomllib would not have taken this document")

    def _skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self._text, self._at)
        assert match is not None  # it matches the empty text
        self._at = match.end()
        return self._at

    def _take(self, what: str) -> bool:
        if not self._text.startswith(what, self._at):
            return False
        self._at += len(what)
        return True

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1


def _plain(key: str) -> str:
    """A key without its quotes and escapes."""
    if key[:1] == "'":
        return key[1:-1]
    if key[:1] != '"':
        return key
    return _ESCAPE.sub(_unescaped, key[1:-1])


_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_SHORT: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _SHORT.get(match[3], match[3])
