"""Short ways to say what a journal should do."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from zmqkit.journal import Journal, Watermark, tail
from zmqkit.protocol.core import Read, Row, Write

LAST = 2**63 - 1


def put(key: int, value: bytes = b"x", *, weight: int = 1, log: str = "messages") -> Write:
    """One row to be put."""
    return Write(log, key, weight, value)


def delete(key: int, *, log: str = "messages") -> Write:
    """One row to be deleted."""
    return Write(log, key, 0, None)


def puts(keys: Iterable[int], value: bytes = b"x") -> list[Write]:
    """Rows to be put."""
    return [put(key, value) for key in keys]


def everything(journal: Journal, log: str = "messages") -> list[Row]:
    """All rows of a log."""
    return journal.read(Read(log, 1, LAST, 1 << 30))


def keys(journal: Journal, log: str = "messages") -> list[int]:
    """The keys of all rows of a log."""
    return [row.key for row in everything(journal, log)]


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs the program; its stdin and stdout are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_owner(path: object, program: str, *, durability: str = "power") -> None:
    """Run ``program`` on an open ``journal`` in another process, then kill that: nothing is tidied up."""
    process = python(
        "import os, sys\nfrom zmqkit.journal import SqliteJournal\nfrom tests.journal.helpers import *\n"
        f"journal = SqliteJournal(sys.argv[1], durability={durability!r})\n{program}\n"
        "print('done', flush=True)\nsys.stdin.read()\n",
        path,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        process.kill()


def watermark(path: Path) -> Watermark | None:
    """What the sidecar of this journal says."""
    return tail.unpack(Path(f"{path}.lock").read_bytes()[512:1024])


def change_watermark(path: Path, **changes: object) -> None:
    """Let the sidecar of this journal say something else."""
    found = watermark(path)
    assert found is not None
    mark = dataclasses.replace(found, **changes)  # type: ignore[arg-type]
    names = tail.names_of(mark.journal, mark.durability, mark.boot, mark.opening, mark.epoch)
    packer = tail.Packer(names, mark.highest)
    record = packer.pack(mark.commits, mark.synced, [mark.highest[log] for log in packer.logs])
    lock = Path(f"{path}.lock")
    lock.write_bytes(lock.read_bytes()[:512] + record)


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A file system of that size on the folder; the test is skipped where we may not mount one."""
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs root, to mount a tmpfs: {error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
