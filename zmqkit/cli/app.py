"""The whole command line: which commands there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from zmqkit import version
from zmqkit.cli import calls, demo, device, journal, peers, publish, pull, push, services, subscribe, tap
from zmqkit.cli.outcome import EPILOG, Code, say, speak_in_lines

app = typer.Typer(
    name="zmqkit",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # a paragraph of a docstring is one paragraph
    # A bug is shown as Python shows it: to be read, and sent to us.
    pretty_exceptions_enable=False,
    help="Durable, multi-host messaging with no broker to run.",
    epilog=EPILOG,
)
app.command("demo", epilog=EPILOG)(demo.demo)
app.command("push", epilog=EPILOG)(push.push)
app.command("pull", epilog=EPILOG)(pull.pull)
app.command("publish", epilog=EPILOG)(publish.publish)
app.command("subscribe", epilog=EPILOG)(subscribe.subscribe)
app.command("tap", epilog=EPILOG)(tap.tap)
app.command("serve", epilog=EPILOG)(services.serve)
app.command("call", epilog=EPILOG)(calls.call)
app.command("methods", epilog=EPILOG)(calls.methods)
app.add_typer(device.app, name="device", epilog=EPILOG)
app.add_typer(journal.app, name="journal", epilog=EPILOG)
app.command("peers", epilog=EPILOG)(peers.peers)


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
