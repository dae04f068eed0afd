"""Copies of journals, taken while their owners are dead, and put in the place of newer ones.

Knows files only. What the owner is told of it stands in ``NAME.restored`` beside the journal.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

from tests.chaos.fleet import Member
from tests.chaos.plan import Role, Step

PARTS = ("", "-wal")
"""What a journal consists of: the file of this name, and what follows it. The file of the lock is no part of it."""


class Copies:
    """Of the journals of a run.

    Args:
        folder: of the run.

    Attributes:
        taken: how many copies, by role.
        restored: how many were put in place, by role.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: Counter[Role] = Counter()
        self.restored: Counter[Role] = Counter()
        self._lives: dict[str, int] = {}

    def __call__(self, member: Member, step: Step) -> None:
        """Do to the journal of a member, who was killed, what the step says, if that can be."""
        journal = self.folder / f"{member.name}.journal"
        if not step.disk or not journal.exists() or pending(self.folder, member.name):
            return
        if step.disk == "copy":
            lay(journal, self._kept(member.name, "copy"))
            self._lives[member.name] = member.life
            self.taken[member.role] += 1
        elif member.name in self._lives:
            lay(journal, self._kept(member.name, "newest"))
            lay(self._kept(member.name, "copy"), journal)
            told = {"life": self._lives.pop(member.name), "way": step.disk}
            (self.folder / f"{member.name}.restored").write_text(json.dumps(told))
            self.restored[member.role] += 1

    def _kept(self, name: str, what: str) -> Path:
        folder = self.folder / "copies"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.{what}"


def pending(folder: Path, name: str) -> bool:
    """The owner has not dealt with the last restore."""
    return any((folder / f"{name}.{what}").exists() for what in ("restored", "returning", "resending"))


def lay(source: Path, target: Path) -> None:
    """Make a journal one like another, which stays."""
    for part in (*PARTS, "-shm"):
        Path(f"{target}{part}").unlink(missing_ok=True)
    for part in PARTS:
        if Path(f"{source}{part}").exists():
            shutil.copy(f"{source}{part}", f"{target}{part}")
