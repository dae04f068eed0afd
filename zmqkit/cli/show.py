"""What a command prints on stdout: JSON for programs, tables for people. Knows no peer and no journal.

JSON has no bytes and no times, and its keys are text. So bytes are shown as ``{"$base64": "..."}``, times as ISO 8601
text, other keys than text as their JSON, and the numbers that JSON lacks as "nan", "inf" and "-inf".
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import select
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zmqkit.cli.outcome import one_line

LONGEST_CELL = 200
"""Characters of a body, reason... in a table on a terminal; JSON has the whole of it."""


def jsonable(value: Any) -> Any:
    """The same value, of what JSON knows; see the top of this file."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else to_json(key): jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(each) for each in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def to_json(value: Any) -> str:
    """One line of JSON."""
    # Most bodies are JSON already; only what json refuses is rebuilt. Keys that json would turn into text by rules of
    # its own (True, None, 1) come out the same either way.
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(jsonable(value), ensure_ascii=False)


def raw(value: Any) -> bytes:
    """A body by itself: text and bytes as they are, everything else as JSON."""
    if isinstance(value, bytes):
        return value
    return encoded(value if isinstance(value, str) else to_json(value))


def encoded(text: str) -> bytes:
    """Text as UTF-8. Lone surrogates, which have none, become the escapes that JSON has for them."""
    return text.encode("utf-8", "backslashreplace")


def write_line(data: bytes) -> None:
    """One line on stdout, flushed: whoever reads it has it when this returns, as far as we can know."""
    out = sys.stdout.buffer
    out.write(data + b"\n")
    out.flush()


def print_json(value: Any) -> None:
    """One JSON line on stdout."""
    write_line(encoded(to_json(value)))


def on_reader_gone(callback: Callable[[], object]) -> None:
    """Call back, from another thread, once whoever reads our stdout has gone away, should it be a pipe.

    Without this it would be noticed at the next line only, and that may be long in coming.
    """
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # errors only: they are always told

    def watch() -> None:
        poller.poll()
        callback()

    threading.Thread(target=watch, name="zmqkit-stdout", daemon=True).start()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True) -> None:
    """A table on stdout: fitted to a terminal; plain and whole where stdout is something else."""
    # here: commands that show no table do not wait for it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, show_header=header)
    for column in columns:
        table.add_column(Text(column), no_wrap=not terminal, overflow="fold")
    for row in rows:
        table.add_row(*[Text(_cell(each, terminal)) for each in row])
    # Without a terminal a width would be a guess: cutting ids in a pipe is worse than long lines.
    console = Console(file=sys.stdout, width=None if terminal else 1_000_000, markup=False, highlight=False)
    console.print(table)


def _cell(value: object, terminal: bool) -> str:
    if value is None:
        return "-"
    text = one_line(value if isinstance(value, str) else to_json(value))
    return text if not terminal or len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"


def moment(microseconds: int) -> str:
    """Microseconds since 1970 as local time, to the second."""
    when = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC).astimezone()
    return when.isoformat(sep=" ", timespec="seconds")


def iso(microseconds: int) -> str:
    """Microseconds since 1970 as ISO 8601 text, in UTC."""
    return datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC).isoformat()
