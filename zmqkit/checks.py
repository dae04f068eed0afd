"""Arguments, looked at where the caller can see it: each refusal names the argument and says what is allowed.

Of the wrong kind it is a `TypeError`, of the right kind and out of bounds a `ValueError`. This module imports nothing
of zmqkit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any


def number(name: str, value: Any, allowed: str) -> float:
    """A real number as a float: an int, a Fraction, a Decimal or one of NumPy's too. NaN is none, nor is a bool."""
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name} must be {allowed}, got {value!r}{_instead(value)}")
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isnan(found):
        raise ValueError(f"{name} must be {allowed}, got {value!r:.100}")
    return found


def _instead(value: Any) -> str:
    """What to say instead of a time in other words than seconds."""
    if hasattr(value, "total_seconds"):
        return ": say its .total_seconds()"
    return ": say how far off it is, as in (when - now).total_seconds()" if hasattr(value, "timestamp") else ""


def seconds(name: str, value: Any, *, none: bool = False) -> float:
    """0 or more seconds; they may be infinite."""
    allowed = f"0 or more seconds{', or None' if none else ''}"
    found = number(name, value, allowed)
    if found < 0:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return found


def delay(value: Any) -> float:
    """Seconds until a job is delivered again."""
    found = number("delay", value, "0 or more seconds, below 1e9")
    if not 0 <= found < 1e9:
        raise ValueError(f"delay must be 0 or more seconds, below 1e9, got {value!r}")
    return found


def whole(name: str, value: Any, *, most: int | None = None, none: bool = False) -> None:
    """A whole number from 1 on; ``most`` of it at most. Raises `ValueError` for whatever it is instead."""
    if none and value is None:
        return
    if type(value) is not int or value < 1 or (most is not None and value > most):
        bounds = "of 1 or more" if most is None else f"from 1 to {most}"
        raise ValueError(f"{name} must be a whole number {bounds}{', or None' if none else ''}, got {value!r:.100}")


def count(name: str, value: Any) -> None:
    """A whole number from 0 on. A bool is none."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number of 0 or more, got {value!r:.100}")
    if value < 0:
        raise ValueError(f"{name} must be a whole number of 0 or more, got {value!r:.100}")


MAX_BITS = 1000
"""No number of seconds is larger: a float could not hold it."""


def timeout(value: Any) -> None:
    """A number of seconds, or None. Not converted: every verb comes here.

    Less than 0 is a time that is out, as what is left of a deadline may be.
    """
    if value is None:
        return
    if not isinstance(value, int | float):
        raise TypeError(f"timeout must be a number of seconds (an int or a float), or None, got {value!r}")
    if value != value:
        raise ValueError(f"timeout must be a number of seconds, or None, got {value!r}")
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise ValueError(f"timeout must be a number of seconds, or None, got a number of {value.bit_length()} bits")


def file_path(name: str, value: Any) -> str:
    """The path of a file, as text that the system and SQLite can take."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise TypeError(f"{name} must be the path of a file, as text or a pathlib.Path, got {value!r}")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a path that can be written in UTF-8, got {path!r}") from None
    if path == ":memory:":
        raise ValueError(
            f"{name} must be the path of a file, got {path!r}: to keep nothing on the disk leave {name}= out"
        )
    if "\0" in path:
        raise ValueError(f"{name} must be a path without null characters, got {path!r}")
    return path


def text(name: str, value: Any) -> str:
    """Text, empty or not."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r}")
    return value


def several(name: str, value: Any) -> list[Any]:
    """One address, or those of a list or another collection, which are yet to be read. None: none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    # An iterator of jobs is none either: a Puller of the other face, say, would never end.
    if isinstance(value, bytes | bytearray) or not isinstance(value, Iterable) or hasattr(value, "wait_for_peers"):
        raise TypeError(f"{name} must be an address, as in tcp://127.0.0.1:5557, or a list of them, got {value!r}")
    return list(value)
