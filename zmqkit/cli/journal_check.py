"""``zmqkit journal check``, ``repair`` and ``compact``: whether a journal is whole, and what to do if it is not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqkit.cli import options, show
from zmqkit.cli.journal_rows import Judge
from zmqkit.cli.outcome import Code, Failed, command, one_line, say
from zmqkit.journal import checking, compacting
from zmqkit.journal.checking import Report
from zmqkit.journal.salvage import Damage

KeepUuid = Annotated[
    bool | None,
    typer.Option(
        "--keep-uuid/--new-uuid", show_default=False,
        help="The copy takes the journal's place in the world, and the damaged one must never be opened again; or it "
        "is another journal (default; a client's has to choose).",
    ),
]  # fmt: skip


@command
def check(path: options.JournalFile, as_json: options.AsJson = False) -> int:
    """Go through all of a journal: pages, tables, each row's checksum and meaning, totals. Changes nothing.

    A journal that a running program holds is looked at as it was at one moment. The exit code is 0 if it is sound, 1 if
    it is damaged: then each finding is a line.
    """
    with _progress() as tell:
        report = checking.check(path, Judge, tell)
    if report.holder is not None:
        say(f"{path} is in use by {report.holder}: this is how it was a moment ago")
    if as_json:
        show.print_json(_as_json(report))
    else:
        _print_logs(report)
        _print_damages(report)
        say(f"{path} is {'sound' if report.sound else 'damaged: see zmqkit journal repair --help'}")
    return Code.OK if report.sound else Code.FAILED


@command
def repair(
    path: options.JournalFile,
    to: Annotated[Path, typer.Option(metavar="NEW", help="The file to make; nothing may be there.")],
    keep_uuid: KeepUuid = None,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Copy what is sound of a journal into a new file, and say what was dropped. The old one stays as it is.

    The exit code is 0 if all was copied, 1 if a copy was made and something had to be dropped.
    """
    try:
        with _progress() as tell:
            report, uuid = checking.repair(path, to, Judge, tell, keep_uuid=keep_uuid)
    except ValueError as error:
        raise Failed(f"{path} is a client's journal: {error}", Code.USAGE) from error
    if as_json:
        show.print_json(_as_json(report) | {"to": str(to), "to_uuid": uuid})
    else:
        _print_logs(report)
        _print_damages(report)
        copied = f"{sum(report.rows.values())} rows were copied to {to}"
        what = "the same journal: never open the old one again" if uuid == report.uuid else "another journal"
        say(f"{copied}, which is {what}" if report.sound else f"{copied}, which is {what}; the above was not")
    return Code.OK if report.sound else Code.FAILED


@command
def compact(path: options.JournalFile, as_json: options.AsJson = False) -> int:
    """Give room back to the disk that a closed journal no longer needs.

    It is written anew beside its place and then renamed, so for a moment it needs room for both.
    """
    with _progress() as tell:
        tell("pages", 0, 0)
        found = compacting.compact(path)
    if as_json:
        show.print_json({"path": str(path), **found._asdict()})
    else:
        say(f"{path}: {found.before_bytes} bytes before, {found.after_bytes} now")
        if found.in_place:
            say("the disk has no room for a second file: pages that are only partly filled are as they were")
    return Code.OK


def _as_json(report: Report) -> dict[str, Any]:
    holder = report.holder
    return {
        "path": report.path,
        "sound": report.sound,
        "kind": report.kind,
        "uuid": report.uuid,
        "holder": holder and {"pid": holder.pid, "host": holder.host, "since": holder.since, "program": holder.owner},
        "logs": {
            log: {"rows": rows, "messages": report.weight[log], "unsound": report.unsound.get(log, 0)}
            for log, rows in report.rows.items()
        },
        "damages": [damage._asdict() for damage in report.damages],
        "more": report.more,
    }


def _print_logs(report: Report) -> None:
    if report.rows:
        rows = [(log, count, report.weight[log], report.unsound.get(log, 0)) for log, count in report.rows.items()]
        show.print_table(("log", "sound rows", "messages", "unsound rows"), rows)


def _print_damages(report: Report) -> None:
    for damage in report.damages:
        show.write_line(show.encoded(one_line(f"{damage}{_how_many(damage)}")))
    if report.more:
        show.write_line(f"... and {report.more} more".encode())


def _how_many(damage: Damage) -> str:
    if damage.rows is None:
        return " (nobody knows how many rows that are)"
    return f" ({damage.rows} rows)" if damage.rows > 1 else ""


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """How far it is, as a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    # here: it takes a terminal to wait for it
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total or None)
                bar.refresh()
            bar.update(tasks[what], completed=done)

        yield tell
