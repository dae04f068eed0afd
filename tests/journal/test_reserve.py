"""The room that is kept for bad days is really kept, is given back when it is needed, and is made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.journal.helpers import tmpfs
from zmqkit.journal.reserve import Reserve

SIZE = 1 << 20


def blocks(path: Path) -> int:
    """The room that a file takes on the disk."""
    return path.stat().st_blocks * 512


def test_room_is_taken_and_given_back(path: Path) -> None:
    reserve = Reserve(str(path), SIZE)
    assert not reserve.filled
    assert reserve.fill()
    assert blocks(path) >= SIZE
    assert reserve.fill()
    assert Reserve(str(path), SIZE).filled  # by an earlier owner
    assert reserve.give_back()
    assert not path.exists()
    assert not reserve.give_back()


def test_a_reserve_of_nothing_takes_nothing(path: Path) -> None:
    reserve = Reserve(str(path), 0)
    assert not reserve.fill()
    assert not path.exists()


def test_one_that_is_too_small_or_only_looks_large_is_made_anew(path: Path) -> None:
    for length in (0, SIZE // 2):
        path.write_bytes(bytes(length))
        reserve = Reserve(str(path), SIZE)
        assert not reserve.filled
        assert reserve.fill()
        assert blocks(path) >= SIZE
    path.unlink()
    path.touch()
    os.truncate(path, SIZE)  # as it comes out of an archive
    assert path.stat().st_size == SIZE > blocks(path)
    reserve = Reserve(str(path), SIZE)
    assert not reserve.filled
    assert reserve.fill()
    assert blocks(path) >= SIZE


def test_no_room_is_taken_from_a_disk_that_has_little(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with tmpfs(small, "1m"):
        reserve = Reserve(str(small / "reserve"), SIZE * 3 // 4)
        assert not reserve.fill()
        assert list(small.iterdir()) == []
        assert Reserve(str(small / "reserve"), SIZE // 4).fill()


def test_a_disk_that_refuses_leaves_no_half_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        os.ftruncate(fd, length // 2)
        raise OSError(28, "injected")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert not Reserve(str(path), SIZE).fill()
    assert not path.exists()


def test_where_room_cannot_be_asked_for_it_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    assert Reserve(str(path), SIZE + 7).fill()
    assert path.stat().st_size == SIZE + 7
