"""Groups of commands that are imported when they are used: who pushes does not wait for what devices need.

Knows typer, and no command; see `zmqkit.cli.app` for which there are.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from zmqkit.cli.outcome import EPILOG


def group(name: str, help: str, commands: Mapping[str, str]) -> typer.Typer:
    """A group of commands.

    Args:
        name: its own.
        help: what its commands are for.
        commands: by their names, in the order of its help, where each is: "module:object" in this package. The object
            is a command, or a group.
    """
    return typer.Typer(
        name=name,
        cls=_class_of(commands),
        no_args_is_help=True,
        rich_markup_mode="markdown",  # a paragraph of a docstring is one paragraph
        # A bug is shown as Python shows it: to be read, and sent to us.
        pretty_exceptions_enable=False,
        help=help,
        epilog=EPILOG,
    )


def _class_of(homes: Mapping[str, str]) -> type[TyperGroup]:
    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(homes)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            # One that there is not is held against all that there are, for "did you mean".
            for each in [cmd_name] if cmd_name in homes else homes:
                if each not in self.commands:
                    self.commands[each] = _load(each, homes[each])
            return self.commands.get(cmd_name)

    return Group


def _load(name: str, home: str) -> Any:
    module, _, attribute = home.partition(":")
    found = getattr(importlib.import_module(f"zmqkit.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    alone.command(name, epilog=EPILOG)(found)
    return get_command(alone)
