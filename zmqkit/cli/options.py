"""Arguments and options that several commands take, with their help, and how they are checked. Knows no peer."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from zmqkit import checks
from zmqkit.cli.outcome import Code, Failed, one_line
from zmqkit.patterns.pubsub import topics

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
BindFirst = Annotated[
    bool, typer.Option("--bind/--connect", help="Bind the address (default), or connect to it: somebody else binds.")
]
ConnectFirst = Annotated[
    bool, typer.Option("--bind/--connect", help="Connect to the address (default), or bind it: others connect.")
]
Announce = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Let others find what is bound here as zeroconf://NAME."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow an address beyond this host, where others can read and send too.")
]
Topics = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TOPIC", show_default=False,
        help="Such as prices.eu.gold, prices.*.gold (one word), alerts.# (any words); default: all. In quotes.",
    ),
]  # fmt: skip
Linger = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", min=0, show_default=False,
        help="Go on serving what waits for so long before leaving it: after a signal (default 5), with --no-wait or "
        "when --timeout has run out (default 0).",
    ),
]  # fmt: skip
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, show_default=False, help="Wait until all is settled for at most so long."),
]
MaxFailures = Annotated[
    int, typer.Option(metavar="N", min=1, help="A message that fails so often becomes a dead letter.")
]


class Safe(enum.StrEnum):
    """The durabilities of a journal in a file."""

    POWER = "power"
    PROCESS = "process"


DurabilityOption = Annotated[
    Safe,
    typer.Option(help="Safe from a power cut (synced to the disk), or from a killed process only."),
]


def check_path(path: Path | None) -> Path | None:
    """A callback of options that are a journal's path. Raises `typer.BadParameter` where no journal can be."""
    if path is not None:
        try:
            checks.file_path("journal", path)
        except ValueError as error:
            raise typer.BadParameter(one_line(str(error))) from None
    return path


JournalFile = Annotated[
    Path, typer.Argument(metavar="PATH", show_default=False, help="The journal's file.", callback=check_path)
]
Limit = Annotated[int, typer.Option(metavar="N", min=0, help="Show at most so many; 0: all.")]


STDIN = Path("-")


def check_files(files: Iterable[Path]) -> None:
    """Raises `Failed` for one that is not there to be read."""
    for path in files:
        if path != STDIN and (path.is_dir() or not path.exists()):
            raise Failed(f"{path} is {'a folder' if path.is_dir() else 'not there'}: name files to send", Code.USAGE)


def check_topic(topic: str) -> None:
    """Raises `Failed` for what cannot be published to."""
    try:
        topics.check_topic(topic)
    except ValueError as error:
        raise Failed(str(error), Code.USAGE) from error


def check_patterns(patterns: Iterable[str]) -> None:
    """Raises `Failed` for what cannot be subscribed to."""
    try:
        for each in patterns:
            topics.check_pattern(each, "topic")
    except ValueError as error:
        raise Failed(str(error), Code.USAGE) from error
