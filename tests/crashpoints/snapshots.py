"""Crashes without dying: a copy of all files before and after each operation, and a recovery from each copy."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.crashpoints.history import Step
from tests.crashpoints.player import Player
from tests.crashpoints.stage import Stage
from tests.crashpoints.story import recover, tell
from tests.crashpoints.taps import Tap, tapped
from zmqkit.options import Durability


@dataclasses.dataclass(slots=True)
class Shot:
    """What is there at one moment.

    Attributes:
        label: the operation, and whether it is yet to be done; behind another crash, that one first.
        files: contents by name.
        steps: how many steps of the story had been written down.
        offset: of virtual time.
    """

    label: str
    files: dict[str, bytes]
    steps: int
    offset: float


class Camera:
    """Takes shots of a folder. Where neither a file nor what is known has changed, one is enough.

    Args:
        folder: with the files.
        steps: what is known; it grows.
        offset: of virtual time, until a stage is open.
        durability: of the journal.
        develop: gives what will be found in a file; None: what is in it.
        wanted: whether to shoot a moment, by its number; None: all.
    """

    def __init__(
        self, folder: Path, steps: list[Step], offset: float, *, durability: Durability = "power",
        develop: Callable[[Path], bytes] | None = None, wanted: Callable[[int], bool] | None = None,
    ) -> None:  # fmt: skip
        self.shots: list[Shot] = []
        self.stage: Stage | None = None
        self.moments = 0
        self._durability = durability
        self._develop = Path.read_bytes if develop is None else develop
        self._wanted = wanted
        self._folder = folder
        self._steps = steps
        self._offset = offset

    def open(self) -> Stage:
        """Open a stage; its time is that of the shots from now on."""
        self.stage = Stage(self._folder, offset=self.offset, durability=self._durability)
        return self.stage

    @property
    def offset(self) -> float:
        """Of virtual time now."""
        return self._offset if self.stage is None else self.stage.offset

    def shoot(self, name: str, when: str) -> None:
        """One moment."""
        self.moments += 1
        if self._wanted is not None and not self._wanted(self.moments):
            return
        files = {path.name: self._develop(path) for path in sorted(self._folder.iterdir())}
        if self.shots:
            last = self.shots[-1]
            if last.files == files and last.steps == len(self._steps):
                return
            files = {each: last.files[each] if last.files.get(each) == data else data for each, data in files.items()}
        label = f"{when} {name}, moment {self.moments}"
        self.shots.append(Shot(label, files, len(self._steps), self.offset))


class Theatre:
    """Where stories are told and gone on with.

    Args:
        folder: to work in.
        durability: of the journals.

    Attributes:
        tap: on all that is done there.
    """

    def __init__(self, folder: Path, durability: Durability = "power") -> None:
        self.durability = durability
        self.folder = folder / "stage"
        self.folder.mkdir()
        self.tap = Tap()

    def clear(self) -> None:
        """Begin with no files."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def play(self) -> tuple[list[Shot], list[Step]]:
        """Tell the story, and shoot every moment of it. Returns the shots, and all steps."""
        self.clear()
        return self._shoot([], 0.0, tell)

    def recover(self, shot: Shot, steps: Sequence[Step]) -> None:
        """Go on from a shot, to the end. What is raised says where the crash was."""
        self._restore(shot)
        self.tap.listener = None
        make = partial(Stage, self.folder, offset=shot.offset, durability=self.durability)
        try:
            self._act(recover, lambda: Player(make, list(steps[: shot.steps])))
        except Exception as error:
            error.add_note(f"the crash was {shot.label}")
            raise

    def recover_again(self, shot: Shot, steps: Sequence[Step]) -> tuple[list[Shot], list[Step]]:
        """The same, and shoot every moment of it."""
        self._restore(shot)
        shots, more = self._shoot(list(steps[: shot.steps]), shot.offset, recover)
        for each in shots:
            each.label = f"{shot.label}; then {each.label}"
        return shots, more

    def _restore(self, shot: Shot) -> None:
        """Put its files where they were."""
        self.clear()
        for name, data in shot.files.items():
            (self.folder / name).write_bytes(data)

    def _shoot(
        self, steps: list[Step], offset: float, act: Callable[[Player], None]
    ) -> tuple[list[Shot], list[Step]]:  # fmt: skip
        camera = Camera(self.folder, steps, offset, durability=self.durability)
        self.tap.listener = camera.shoot
        try:
            self._act(act, lambda: Player(camera.open, steps))
        finally:
            self.tap.listener = None
        return camera.shots, steps

    def _act(self, act: Callable[[Player], None], make: Callable[[], Player]) -> None:
        with tapped(self.tap):
            player = make()
            try:
                act(player)
            except BaseException:
                player.stage.drop()  # or nobody else could open what it has open
                raise
