"""Modules whose names are imported when they are first used (PEP 562). Knows importing only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping


def attach(
    module: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module.

    Args:
        module: its name.
        homes: name -> the module that defines it.
        modules: submodules that are names, too.
    """

    def find(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{module}.{name}")
        try:
            home = homes[name]
        except KeyError:
            raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(home), name)
        setattr(sys.modules[module], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *homes, *modules})

    return find, names
