"""What the demo counts, and in what: the tokens, names, lines and bytes of Python source files.

The worker processes and the plain count that they are held against both call `count_source`; what they are added
up in, `Totals`, is the same too. All that can differ is what happens to the messages between the two.

This module imports nothing of zmqkit.
"""

from __future__ import annotations

import dataclasses
import io
import keyword
import os
import time
import token
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

MAX_SOURCE_BYTES = 32 * 1024 * 1024
"""A file larger than this is refused: one message carries one file, and a frame is bounded."""

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}


class NotPython(Exception):
    """The source does not tokenize."""


class FilesError(Exception):
    """The files cannot be counted at all: there are none, or one cannot be read."""


class Source(NamedTuple):
    """A file to count."""

    label: str
    """Where it lies below the folder that was searched; text that can always travel."""
    path: Path

    def read(self) -> bytes:
        """The bytes of the file. Raises `FilesError`, which names it."""
        try:
            if (size := self.path.stat().st_size) > MAX_SOURCE_BYTES:
                raise FilesError(f"{self.path} has {size:,} bytes; at most {MAX_SOURCE_BYTES:,} are counted")
            return self.path.read_bytes()
        except OSError as error:
            raise FilesError(f"{self.path} cannot be read: {error.strerror or error}") from error


class Count(TypedDict):
    """What is in one file; as it travels."""

    bytes: int
    lines: int
    kinds: dict[str, int]
    """How often each kind of token occurs, by its name in the module `token`."""
    names: dict[str, int]
    """How often each identifier occurs; keywords are none."""


def find_sources(folder: Path) -> list[Source]:
    """Every .py file below a folder, in a stable order.

    Symbolic links are not followed, and installed packages are left out. Raises `FilesError` where there is no such
    folder, where it holds no .py file, or where a folder in it cannot be read.
    """
    if not folder.is_dir():
        raise FilesError(f"{folder} is {'not a folder' if folder.exists() else 'not there'}")
    found = [_source(folder, path) for path in _walk(folder)]
    if not found:
        raise FilesError(f"there is no .py file below {folder}")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise FilesError(f"{error.filename} cannot be read: {error.strerror}") from error

    for where, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in names:
            path = Path(where, name)
            if name.endswith(".py") and path.is_file() and not path.is_symlink():
                yield path


def _source(folder: Path, path: Path) -> Source:
    label = path.relative_to(folder).as_posix()
    # A file's name need not be text: what is not gets escaped.
    return Source(label.encode("utf-8", "backslashreplace").decode(), path)


def count_source(source: bytes) -> Count:
    """Tokenize a file and count what is in it. Raises `NotPython` where it does not tokenize."""
    kinds = [0] * (token.N_TOKENS + 1)
    names: list[str] = []
    try:
        for each in tokenize.tokenize(io.BytesIO(source).readline):
            kind = each[0]
            kinds[kind] += 1
            if kind == token.NAME:
                names.append(each[1])
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise NotPython(f"{type(error).__name__}: {error}") from error
    return {
        "bytes": len(source),
        "lines": source.count(b"\n") + (not source.endswith(b"\n") and source != b""),
        "kinds": {token.tok_name[kind]: number for kind, number in enumerate(kinds) if number},
        "names": {name: number for name, number in Counter(names).items() if not keyword.iskeyword(name)},
    }


@dataclasses.dataclass(slots=True)
class Totals:
    """The sum over many files."""

    files: int = 0
    bytes: int = 0
    lines: int = 0
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    names: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, count: Count) -> None:
        """Add what is in one more file."""
        self.files += 1
        self.bytes += count["bytes"]
        self.lines += count["lines"]
        self.kinds.update(count["kinds"])
        self.names.update(count["names"])

    @property
    def tokens(self) -> int:
        """How many tokens, of all kinds."""
        return self.kinds.total()


def reject_reason(label: str, error: NotPython) -> str:
    """Why a file was not counted, in the words that stand in its dead letter."""
    return f"{label}: {error}"[:1000]


class Plain(NamedTuple):
    """The plain count: one process, one loop, no messages."""

    totals: Totals
    rejected: list[str]
    """The reasons, sorted."""
    seconds: float


def count_plainly(sources: list[Source], on_file: Callable[[int], object]) -> Plain:
    """Count all files here and now; `on_file` is told how many are done."""
    totals, rejected = Totals(), []
    began = time.perf_counter()
    with quiet():
        for done, source in enumerate(sources, 1):
            try:
                totals.add(count_source(source.read()))
            except NotPython as error:
                rejected.append(reject_reason(source.label, error))
            on_file(done)
    return Plain(totals, sorted(rejected), time.perf_counter() - began)


def quiet() -> warnings.catch_warnings[None]:
    """Silence what Python has to say about the style of the files that it tokenizes, while the block runs."""
    return warnings.catch_warnings(action="ignore")


__all__ = [
    "Count",
    "FilesError",
    "NotPython",
    "Plain",
    "Source",
    "Totals",
    "count_plainly",
    "count_source",
    "find_sources",
    "quiet",
    "reject_reason",
]
