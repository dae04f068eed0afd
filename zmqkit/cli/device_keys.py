"""Which keys the daemon's file may have, and of what type their values are. Pure.

Each table is a map from its keys to what a value must be, in words, and a test for that.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from zmqkit.cli.device_specs import SIDES
from zmqkit.options import Heartbeat, Limits

_TEXT: Final = ("text", lambda value: isinstance(value, str))
_FLAG: Final = ("true or false", lambda value: isinstance(value, bool))
_NUMBER: Final = ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
_TABLE: Final = ("a table", lambda value: isinstance(value, dict))
_TEXTS: Final = (
    "a list of text",
    lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)
_ADDRESSES: Final = ("an address or a list of them", lambda value: _TEXT[1](value) or _TEXTS[1](value))
_SIDE: Final = (
    "an address, a list of them, or a table with bind, connect, announce, limits",
    lambda value: _ADDRESSES[1](value) or _TABLE[1](value),
)

Keys = Mapping[str, tuple[str, Callable[[Any], bool]]]

TOP: Final[Keys] = {
    "control": _TABLE,
    "log": _TABLE,
    "device": ("[[device]], once for each", lambda value: isinstance(value, list) and all(map(_TABLE[1], value))),
}
CONTROL: Final[Keys] = {"address": _TEXT}
LOG: Final[Keys] = {"format": _TEXT}
DEVICE: Final[Keys] = {
    "name": _TEXT,
    "kind": _TEXT,
    **dict.fromkeys(SIDES, _SIDE),
    "plain": _FLAG,
    "types": ("two types of sockets, as in types = ['ROUTER', 'DEALER']", _TEXTS[1]),
    "journal": _TEXT,
    "control": _TEXT,
    "insecure": _FLAG,
    "linger": _NUMBER,
    "heartbeat": _TABLE,
    "limits": _TABLE,
}
SIDE: Final[Keys] = {"bind": _ADDRESSES, "connect": _ADDRESSES, "announce": _TEXT, "limits": _TABLE}
LIMITS: Final[Keys] = {each.name: _NUMBER for each in dataclasses.fields(Limits)}
HEARTBEAT: Final[Keys] = {each.name: _NUMBER for each in dataclasses.fields(Heartbeat)}


def nearest(word: str, known: Collection[str]) -> str:
    """What was meant, perhaps, as the end of a message; empty if nothing is like it."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def type_of(value: object) -> str:
    """What a value of a document is, in words."""
    for kind, name in (
        (bool, "true or false"),
        (str, "text"),
        (int, "a whole number"),
        (float, "a number"),
        (dict, "a table"),
        (list, "a list"),
    ):
        if isinstance(value, kind):
            return name
    return "a date or time"
