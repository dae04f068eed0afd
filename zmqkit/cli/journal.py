"""``zmqkit journal ls`` and ``show``: look into journals."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqkit.cli import closed, live, messages, options, show
from zmqkit.cli.outcome import Code, code_of, command, say, tell
from zmqkit.errors import JournalBusy, JournalError


@command
def ls(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", show_default=False, help="Journals, or folders with journals.")
    ],
    as_json: options.AsJson = False,
) -> int:
    """List journals: how many messages wait, how many are dead, who holds them.

    A running program that holds a journal of jobs is asked. Where it does not answer, its messages are not known, and
    the exit code is 3.
    """
    found: list[closed.Summary] = []
    for path in paths:
        found += map(_summary, closed.journals_in(path) if path.is_dir() else [path])
    if as_json:
        show.print_json([_listed(each) for each in found])
    elif found:
        show.print_table(
            ("journal", "waiting", "dead", "size", "state"),
            [(each.path, each.waiting, each.dead, _size(each.size_bytes), _state(each)) for each in found],
        )
    else:
        say(f"no journals in {', '.join(map(str, paths))}")
    for each in found:
        if each.error is None and each.holder is not None:
            say(f"{each.path} is in use by {each.holder}")
    errors = [each.error for each in found if each.error is not None]
    for error in errors:
        tell(error)
    return max(map(code_of, errors), default=Code.OK)


def _summary(path: Path) -> closed.Summary:
    found = closed.summary(path)
    if isinstance(found.error, JournalBusy):
        with contextlib.suppress(JournalError), live.opened(path) as journal:
            waiting, dead = closed.count_waiting(journal), closed.count_dead(journal)
            return dataclasses.replace(found, kind=closed.PIPELINE, waiting=waiting, dead=dead, error=None)
    return found


def _listed(summary: closed.Summary) -> dict[str, Any]:
    holder = summary.holder
    return {
        "path": summary.path,
        "state": _state(summary),
        "kind": summary.kind,
        "uuid": summary.uuid,
        "waiting": summary.waiting,
        "dead": summary.dead,
        "size_bytes": summary.size_bytes,
        "holder": holder and {"pid": holder.pid, "host": holder.host, "since": holder.since, "program": holder.owner},
        "error": summary.error and str(summary.error),
    }


def _state(summary: closed.Summary) -> str:
    if summary.error is None:
        return "closed" if summary.holder is None else "in use"
    return "in use" if code_of(summary.error) == Code.JOURNAL_IN_USE else "unreadable"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@command
def show_waiting(path: options.JournalFile, limit: options.Limit = 100, as_json: options.AsJson = False) -> int:
    """Show the messages that wait in a journal, the oldest first. With --json, a line each.

    Of those in doubt only one inbox knows whether they were done; it is named.
    """
    with live.opened(path) as journal:
        found = itertools.islice(closed.waiting(journal), limit or None)
        if as_json:
            for each in found:
                show.print_json(messages.whole(each))
        else:
            rows = (
                (each.id, each.key, each.failures, show.moment(each.sent_at), _moment(each.due), messages.body(each))
                for each in found
            )
            messages.print_rows(("id", "key", "failures", "sent at", "due", "body"), rows)
            for inbox, count in closed.in_doubt(journal).items():
                say(f"{count} in doubt: only the inbox {inbox} knows whether they were done")
        return messages.conclude(closed.count_waiting(journal), limit, f"no messages wait in {path}")


def _moment(microseconds: int) -> str | None:
    return show.moment(microseconds) if microseconds else None
