"""What these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashpoints.snapshots import Theatre


@pytest.fixture
def forgetful_theatre(memory_path: Path) -> Theatre:
    """The same at durability "process"."""
    return Theatre(memory_path, "process")


@pytest.fixture
def theatre(memory_path: Path) -> Theatre:
    """Where the story is told."""
    return Theatre(memory_path)
