"""A disk that fails on command: an apsw VFS under the real SQLite."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import apsw

Kind = Literal["write", "sync", "read", "truncate", "open"]
Outcome = Literal["done", "not done"]

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


class Disk(apsw.VFS):
    """The system's VFS, with faults. ``fail`` arms one; ``hits`` counts those that struck."""

    def __init__(self) -> None:
        self.name = f"faulty-{next(_numbers)}"
        self.base = ""
        self.hits = 0
        self.calls: list[tuple[str, str]] = []
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
        return _File(self, text or "", name, flags)


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
        if fault is not None:
            raise fault.error()

    def xSync(self, flags: int) -> None:
        fault = self.disk.strikes("sync", self.file)
        if fault is None or fault.outcome == "done":
            super().xSync(flags)
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
        if fault is not None:
            raise fault.error()
