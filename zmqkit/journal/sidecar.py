"""Notices that a journal lost its tail: keeps the watermark of an open journal, compares it at the next opening.

Knows the lock file, in which the watermark lies (see `tail`), and no SQLite. Each commit rewrites the record, which
costs one write into the system's memory: nothing of it is lost when the process dies. It is *synced* to the disk after
each checkpoint of the journal, when the journal is closed, and besides, at durability `power`, with the first commit
after a second: so at most a second of a busy journal's commits is unknown to it after a power cut, for one sync a
second. docs/decisions/0018-a-sidecar-for-lost-tails.md says why not more often, and why it raises no false alarm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from zmqkit.errors import JournalRolledBack
from zmqkit.journal import tail
from zmqkit.journal.layout import State
from zmqkit.journal.lock import OwnerLock, boot_id
from zmqkit.journal.tail import Watermark

_log = logging.getLogger("zmqkit.journal")

SYNC_EVERY_S: Final = 1.0
"""So much time may pass, at durability `power`, until a commit syncs the record too."""


class Sidecar:
    """The watermark of a journal that we own.

    Args:
        lock: which holds the file.
        durability: of the commits.
        journal: its uuid.
        found: the watermark that the last owner of the file left, perhaps of another journal.
    """

    def __init__(self, lock: OwnerLock, durability: str, journal: str, found: Watermark | None) -> None:
        self._lock = lock
        self._durability = durability
        self._packer = tail.Packer(b"", ())
        self._journal = journal
        self._synced = found.synced if found is not None and found.journal == journal else 0
        self._sync_at = 0.0

    def begin(self, opening: int, epoch: str, state: State, *, sync: bool) -> None:
        """From now on it is this journal's, of this opening.

        Args:
            opening: the number of the opening; 0: there is none yet.
            epoch: of the opening.
            state: as of its last commit.
            sync: write it to the disk at once.
        """
        names = tail.names_of(self._journal, self._durability, boot_id(), opening, epoch)
        self._packer = tail.Packer(names, state.logs)
        self._synced = min(self._synced, state.commits)
        self._write(state)
        if sync:
            self._sync()

    def commit(self, state: State) -> None:
        """The commit of this state is stored."""
        self._write(state)
        if self._durability == "power" and time.monotonic() >= self._sync_at:
            self._sync()

    def checkpoint(self, state: State) -> None:
        """All commits up to this state are in the database, and that is synced: also at durability `process`."""
        self._synced = state.commits
        self._write(state)
        self._sync()

    def _write(self, state: State) -> None:
        if self._durability == "power":
            self._synced = state.commits
        logs = state.logs
        highest = [logs[name].highest for name in self._packer.logs]
        self._lock.write_mark(self._packer.pack(state.commits, self._synced, highest))

    def _sync(self) -> None:
        self._lock.sync()
        self._sync_at = time.monotonic() + SYNC_EVERY_S


def compare(path: str, mark: Watermark | None, journal: str, state: State, openings: Mapping[int, str]) -> bool:
    """Hold what is in a journal against its watermark.

    Args:
        path: of the journal, for messages.
        mark: what its sidecar says; None: there is none.
        journal: its uuid.
        state: as of its last commit.
        openings: number and epoch of those that it remembers.

    Returns:
        Whether it has lost something that a power cut may take; a warning in the log names it.

    Raises:
        JournalRolledBack: it has lost something else.
    """
    if mark is not None and not mark.journal:
        _log.warning(
            "%s.lock is not what was written: it cannot tell whether the journal has lost its last commits", path
        )
    if mark is None or mark.journal != journal:
        return False
    lost = tail.lost(mark, state.commits, {name: log.highest for name, log in state.logs.items()}, boot_id())
    what_to_do = f"Put back what is missing; or, to go on with what is in it, remove {path}.lock."
    if lost is None:
        if tail.went_another_way(mark, openings):
            raise JournalRolledBack(
                f"{path} is a copy that was made before commit {mark.commits} of the journal that was here, and was "
                f"used elsewhere since: what was stored here after the copy was made is not in it. {what_to_do}"
            )
        return False
    if lost.excusable:
        _log.warning(
            "%s has lost %s, since the machine went down; with durability='process' that may happen. "
            "What was confirmed in them is gone.", path, lost,
        )  # fmt: skip
        return True
    raise JournalRolledBack(
        f"{path} has lost {lost}: it is an older copy, or its -wal file was damaged or removed. {what_to_do}",
        commits=lost.commits,
        logs=lost.logs,
    )
