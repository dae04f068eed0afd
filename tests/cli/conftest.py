"""Starts commands, and ends those that a test left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Command
from tests.preloaded import Preloaded

Start = Callable[..., Command]


@pytest.fixture
def zmqkit(tmp_path: Path, preloaded: Preloaded) -> Iterator[Start]:
    """``zmqkit("pull", address, stdin=...)`` starts the command in a folder of the test's own."""
    started: list[Command] = []

    def start(*arguments: str | Path, **how: Any) -> Command:
        started.append(Command(arguments, tmp_path, preloaded=preloaded, **how))
        return started[-1]

    yield start
    for command in started:
        command.kill()
