"""Which operations a pusher's journal and the user's database go through: read off the code, so that none is forgotten.

Three lists: the methods of `Journal`, the places in the pusher's cores that write (by function, log, and whether a row
is put or deleted), and the statements that change a database of the user's.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Final, NamedTuple

import zmqkit.inbox
import zmqkit.patterns.pipeline
from zmqkit.journal import Journal

WRITERS: Final = frozenset({"_write", "_write_beside"})
"""Methods of the cores that hand a write on; who calls them is the place."""

_STATEMENT: Final = re.compile(r"\s*(create table|create index|insert|update|delete)\b.*?\b(zmqkit_\w+)", re.S | re.I)


class Place(NamedTuple):
    """Where a core writes."""

    function: str
    log: str
    kind: str
    """"put" or "delete"."""


def methods() -> list[str]:
    """What a journal can be asked for, as its interface says. Opening it comes besides."""
    return [name for name, each in vars(Journal).items() if inspect.isfunction(each) and not name.startswith("_")]


@functools.cache
def places() -> frozenset[Place]:
    """All places in the cores of pipelines that write to the journal."""
    found = set()
    folder = Path(zmqkit.patterns.pipeline.__file__).parent
    for path in sorted(folder.glob("*.py")):
        module = importlib.import_module(f"zmqkit.patterns.pipeline.{path.stem}")
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name not in WRITERS:
                found |= {
                    Place(function.name, _log_of(call, vars(module)), _kind_of(call))
                    for call in ast.walk(function)
                    if isinstance(call, ast.Call) and _writes(call)
                }
    return frozenset(found)


def _writes(call: ast.Call) -> bool:
    """It is ``self._write(...)``, ``self._write_beside(...)``, ``.write(...)`` of a core's outputs, or ``write(...)``
    where one of these was handed over."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "write"
    if not isinstance(function, ast.Attribute):
        return False
    of_outputs = isinstance(function.value, ast.Attribute) and function.value.attr in ("out", "_out")
    return function.attr in WRITERS or (function.attr == "write" and of_outputs)


def _log_of(call: ast.Call, names: dict[str, object]) -> str:
    log = call.args[0]
    assert isinstance(log, ast.Name), f"line {call.lineno}: a log is named by a constant, so that it can be found here"
    return str(names[log.id])


def _kind_of(call: ast.Call) -> str:
    value = call.args[-1]
    return "delete" if isinstance(value, ast.Constant) and value.value is None else "put"


def statements(*modules: str) -> set[str]:
    """The statements of modules of `zmqkit.inbox` that change something, as `shape_of` names them."""
    found = set()
    for name in modules:
        source = Path(zmqkit.inbox.__file__).with_name(f"{name}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                shape = shape_of(node.value)
                if shape is not None:
                    found.add(shape)
    return found


def shape_of(sql: str) -> str | None:
    """The verb and our table; None if it changes none of ours."""
    match = _STATEMENT.match(sql)
    return None if match is None else f"{match[1].lower()} {match[2].lower()}"
