"""What every journal offers, and what a core may rely on. Knows no SQLite and no files.

A journal keeps rows in named logs. A row has a key (1 or more, ordered), a weight (how many messages it stands
for) and a value. Changes come in commits: a commit is stored whole or not at all, and when `commit` returns it is
as safe as the journal's durability says. The tests in tests/journal/ hold every journal to this interface.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple, Protocol

from zmqkit.options import Durability
from zmqkit.protocol.core import Read, Row, Write

HIGHEST_KEY = 2**63 - 1
"""Keys and weights are signed 64-bit numbers on the disk."""

pack_head = Struct(">qq").pack


class Totals(NamedTuple):
    """What a log holds. Without rows all four are 0."""

    rows: int
    weight: int
    """The sum of the rows' weights."""
    first_key: int
    last_key: int


class Journal(Protocol):
    """The durable store of one peer.

    Any thread may call it; calls are carried out one at a time. Errors are `JournalError` and its subclasses;
    a log that was not named when the journal was opened is a ValueError.
    """

    @property
    def path(self) -> str | None:
        """The file, absolute; None where there is none."""

    @property
    def uuid(self) -> str:
        """32 hex digits, drawn when the journal was created."""

    @property
    def epoch(self) -> str:
        """32 hex digits, drawn afresh at every open."""

    @property
    def durability(self) -> Durability:
        """How safe a commit is when `commit` returns."""

    def totals(self, log: str) -> Totals:
        """What the log holds now."""

    def highest(self, log: str) -> int:
        """The highest key that was ever used in the log, its deleted rows included; 0 if none was."""

    def commit(self, writes: Sequence[Write]) -> None:
        """Store all writes, or none. The last write of a key wins.

        Raises:
            JournalFull: no room; nothing was stored. Deletes go on; later commits may succeed.
            CommitIndeterminate: it cannot be known whether it is stored. The journal is of no more use.
            JournalError: not stored; the message says why.
        """

    def sync(self) -> None:
        """What was committed until now survives a power cut, also at durability `process`.

        Raises:
            JournalError: it is not known to.
        """

    def read(self, request: Read) -> list[Row]:
        """Rows of a span (``last`` included) in the order of their keys, up to the row that reaches ``size_bytes``.

        Empty only when the span holds no row.

        Raises:
            JournalDamaged: a row is not what was written.
        """

    def close(self) -> None:
        """Give the file back. Closing twice is harmless; all else then raises `JournalError`."""


def checksum(key: int, weight: int, value: bytes) -> int:
    """CRC-32 over key and weight (big-endian, 8 bytes each) and value; stored beside each row."""
    return zlib.crc32(value, zlib.crc32(pack_head(key, weight)))
