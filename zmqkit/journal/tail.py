"""How far a journal had come, as its sidecar remembers it: the record, its bytes, and what a comparison tells. Pure.

SQLite drops a damaged tail of its write-ahead log without a word, and a backup looks like a journal too. So each commit
leaves its number beside the journal, in the lock file (docs/journal-format.md, section 6): a *watermark*. What holds
less than its watermark has lost something, and what went another way since is not the journal that was here.

The record is one sector of 512 bytes, which disks write whole or not at all. Its places are fixed, so that it needs no
room on a full disk::

    bytes 0-255      journal=<uuid> durability=power boot=<boot id> opening=7 epoch=<epoch>
    bytes 256-276    the number of the last commit, 20 digits
    bytes 277-285    the CRC-32 of all other bytes, 8 hex digits
    bytes 286-511    synced=<number> and, a log each, <name>=<its highest key>

Older versions of zmqkit wrote the first two only, and read nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from zlib import crc32

SECTOR: Final = 512
_NAMES: Final = 256
_NUMBER: Final = 21
_CRC: Final = 9
_OLD: Final = _NAMES + _NUMBER
_DIGITS: Final = 19


@dataclasses.dataclass(frozen=True, slots=True)
class Watermark:
    """How far a journal had come by its last confirmed commit.

    Attributes:
        journal: its uuid; empty: there is a record, and it is not what was written.
        durability: at which the commits were made.
        boot: the boot id of the machine then; empty where there is none.
        commits: the number of the last one.
        synced: the number of the last one that is known to be on the disk; at most `commits`.
        opening: the number of the last opening, 0 if it is not known.
        epoch: that opening's epoch.
        highest: the highest key that was ever used, by log; those that had room.
    """

    journal: str
    durability: str
    boot: str
    commits: int
    synced: int = 0
    opening: int = 0
    epoch: str = ""
    highest: Mapping[str, int] = dataclasses.field(default_factory=dict)


UNREADABLE: Final = Watermark("", "", "", 0)
"""A record that is not what was written: there was a journal, and that is all that is known."""


def names_of(journal: str, durability: str, boot: str, opening: int, epoch: str) -> bytes:
    """The first part of the record: what stays the same from commit to commit."""
    return padded(f"journal={journal} durability={durability} boot={boot} opening={opening} epoch={epoch}", _NAMES)


class Packer:
    """Makes the records of one opening, a commit each: most of the text is the same every time.

    Args:
        names: see `names_of`.
        logs: the names of the logs, in the order in which their highest keys come.
    """

    def __init__(self, names: bytes, logs: Iterable[str]) -> None:
        self._head = names.replace(b"%", b"%%") + b"%020d\n"
        text = "synced=%d"
        self.logs: list[str] = []
        """The logs for which there is room."""
        left = SECTOR - _OLD - _CRC - len("synced=") - _DIGITS - 1
        for log in logs:
            left -= len(f" {log}=") + _DIGITS
            if left >= 0 and log != "synced":
                text += f" {log}=%d"
                self.logs.append(log)
        self._rest = text.encode()

    def pack(self, commits: int, synced: int, highest: Sequence[int]) -> bytes:
        """The record, all of it; `highest` as `logs`."""
        head = self._head % commits
        rest = (self._rest % (synced, *highest)).ljust(SECTOR - _OLD - _CRC - 1) + b"\n"
        return b"%b%08x\n%b" % (head, crc32(rest, crc32(head)), rest)


def unpack(raw: bytes) -> Watermark | None:
    """The record back from its bytes: None if there is none, `UNREADABLE` if it is not what was written."""
    if not raw.strip(b"\0 \n"):
        return None
    names, number, rest = fields(raw[:_NAMES]), raw[_NAMES : _OLD - 1], {}
    try:
        commits = int(number) if number.isdigit() else -1
        if commits < 0 or not names.get("journal"):
            return UNREADABLE
        if len(raw) > _OLD:
            text = raw[_OLD + _CRC :]
            if int(raw[_OLD : _OLD + _CRC], 16) != crc32(text, crc32(raw[:_OLD])):
                return UNREADABLE
            rest = {name: int(value) for name, value in fields(text).items()}
            synced = rest.pop("synced")
        else:
            synced = commits if names.get("durability") == "power" else 0
        return Watermark(
            names["journal"], names.get("durability", ""), names.get("boot", ""), commits, synced,
            int(names.get("opening", "0")), names.get("epoch", ""), rest,
        )  # fmt: skip
    except (KeyError, ValueError):
        return UNREADABLE


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """What a journal lacks that its sidecar knows of.

    Attributes:
        commits: how many commits.
        of: how many there had been.
        excusable: a power cut may take them at this durability.
        logs: by log, the highest key that is there, and the highest that had been used; where the two differ.
    """

    commits: int
    of: int
    excusable: bool
    logs: Mapping[str, tuple[int, int]]

    def __str__(self) -> str:
        text = f"its last {self.commits} commits of {self.of}"
        spans = [f"keys {there + 1} to {used} of log {log}" for log, (there, used) in self.logs.items()]
        return text + (f" (with them, whatever was put under {', '.join(spans)})" if spans else "")


def lost(mark: Watermark, commits: int, highest: Mapping[str, int], boot: str) -> Lost | None:
    """What is gone of the journal that this is the watermark of; None: nothing that it knows of.

    Args:
        mark: the watermark.
        commits: how many the journal has.
        highest: the highest key that was used, by log, as the journal says.
        boot: the boot id of the machine now.
    """
    if mark.commits <= commits:
        return None
    machine_was_down = mark.boot != boot or not mark.boot
    return Lost(
        mark.commits - commits,
        mark.commits,
        mark.durability == "process" and machine_was_down and mark.synced <= commits,
        {log: (highest.get(log, 0), used) for log, used in mark.highest.items() if used > highest.get(log, 0)},
    )


def went_another_way(mark: Watermark, openings: Mapping[int, str]) -> bool:
    """Whether this is a copy that was used elsewhere: the opening that the sidecar saw last is not among its own.

    Args:
        mark: the watermark.
        openings: number and epoch of those that the journal remembers.
    """
    return mark.opening > 0 and openings.get(mark.opening, mark.epoch) != mark.epoch


def fields(raw: bytes) -> dict[str, str]:
    """``a=1 b=2 owner=may have spaces`` as a dict; whatever cannot be read is left out."""
    text = raw.decode("utf-8", "replace").strip("\0 \n")
    found: dict[str, str] = {}
    while "=" in text:
        name, _, text = text.partition("=")
        if name == "owner":
            found[name] = text
            break
        found[name], _, text = text.partition(" ")
    return found


def padded(text: str, size: int) -> bytes:
    """Text of a fixed size, a line."""
    return text.encode("utf-8", "replace")[: size - 1].ljust(size - 1) + b"\n"
