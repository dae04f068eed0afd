"""``zmqkit demo``: the main job, see `zmqkit.demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqkit.cli import options
from zmqkit.cli.outcome import command
from zmqkit.demo import DEFAULT_WORKERS, MAX_WORKERS, run


@command
def demo(
    files: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, show_default=False,
            help="Count the .py files in this folder; default: those of the running Python's standard library.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=MAX_WORKERS, help="How many worker processes.")
    ] = DEFAULT_WORKERS,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill one process of each role midway.")] = True,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Count the words of Python's own source with workers that crash, and check the count."""
    return run(files=files, workers=workers, kill=kill, json=as_json)
