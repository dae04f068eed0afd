"""Journals to test: each kind by the same interface, and what to break them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journal.faults import Disk
from zmqkit.journal import Journal, MemoryJournal, SqliteJournal

Open = Callable[[], Journal]


@pytest.fixture(params=["power", "process", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """A new journal of each kind."""
    opened: Journal
    if request.param == "memory":
        opened = MemoryJournal()
    else:
        opened = SqliteJournal(tmp_path / "jobs.db", durability=request.param)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal may be made."""
    return tmp_path / "jobs.db"


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk that fails on command; pass ``vfs=disk.name``."""
    disk = Disk()
    yield disk
    disk.unregister()
