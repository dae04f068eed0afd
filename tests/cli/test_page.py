"""docs/cli.md says all there is. That it does what it says is seen with the other pages: tests/test_readme.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from zmqkit.cli.app import app
from zmqkit.cli.outcome import Code

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def commands(group: Any, name: str = "zmqkit") -> Iterator[tuple[str, Any]]:
    """Every command under its full name."""
    for word in group.list_commands(None):
        command = group.get_command(None, word)
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def names(heading: str) -> list[str]:
    """``zmqkit device queue|proxy`` stands above what these two have in common."""
    *words, last = heading.split(" ")
    return [" ".join([*words, each]) for each in last.split("|")]


def test_the_page_explains_every_command_and_option() -> None:
    sections = {name: part for part in PAGE.split("\n## ") for name in names(part.partition("\n")[0])}
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) >= 20
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
