"""What these tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crashpoints.snapshots import Theatre


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory, if there is such a thing: nobody cuts the real power, so no sync need be waited for."""
    memory = "/dev/shm"
    there = os.path.isdir(memory) and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="zmqkit-", dir=memory if there else None) as folder:
        yield Path(folder)


@pytest.fixture
def forgetful_theatre(memory_path: Path) -> Theatre:
    """The same at durability "process"."""
    return Theatre(memory_path, "process")


@pytest.fixture
def theatre(memory_path: Path) -> Theatre:
    """Where the story is told."""
    return Theatre(memory_path)
