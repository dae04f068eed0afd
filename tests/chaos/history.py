"""Files that outlive a killed process: histories.

Knows files only; neither zmqkit nor who judges what is written here. A record is a line; a line without its end was
cut by the killing of its writer, and does not count.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class History:
    """What one process did, in its own words: appended, never changed.

    Args:
        path: of the file, which must not be there.
    """

    def __init__(self, path: Path) -> None:
        self._file = _made(path, os.O_EXCL)

    def record(self, *lines: str) -> None:
        """Write lines and sync them: they are safe when this returns. Then the writer may act on them."""
        self.mention(*lines)
        os.fsync(self._file)

    def mention(self, *lines: str) -> None:
        """Write lines on which nothing rests; safe from the writer's death, not from the machine's."""
        _write(self._file, lines)


def _made(path: Path, flags: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _write(file: int, lines: Sequence[str]) -> int:
    data = "".join([f"{line}\n" for line in lines]).encode()
    done = 0
    while done < len(data):
        done += os.write(file, data[done:])
    return done
