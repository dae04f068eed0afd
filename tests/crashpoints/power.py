"""The power is cut: at any write or sync of the journal's files, with any of what was not synced left on the disk.

The journal's SQLite works on a disk that keeps account of what is synced. Its lock file, which is no database, is as of
its last sync or as it is; the user's database, which is written with the standard library's SQLite, is as it is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.crashpoints.history import Step
from tests.crashpoints.player import Player
from tests.crashpoints.snapshots import Camera, Shot, Theatre
from tests.crashpoints.story import tell
from tests.crashpoints.taps import replaced, tapped
from tests.journal.faults import Disk, Platter
from zmqkit.errors import JournalError
from zmqkit.journal import sidecar
from zmqkit.journal.lock import OwnerLock

_boots = itertools.count()

LOST: Final = ("is nowhere", "is gone", "there is no letter", "was said to be settled", "once more under its id")
"""So the judge says that something is lost."""


class Cuts:
    """One story, and what a power cut leaves of it at any moment.

    Args:
        theatre: where it is told.
        lies: the disk says "synced", and is not.
        wanted: at which writes and syncs, by their number, the power is cut.
        seed: draws what is left.
    """

    def __init__(
        self, theatre: Theatre, *, lies: bool = False,
        wanted: Callable[[int], bool] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self._theatre = theatre
        self._rng = random.Random(seed)
        self.steps: list[Step] = []
        self._marks: dict[str, bytes] = {}
        self._platter = Platter()
        self._platter.lies = lies
        disk = Disk()
        disk.platter = self._platter
        theatre.clear()
        camera = Camera(
            theatre.folder, self.steps, 0.0, durability=theatre.durability, develop=self._left, wanted=wanted
        )  # fmt: skip
        disk.listener = lambda kind, file: camera.shoot(f"{kind} of {Path(file).name}", "before")
        sync = OwnerLock.sync

        def synced(lock: OwnerLock) -> None:
            sync(lock)
            self._marks[lock.path] = Path(lock.path).read_bytes()

        try:
            with tapped(theatre.tap, vfs=disk.name), replaced(OwnerLock, "sync", synced):
                tell(Player(camera.open, self.steps))
        finally:
            disk.listener = None
            disk.unregister()
        self.shots: list[Shot] = camera.shots
        self.moments = camera.moments

    def _left(self, path: Path) -> bytes:
        mark = self._marks.get(str(path))
        if mark is not None and self._rng.random() < 0.5:
            return mark
        return self._platter.image(path, self._rng)

    def lost(self, shot: Shot) -> str:
        """Start the machine again, and go on. Returns what was lost; empty: nothing.

        Raises:
            AssertionError: something else is wrong.
        """
        boot = f"boot {next(_boots)}"
        with replaced(sidecar, "boot_id", lambda: boot):
            try:
                self._theatre.recover(shot, self.steps)
            except JournalError as error:
                return str(error)
            except AssertionError as error:
                if any(words in str(error) for words in LOST):
                    return str(error)
                raise
        return ""
