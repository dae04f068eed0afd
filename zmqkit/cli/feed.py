"""What `push` and `publish` send: lines of files and of stdin, as they come. Knows no peer.

What can be read at once is one batch, so a slow source is sent line by line and a fast one in large groups.
"""

from __future__ import annotations

import io
import json
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from zmqkit.cli.envelopes import NotAnEnvelope
from zmqkit.cli.options import STDIN
from zmqkit.cli.outcome import LOOK_SECONDS, Failed
from zmqkit.options import Limits

READ_BYTES = 256 * 1024


class Batch(NamedTuple):
    """Neighbouring messages of one source."""

    bodies: list[Any]
    source: str
    lines: list[int]
    """The line that each body stood in, from 1."""

    def place(self, index: int) -> str:
        """Where a body stood, as in ``jobs.jsonl:17``."""
        return f"{self.source}:{self.lines[index]}"


def text_line(line: bytes) -> Any:
    """The body that a line stands for: its text. Raises ValueError."""
    return line.decode("utf-8")


def json_line(line: bytes) -> Any:
    """The body that a line of JSON stands for. Raises ValueError."""
    return json.loads(line)


def batches(files: Sequence[Path], parse: Callable[[bytes], Any], *, skip_blank: bool) -> Iterator[Batch]:
    """What the files hold, in their order; without any, what stdin does.

    Args:
        files: to read; ``-`` is stdin.
        parse: makes a body of a line without its end; raises ValueError.
        skip_blank: blank lines are no messages.

    Raises:
        Failed: a line cannot be read; what stood before it was given out.
        OSError: a file cannot be read.
    """
    for path in files or [STDIN]:
        if path == STDIN:
            yield from _batches(sys.stdin.buffer, "stdin", parse, skip_blank)
        else:
            with path.open("rb") as file:
                yield from _batches(file, str(path), parse, skip_blank)


def _batches(file: BinaryIO, name: str, parse: Callable[[bytes], Any], skip_blank: bool) -> Iterator[Batch]:
    number = 0
    for lines in _lines(file, name):
        batch = Batch([], name, [])
        for line in lines:
            number += 1
            if skip_blank and not line.strip():
                continue
            try:
                body = parse(line)
            except (ValueError, RecursionError) as error:
                yield batch
                raise Failed(f"{name}:{number}: {_fault(error)}; what stood before it was sent") from None
            batch.bodies.append(body)
            batch.lines.append(number)
        yield batch


def _fault(error: Exception) -> str:
    if isinstance(error, NotAnEnvelope):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start + 1} of the line)"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno})"
    return f"not JSON ({error})"


def _lines(file: BinaryIO, name: str) -> Iterator[list[bytes]]:
    """Groups of whole lines without their ends."""
    read = partial(_read_some, file) if isinstance(file, io.BufferedReader) else file.read
    longest = Limits().frame_bytes
    pending: list[bytes] = []
    size = 0
    while chunk := read(READ_BYTES):
        head, end, rest = chunk.rpartition(b"\n")
        if end:
            yield [_without_return(line) for line in b"".join([*pending, head]).split(b"\n")]
            pending, size = [], 0
        if rest:
            pending.append(rest)
            size += len(rest)
            if size > longest:
                raise Failed(f"{name}: a line is longer than the {longest} bytes that a message may have")
    if pending:
        yield [_without_return(b"".join(pending))]


def _read_some(file: io.BufferedReader, size: int) -> bytes:
    """What is there, as soon as there is something. Meanwhile signals are heard."""
    while not select.select([file], [], [], LOOK_SECONDS)[0]:
        continue
    return file.read1(size)


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line
