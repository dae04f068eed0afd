"""The whole command line: which commands there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zmqkit import version
from zmqkit.cli.group import group
from zmqkit.cli.outcome import Code, say, speak_in_lines

dead = group(
    "dead",
    "Look at dead letters, the messages that failed for good; send them again, or throw them away.",
    {
        "ls": "journal_dead:list_dead",
        "show": "journal_dead:show_dead",
        "retry": "journal_dead:retry",
        "drop": "journal_dead:drop",
    },
)
journal = group(
    "journal",
    "Look into journals, care for them, and deliver what closed programs left behind.",
    {
        "ls": "journal:ls",
        "show": "journal:show_waiting",
        "serve": "serve:serve_until_settled",
        "check": "journal_check:check",
        "repair": "journal_check:repair",
        "compact": "journal_check:compact",
        "release": "journal_release:release",
        "export": "journal_export:export",
        "dead": "app:dead",
    },
)
device = group(
    "device",
    "Run devices, and steer those that run.",
    {
        "queue": "device:queue",
        "forwarder": "device:forwarder",
        "streamer": "device:streamer",
        "proxy": "device:proxy",
        "ctl": "device_ctl:ctl",
        "run": "device_run:run",
    },
)
app = group(
    "zmqkit",
    "Durable, multi-host messaging with no broker to run.",
    {
        "demo": "demo:demo",
        "push": "push:push",
        "pull": "pull:pull",
        "publish": "publish:publish",
        "subscribe": "subscribe:subscribe",
        "tap": "tap:tap",
        "serve": "services:serve",
        "call": "calls:call",
        "methods": "calls:methods",
        "peers": "peers:peers",
        "device": "app:device",
        "journal": "app:journal",
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"zmqkit {version()}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None) -> int:
    """Run one command and return its exit code."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as we run
    if sys.stdout is None:
        say("stdout is closed; send it to /dev/null to do without")
        return Code.USAGE
    speak_in_lines()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="zmqkit")
    except SystemExit as ended:
        code = ended.code
        if code is None or isinstance(code, int):
            return code or Code.OK
        print(code, file=sys.stderr)
        return Code.FAILED
    return Code.OK
