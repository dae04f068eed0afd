"""Room on the disk kept for bad days: what is done with can be deleted though the disk is full. Knows no SQLite.

A delete needs room too, for the write-ahead log. So a journal keeps a file of zeros beside itself; when the disk
is full, and something is to be deleted, it gives the file's room back to the disk and uses it. Once the disk has
room again the file is made anew.
"""

from __future__ import annotations

import contextlib
import logging
import os

_log = logging.getLogger("zmqkit.journal")

_BLOCK = 512
"""What st_blocks counts in, whatever blocks the file system has."""


class Reserve:
    """The reserve of one journal.

    Args:
        path: of the file that keeps the room.
        size_bytes: how much; 0 keeps none.
    """

    def __init__(self, path: str, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        try:
            status = os.stat(path)
            # One that came back from an archive may have the size, and no room on the disk.
            self.filled = 0 < size_bytes <= min(status.st_size, status.st_blocks * _BLOCK)
        except OSError:
            self.filled = False

    def fill(self) -> bool:
        """Keep the room, if the disk has twice as much; True if it is kept now."""
        if self.filled or not self.size_bytes:
            return self.filled
        try:
            room = os.statvfs(os.path.dirname(self.path))
            if room.f_bavail * room.f_frsize < 2 * self.size_bytes:
                return False
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, self.size_bytes)
                else:
                    for offset in range(0, self.size_bytes, 65536):
                        os.pwrite(fd, bytes(min(65536, self.size_bytes - offset)), offset)
            finally:
                os.close(fd)
        except OSError as error:
            _log.debug("no reserve at %s: %s", self.path, error)
            self.give_back()
            return False
        self.filled = True
        return True

    def give_back(self) -> bool:
        """Give the room back to the disk; True if there was any."""
        was, self.filled = self.filled, False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        return was
