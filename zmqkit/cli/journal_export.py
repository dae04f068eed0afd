"""``zmqkit journal export``: what a journal holds, as lines of JSON for other programs."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Annotated

import typer

from zmqkit.cli import closed, live, messages, options, show
from zmqkit.cli.outcome import Code, command, say


class What(enum.StrEnum):
    """Which messages."""

    WAITING = "waiting"
    DEAD = "dead"
    ALL = "all"


@command
def export(
    path: options.JournalFile,
    what: Annotated[What, typer.Option(help="What waits, dead letters, or both.")] = What.ALL,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="Bodies only, a line each, as `zmqkit push --json-lines` reads them.")
    ] = False,
) -> int:
    """Print the messages that wait in a journal, then its dead letters, each as a line of JSON. Changes nothing.

    Bytes are {"$base64": ...}, times ISO 8601 text. A body that cannot be decoded here is its bytes, with its codec
    beside it; with --bodies it is left out, and the exit code is 1.
    """
    left_out = 0
    with live.opened(path) as journal:
        for state, message in _messages(journal, what):
            unreadable = isinstance(message.body, closed.Unreadable)
            if not bodies:
                show.print_json({"state": state} | messages.whole(message))
            elif unreadable:
                left_out += 1
            else:
                show.print_json(message.body)
    if left_out:
        say(f"{left_out} messages were left out: their bodies cannot be decoded here. Without --bodies they are bytes")
    return Code.FAILED if left_out else Code.OK


def _messages(journal: closed.Readable, what: What) -> Iterator[tuple[str, closed.Waiting | closed.Letter]]:
    if what != What.DEAD:
        for message in closed.waiting(journal):
            yield "waiting", message
    if what != What.WAITING:
        for letter in closed.letters(journal):
            yield "dead", letter
