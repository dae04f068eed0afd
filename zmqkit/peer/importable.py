"""Functions as other processes find them: by module and name. So no code of ours travels, only names."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from typing import Any

from zmqkit.errors import UsageError

Place = tuple[str, str]
"""A module, and a name in it, with dots where it stands in a class."""


def place_of(call: Callable[..., Any]) -> Place | None:
    """By which module and name a function is found in another process; None: by none."""
    module, name = getattr(call, "__module__", None), getattr(call, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    try:
        found = found_at((module, name))
    except (ImportError, AttributeError):
        return None
    return (module, name) if found is call else None


def found_at(place: Place) -> Any:
    """What stands there. Raises `ImportError`, `AttributeError`, and what the module raises when it is imported."""
    found: Any = importlib.import_module(place[0])
    for part in place[1].split("."):
        found = getattr(found, part)
    return found


def importable(call: Callable[..., Any], shown: str) -> Place:
    """The place of a function. Raises `UsageError` for one that another process could not find."""
    place = place_of(call)
    if place is None:
        raise UsageError(
            f"{shown} cannot run in another process, which finds functions by module and name: "
            f"define it at the top of a module, or run it in threads (processes=0)"
        )
    return place


def check_main() -> None:
    """Raises `UsageError` in a process that imports a program to find a function there: it must not run that program.

    Such a process would work as its parent does, start processes of its own for it, and be refused that each time.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            "processes= was reached while another process imports this program: what starts it belongs under "
            'if __name__ == "__main__":'
        )
