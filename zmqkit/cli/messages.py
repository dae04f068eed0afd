"""How messages of a journal are shown, by whichever command. Knows no journal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from zmqkit.cli import closed, show
from zmqkit.cli.outcome import Code, say

TABLE_ROWS = 500
"""Longer tables come in pieces: memory stays flat, and the first rows come at once."""

Message = closed.Waiting | closed.Letter


def whole(message: Message) -> dict[str, Any]:
    """All of it, for JSON."""
    found = message.body
    if isinstance(found, closed.Unreadable):
        shown = {"body": found.data, "codec": found.codec, "unreadable": found.why}
    else:
        shown = {"body": found}
    said = {
        "id": message.id,
        **shown,
        "key": message.key,
        "priority": message.priority,
        "headers": message.headers,
        "failures": message.failures,
        "sent_at": show.iso(message.sent_at),
    }
    if isinstance(message, closed.Letter):
        said |= {"reason": message.reason, "traceback": message.traceback or None, "died_at": show.iso(message.at)}
    else:
        times = {"due": message.due, "expires": message.expires}
        said |= {name: show.iso(time) if time else None for name, time in times.items()}
        if message.inbox:
            said["in_doubt_at"] = message.inbox
    return said


def body(message: Message) -> object:
    """Its body, for a table."""
    return f"({message.body.why})" if isinstance(message.body, closed.Unreadable) else message.body


def print_rows(columns: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> None:
    """A table of any length."""
    header = True
    while some := list(itertools.islice(rows, TABLE_ROWS)):
        show.print_table(columns, some, header=header)
        header = False


def conclude(total: int, limit: int, none: str) -> int:
    """Say how many were not shown, or that there are none."""
    if not total:
        say(none)
    elif limit and total > limit:
        say(f"{limit} of {total} shown; --limit 0 shows all")
    return Code.OK
