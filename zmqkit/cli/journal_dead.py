"""``zmqkit journal dead``: look at the dead letters of a program, send them again, or throw them away."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zmqkit import Pusher
from zmqkit.cli import closed, live, messages, options, show
from zmqkit.cli.outcome import Code, Failed, command, say
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.pipeline import DeadLetters

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.steering_sync import LiveJournal

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", show_default=False, help="Of which messages, as `zmqkit journal dead ls` shows them."),
]
All = Annotated[bool, typer.Option("--all", help="All there are, instead of naming ids.")]


@command
def list_dead(path: options.JournalFile, limit: options.Limit = 100, as_json: options.AsJson = False) -> int:
    """Show a journal's dead letters and why they died, the oldest first. With --json, a line each."""
    with live.opened(path) as journal:
        found = itertools.islice(closed.letters(journal), limit or None)
        if as_json:
            for each in found:
                show.print_json(messages.whole(each))
        else:
            rows = ((each.id, each.failures, show.moment(each.at), each.reason, messages.body(each)) for each in found)
            messages.print_rows(("id", "failures", "died at", "reason", "body"), rows)
        return messages.conclude(closed.count_dead(journal), limit, f"no dead letters in {path}")


@command
def show_dead(
    path: options.JournalFile,
    wanted: Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Of the message.")],
    as_json: options.AsJson = False,
) -> int:
    """Show all that is known of one dead letter, the traceback of its handler included."""
    with live.opened(path) as journal:
        letter = next((each for each in closed.letters(journal) if each.id == wanted), None)
    if letter is None:
        raise Failed(f"{path} has no dead letter {wanted}: `zmqkit journal dead ls {path}` shows which there are")
    if as_json:
        show.print_json(messages.whole(letter))
        return Code.OK
    said = {
        "id": letter.id,
        "key": letter.key,
        "sent at": show.moment(letter.sent_at),
        "died at": show.moment(letter.at),
        "failures": letter.failures,
        "reason": letter.reason,
        "headers": letter.headers,
        "body": messages.body(letter),
    }
    show.print_table(("", ""), list(said.items()), header=False)
    if letter.traceback:
        show.write_line(show.encoded(letter.traceback.rstrip()))
    return Code.OK


@command
def retry(path: options.JournalFile, ids: Ids = None, every: All = False) -> int:
    """Send dead letters again: they wait in the journal then, under their ids, their failures forgotten.

    A program that has the journal open delivers them at once; else it does when it runs again, or `zmqkit journal
    serve` does.
    """
    with _letters(path, ids, every) as letters:
        count = letters.retry(*ids or ())
    here = isinstance(letters, DeadLetters)
    return _conclude(count, ids, f"wait again; deliver them with: zmqkit journal serve {path} ADDRESS" if here else
                     "wait again; the program that has the journal open delivers them")  # fmt: skip


@command
def drop(path: options.JournalFile, ids: Ids = None, every: All = False) -> int:
    """Throw dead letters away, for good."""
    with _letters(path, ids, every) as letters:
        count = letters.drop(*ids or ())
    return _conclude(count, ids, "were thrown away")


@contextmanager
def _letters(path: Path, ids: list[str] | None, every: bool) -> Iterator[DeadLetters | LiveJournal]:
    """The letters of a journal: of the program that has it open, or of the file, which is held meanwhile."""
    if bool(ids) == every:
        raise Failed("name ids, or give --all" if not every else "give ids or --all, not both", Code.USAGE)
    with live.opened(path) as journal:  # it is there, and a pipeline's
        if not isinstance(journal, SqliteJournal):
            yield journal
            return
    # Nobody can connect; and nobody steers what is gone in a moment.
    pusher = Pusher("inproc://zmqkit-journal-dead", journal=path, linger=0, name="zmqkit journal dead")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that messages wait is what the user knows
        with pusher:
            yield pusher.dead_letters()


def _conclude(count: int, ids: list[str] | None, what: str) -> int:
    missing = len(set(ids)) - count if ids else 0
    if count or not missing:
        say(f"{count} {what}" if count != 1 else f"1 {what.replace('wait', 'waits', 1).replace('were', 'was', 1)}")
    if missing:
        say(f"{missing} of the ids {'is' if missing == 1 else 'are'} of no dead letter")
    return Code.FAILED if missing else Code.OK
