"""``zmqkit device run``: run the devices that a file names, each in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqkit.cli import device_daemon, device_file, device_logs, device_ports, show
from zmqkit.cli.device_file import FileWrong, Mistake
from zmqkit.cli.outcome import Code, Failed, command, say


@command
def run(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="Such as devices.toml.")],
    check: Annotated[
        bool,
        typer.Option("--check", help="Only read the file, and look whether its addresses are free; exit with 0 or 2."),
    ] = False,
    log: Annotated[
        device_logs.LogForm | None,
        typer.Option(show_default=False, help="What is told on stderr: text or JSON. Default: as the file says."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON for programs.")] = False,
) -> int:
    """Run the devices that a file names, each in a process of its own, until SIGINT or SIGTERM.

    One that crashes is started again; the others go on. SIGHUP reads the file again, SIGUSR1 pauses all, SIGUSR2
    resumes them. Tells systemd when it is ready, and its watchdog that all is well (Type=notify).
    """
    if as_json and not check:
        raise Failed("--json is for --check; logs are JSON with --log json", Code.USAGE)
    try:
        if not check:
            device_daemon.run(path, None if log is None else log.value)
            return Code.OK
        config = device_file.read(path)
        if mistakes := device_ports.taken(config):
            raise FileWrong(path, mistakes)
    except FileWrong as error:
        return _tell_mistakes(error, as_json)
    if as_json:
        show.print_json({"file": str(path), "devices": len(config.specs), "mistakes": []})
    else:
        say(f"{path}: {len(config.specs)} device{'s' * (len(config.specs) != 1)}, no mistakes")
    return Code.OK


def _tell_mistakes(error: FileWrong, as_json: bool) -> int:
    if as_json:
        found = [{"line": each.line, "text": each.text} for each in error.mistakes]
        show.print_json({"file": str(error.path), "devices": None, "mistakes": found})
    else:
        for each in error.mistakes:
            say(_at(error.path, each))
    return Code.USAGE


def _at(path: Path, mistake: Mistake) -> str:
    return f"{path}:{mistake.line}: {mistake.text}"
