"""Files that outlive a killed process: histories, and the ledger that all sinks of a run share.

Knows files only; neither zmqkit nor who judges what is written here. A record is a line; a line without its end was
cut by the killing of its writer, and does not count.
"""

from __future__ import annotations

import fcntl
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


class Ledger:
    """The totals: what was counted, by any sink of the run, each id once. It is also what they remember ids by.

    Several processes may write; each may be killed or stopped at any moment. A stopped one keeps the lock: the others
    wait for it.

    Args:
        path: of the file; made if it is not there.
        forgetful: a planted bug: it forgets ids that it has counted.
    """

    def __init__(self, path: Path, *, forgetful: bool = False) -> None:
        self._file = _made(path, 0)
        self._forgetful = forgetful
        self._read_up_to = 0
        self._seen: set[str] = set()

    def count(self, entries: Sequence[tuple[str, str]]) -> list[bool]:
        """Count what was not counted before. Safe when this returns.

        Args:
            entries: ids, and what to write with each.

        Returns:
            For each entry: True if it counted, False if its id had been seen.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._catch_up()
            found, lines = [], []
            for name, text in entries:
                found.append(name not in self._seen)
                if found[-1]:
                    lines.append(f"{name} {text}")
                    if not self._forgetful:
                        self._seen.add(name)
            if lines:
                self._read_up_to += _write(self._file, lines)
            # Also where nothing is new: what others wrote they may not have synced before they died.
            os.fsync(self._file)
            return found
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, size - self._read_up_to, self._read_up_to)
        whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else b""
        if len(whole) < len(data):
            os.ftruncate(self._file, self._read_up_to + len(whole))  # its writer was killed in the midst of a line
        self._read_up_to += len(whole)
        if not self._forgetful:
            self._seen.update([line.split(" ", 1)[0] for line in whole.decode().splitlines()])


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
