"""A disk that fails on command, and one whose power is cut: an apsw VFS under the real SQLite."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import apsw

Kind = Literal["write", "sync", "read", "truncate", "open"]
Outcome = Literal["done", "not done"]

SECTOR: Final = 512
"""What a disk writes whole or not at all."""

_numbers = itertools.count()


def eio(code: int) -> Callable[[], Exception]:
    """An I/O error with SQLite's extended code."""

    return lambda: apsw.exception_for(code)


def enospc() -> Exception:
    """What SQLite's own VFS makes of ENOSPC."""
    return apsw.FullError("injected")


WRITE_ERROR = eio(apsw.SQLITE_IOERR_WRITE)
SYNC_ERROR = eio(apsw.SQLITE_IOERR_FSYNC)
READ_ERROR = eio(apsw.SQLITE_IOERR_READ)


class Platter:
    """What is on the disk itself: of what was written and not synced, a power cut may leave anything.

    Attributes:
        lies: it says "synced", and is not.
    """

    def __init__(self) -> None:
        self.lies = False
        self._files: dict[str, _Content] = {}

    def opened(self, file: str) -> None:
        """What is in it when it is seen first counts as synced."""
        if file not in self._files:
            path = Path(file)
            self._files[file] = _Content(path.read_bytes() if path.exists() else b"")

    def wrote(self, file: str, data: bytes, offset: int) -> None:
        """Into the system's memory only."""
        self._files[file].pending.append((offset, bytes(data)))

    def truncated(self, file: str, size: int) -> None:
        """Likewise."""
        self._files[file].pending.append((size, None))

    def synced(self, file: str) -> None:
        """All of it is on the disk."""
        content = self._files[file]
        if not self.lies:
            content.synced = content.after(lambda: True)
            content.pending.clear()

    def removed(self, file: str) -> None:
        """The file is gone."""
        self._files.pop(file, None)

    def image(self, path: Path, rng: random.Random) -> bytes:
        """What a power cut leaves of a file now: what was synced, and of the rest any sectors.

        A file that nobody opened here is as it is.
        """
        content = self._files.get(str(path))
        if content is None:
            return path.read_bytes()
        share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        return content.after(lambda: rng.random() < share)


class _Content:
    """What was synced, and what came since: (offset, data), or (size, None) for a truncation."""

    def __init__(self, synced: bytes) -> None:
        self.synced = synced
        self.pending: list[tuple[int, bytes | None]] = []

    def after(self, keeps: Callable[[], bool]) -> bytes:
        found = bytearray(self.synced)
        for offset, data in self.pending:
            if data is None:
                if keeps():
                    del found[offset:]
                    found.extend(bytes(offset - len(found)))
                continue
            at = 0
            while at < len(data):
                end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
                if keeps():
                    if len(found) < offset + at:
                        found.extend(bytes(offset + at - len(found)))
                    found[offset + at : offset + end] = data[at:end]
                at = end
        return bytes(found)


class Disk(apsw.VFS):
    """The system's VFS, with faults. ``fail`` arms one; ``hits`` counts those that struck.

    Attributes:
        platter: keeps account of what is synced; None: nobody asks.
        listener: called before each operation that changes a file, with its kind and the file's name.
    """

    def __init__(self) -> None:
        self.name = f"faulty-{next(_numbers)}"
        self.base = ""
        self.hits = 0
        self.calls: list[tuple[str, str]] = []
        self.platter: Platter | None = None
        self.listener: Callable[[str, str], None] | None = None
        self._faults: list[_Fault] = []
        super().__init__(self.name, self.base)

    def fail(
        self,
        kind: Kind,
        error: Callable[[], Exception],
        *,
        files: str = "",
        outcome: Outcome = "not done",
        after: int = 0,
        times: int = 1,
    ) -> None:
        """Let operations fail.

        Args:
            kind: which operation.
            error: makes what it raises.
            files: only of files whose name ends so.
            outcome: whether it is carried out all the same.
            after: so many go well first.
            times: then so many fail.
        """
        self._faults.append(_Fault(kind, error, files, outcome, after, times))

    def heal(self) -> None:
        """Disarm all."""
        self._faults.clear()

    def strikes(self, kind: Kind, file: str) -> _Fault | None:
        """The fault that this operation meets, if any."""
        self.calls.append((kind, file))
        if self.listener is not None and kind in ("write", "sync", "truncate"):
            self.listener(kind, file)
        for fault in self._faults:
            if fault.kind == kind and file.endswith(fault.files) and fault.times:
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                self.hits += 1
                return fault
        return None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        fault = self.strikes("open", text or "")
        if fault is not None:
            raise fault.error()
        if self.platter is not None and text:
            self.platter.opened(text)
        return _File(self, text or "", name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        if self.platter is not None:
            self.platter.removed(filename)


class _Fault:
    def __init__(
        self, kind: str, error: Callable[[], Exception], files: str, outcome: Outcome, after: int, times: int
    ) -> None:
        self.kind, self.error, self.files, self.outcome = kind, error, files, outcome
        self.after, self.times = after, times


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, file: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.disk, self.file = disk, file
        super().__init__(disk.base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        fault = self.disk.strikes("write", self.file)
        if fault is None or fault.outcome == "done":
            super().xWrite(data, offset)
            if self.disk.platter is not None:
                self.disk.platter.wrote(self.file, data, offset)
        if fault is not None:
            raise fault.error()

    def xSync(self, flags: int) -> None:
        fault = self.disk.strikes("sync", self.file)
        if fault is None or fault.outcome == "done":
            super().xSync(flags)
            if self.disk.platter is not None:
                self.disk.platter.synced(self.file)
        if fault is not None:
            raise fault.error()

    def xRead(self, amount: int, offset: int) -> bytes:
        fault = self.disk.strikes("read", self.file)
        if fault is not None:
            raise fault.error()
        return super().xRead(amount, offset)

    def xTruncate(self, newsize: int) -> None:
        fault = self.disk.strikes("truncate", self.file)
        if fault is None or fault.outcome == "done":
            super().xTruncate(newsize)
            if self.disk.platter is not None:
                self.disk.platter.truncated(self.file, newsize)
        if fault is not None:
            raise fault.error()
