"""The story as a program of its own, to be harmed at any system call: ``python -m tests.crashpoints.program FOLDER``.

It writes down what it did and was told into ``FOLDER/steps``, so that the next life can judge what it finds; with
`writev`, which nobody counts. In a folder where the story was begun it is gone on with, to the end. With ``patient``
as another argument the story is told by one who goes on when something fails.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.crashpoints.failing import begin
from tests.crashpoints.history import Step
from tests.crashpoints.player import Player
from tests.crashpoints.stage import Stage
from tests.crashpoints.story import CHAPTERS, recover, tell
from tests.crashpoints.taps import Tap, tapped


class Diary(list[Step]):
    """Steps that are in a file, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(load(path))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, step: Step, /) -> None:
        """Write it down first: what is begun must be known."""
        os.writev(self._fd, [json.dumps(asdict(step)).encode(), b"\n"])
        super().append(step)


def load(path: Path) -> list[Step]:
    """What a diary holds."""
    return [Step(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def main(folder: Path, *, patient: bool) -> None:
    """Tell the story; or go on with it, if it was begun."""
    begun = (folder / "steps").exists()
    diary = Diary(folder / "steps")
    files = folder / "files"
    files.mkdir(exist_ok=True)
    offset = 1000.0 * sum(1 for _ in folder.glob("life*"))  # so that time goes on from life to life
    (folder / f"life{offset}").touch()
    with tapped(Tap()):
        make = partial(Stage, files, offset=offset)
        if begun:
            recover(Player(make, diary))
        elif patient:
            told = begin(make, diary)
            for chapter in CHAPTERS:
                chapter(told)
            told.stage.drop()
        else:
            tell(Player(make, diary))


if __name__ == "__main__":
    main(Path(sys.argv[1]), patient="patient" in sys.argv[2:])
