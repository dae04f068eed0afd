"""``zmqkit device ctl``: ask, pause, resume and end devices that run, over their control socket."""

from __future__ import annotations

import contextlib
import datetime
import enum
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zmqkit import Client
from zmqkit.cli import options, show
from zmqkit.cli.outcome import Code, Failed, command, on_signals, one_line, raise_on_signals
from zmqkit.errors import DecodeError

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class Verb(enum.StrEnum):
    """What can be done."""

    PAUSE = "pause"
    RESUME = "resume"
    STATS = "stats"
    TERMINATE = "terminate"
    DESCRIBE = "describe"


Answer = list[dict[str, Any]]

COLUMNS = ("device", "side", "received", "/s", "bytes", "/s", "sent", "/s", "bytes", "/s", "sessions", "state")


@command
def ctl(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", show_default=False, help="Of the control socket, as in ipc:///run/NAME.")
    ],
    verb: Annotated[Verb, typer.Argument(show_default=False, help="What to do.")],
    device: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Only this one. Default: all that are there.")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="With stats: again and again; a table on a terminal, elsewhere lines of JSON."),
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, help="With --watch: how often.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="With --watch: end after so many times.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="How long an answer may take.")] = 5.0,
    as_json: options.AsJson = False,
) -> int:
    """Pause, resume or end the devices behind a control socket, describe them, or read their counters.

    Exits with 1 if one of them cannot do it, with 4 if nobody answers.
    """
    if watch and verb is not Verb.STATS:
        raise Failed("--watch is for stats", Code.USAGE)
    client = Client(address, timeout=timeout, name="zmqkit device ctl")
    if watch:
        return _watch(client, device, every, count, as_json=as_json or not sys.stdout.isatty())
    with raise_on_signals(), client:
        found = _ask(client, verb, device)
    if as_json:
        show.print_json(found)
    elif verb is Verb.STATS:
        show.print_table(COLUMNS, _rows(found))
    elif verb is Verb.DESCRIBE:
        columns = ("device", "kind", "state", "frontend", "backend", "carries", "uptime", "restarts", "error")
        show.print_table(columns, [_described(each) for each in found])
    else:
        show.print_table(("device", "is"), [(each.get("name"), _state(each)) for each in found])
    return Code.FAILED if any("error" in each for each in found) else Code.OK


def _ask(client: Client, verb: Verb, device: str | None) -> Answer:
    found = client.call(verb.value, device)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise DecodeError("who answers there is no control socket of a device")
    return found


def _watch(client: Client, device: str | None, every_s: float, count: int | None, *, as_json: bool) -> int:
    over = threading.Event()
    shown = 0
    with on_signals(over.set) as signals, client:
        show.on_reader_gone(over.set)
        with contextlib.nullcontext() if as_json else _live() as live:
            while not over.is_set():
                found = _ask(client, Verb.STATS, device)
                if live is None:
                    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
                    show.print_json({"at": at, "devices": found})
                else:
                    live.update(_table(found), refresh=True)
                shown += 1
                if shown == count:
                    return Code.OK
                over.wait(every_s)
    return 128 + signals.number if signals.number and count is not None else Code.OK


def _live() -> Live:
    """A table that stands still on a terminal."""
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(markup=False, highlight=False), auto_refresh=False)


def _table(found: Answer) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if 2 <= number < 11 else "left", no_wrap=True)
    for row in _rows(found):
        table.add_row(*[Text(_cell(each)) for each in row])
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else one_line(str(value))


def _rows(found: Answer) -> Iterator[tuple[object, ...]]:
    """Two for each device that has counters, one for others."""
    for each in found:
        if "frontend_messages_received" not in each:
            yield (each.get("name"), None, *[None] * 9, _state(each))
            continue
        rates = each.get("rates", {})
        for side in ("frontend", "backend"):
            cells: list[object] = []
            for way in ("received", "sent"):
                for unit in ("messages", "bytes"):
                    name = f"{side}_{unit}_{way}"
                    cells += [each.get(name), rates.get(name)]
            first = side == "frontend"
            yield (
                each.get("name") if first else "",
                side,
                *cells,
                each.get("sessions") if first else "",
                _state(each) if first else "",
            )


def _described(each: dict[str, Any]) -> tuple[object, ...]:
    places = [" ".join(each.get(side, [])) or None for side in ("frontend", "backend")]
    uptime = each.get("uptime")
    shown = None if uptime is None else str(datetime.timedelta(seconds=int(uptime)))
    return (
        each.get("name"), each.get("kind"), _state(each), *places, each.get("carries"), shown,
        each.get("restarts"), each.get("error"),
    )  # fmt: skip


def _state(each: dict[str, Any]) -> str:
    if each.get("state") in (None, "running"):
        return "paused" if each.get("paused") else "running"
    return str(each["state"])
