"""docs/cli.md does what it says, and says all there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from tests.pages import Page
from zmqkit.cli.app import app
from zmqkit.cli.outcome import Code

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def commands(group: Any, name: str = "zmqkit") -> Iterator[tuple[str, Any]]:
    """Every command under its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def test_the_page_runs_as_written(tmp_path: Path) -> None:
    Page(PAGE, tmp_path).run()


def test_the_page_explains_every_command_and_option() -> None:
    sections = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) == 14
    missing = [
        f"{name} {option}"
        for name, command in found.items()
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts]
        if option.startswith("--") and option != "--help" and option not in sections[name]
    ]
    assert not missing


def test_the_page_explains_every_exit_code() -> None:
    for code in Code:
        assert f"\n| {code.value} | " in PAGE
