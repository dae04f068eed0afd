"""The journal's disk fails in the middle of the story, and the user goes on as the errors say.

Whatever fails, carried out or not: what was confirmed is there at the end, what was refused is not, and what is unknown
is one of the two.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from tests.crashpoints.history import Step
from tests.crashpoints.player import NOT_STORED, Missing, Player
from tests.crashpoints.snapshots import Theatre
from tests.crashpoints.stage import Stage
from tests.crashpoints.story import CHAPTERS, recover
from tests.crashpoints.taps import tapped
from tests.journal.faults import READ_ERROR, SYNC_ERROR, WRITE_ERROR, Disk, Kind, Outcome, enospc
from zmqkit.errors import JournalError, ZmqkitError
from zmqkit.transport.tickets import WaitExpired

VERBS: Final = (
    "begin_pulling", "pass_time", "relay", "sync", "restart", "send", "send_many", "send_again", "look", "take", "ack",
    "effect", "claim", "nack", "reject", "outbox", "dead", "retry", "drop",
)  # fmt: skip
"""What a player may do on a disk that fails."""

OUTCOMES: Final[tuple[Outcome, ...]] = ("done", "not done")

ERRORS: Final[dict[str, dict[Kind, Callable[[], Exception]]]] = {
    "eio": {"write": WRITE_ERROR, "sync": SYNC_ERROR, "read": READ_ERROR, "truncate": WRITE_ERROR},
    "enospc": {"write": enospc},
}


TIMES: Final = (1, 3, 10)
"""So many operations fail in a row."""

TRIES: Final = max(TIMES) + 1


class Fault(NamedTuple):
    """One that strikes.

    Attributes:
        kind: which operation of the journal's files.
        error: "eio" or "enospc".
        outcome: whether it is carried out all the same.
        after: so many go well first.
        times: then so many fail.
    """

    kind: Kind
    error: str
    outcome: Outcome
    after: int
    times: int = 1


def faults(operations: Counter[str], every: int) -> Iterator[Fault]:
    """All that may strike in a story of so many operations, or one in so many of each kind."""
    start = 0
    for name, kinds in ERRORS.items():
        for kind in kinds:
            for outcome in OUTCOMES:
                for times in TIMES:
                    if kind != "read" or outcome == "not done":  # who reads has nothing that could be done all the same
                        start += 1
                        yield from (
                            Fault(kind, name, outcome, after, times)
                            for after in range(start % every, operations[kind], every)
                        )


class Patient(Player):
    """Goes on when something fails: with the same pusher after a refusal, with another one after anything else.

    Attributes:
        refusals, reopened: how often it did the one, and the other.
    """

    refusals = 0
    reopened = 0

    def tried(self, verb: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Do it, if it can be done."""
        try:
            return verb(self, *arguments, **more)
        except Missing:
            pass  # what it is about was lost by what failed before
        except (JournalError, WaitExpired) as error:
            if isinstance(error, WaitExpired) or any(words in str(error) for words in NOT_STORED):
                self.refusals += 1
                self.pass_time(2.0)  # settles are tried again
            else:
                self.reopen()
        except (ZmqkitError, sqlite3.Error):
            self.reopen()
        return {} if verb is Player.dead else None

    def reopen(self, tries: int = TRIES) -> None:
        """See `Player`; and let a puller come."""
        self.reopened += 1
        super().reopen(tries)
        self.tried(Player.begin_pulling)


def _patiently(verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def tried(self: Patient, *arguments: Any, **more: Any) -> Any:
        return self.tried(verb, *arguments, **more)

    return tried


for _name in VERBS:
    setattr(Patient, _name, _patiently(getattr(Player, _name)))


class Outcomes(NamedTuple):
    """What the user met."""

    struck: int
    refusals: int
    reopened: int
    operations: Counter[str]
    """Of the journal's files, by kind: as many as there were."""


def play(theatre: Theatre, fault: Fault | None) -> Outcomes:
    """Tell the story while the disk fails, heal it, and go on to the end. What is raised says what failed.

    Raises:
        AssertionError: something is there at the end that must not be, or is not there that must be.
    """
    disk = Disk()
    if fault is not None:
        disk.fail(
            fault.kind, ERRORS[fault.error][fault.kind], outcome=fault.outcome, after=fault.after, times=fault.times
        )
    theatre.clear()
    try:
        with tapped(theatre.tap, vfs=disk.name):
            player = begin(partial(Stage, theatre.folder))
            for chapter in CHAPTERS:
                chapter(player)
            disk.heal()
            offset = player.stage.offset
            player.stage.drop()
            last = Player(partial(Stage, theatre.folder, offset=offset), player.steps)
            try:
                recover(last)
            except BaseException:
                last.stage.drop()
                raise
    except Exception as error:
        error.add_note(f"what failed: {fault}")
        raise
    finally:
        disk.unregister()
    kinds = Counter(kind for kind, _ in disk.calls)
    return Outcomes(disk.hits, player.refusals, player.reopened, kinds)


def begin(make: Callable[[], Stage], steps: list[Step] | None = None) -> Patient:
    """Open a stage for one who is patient, also if the fault strikes while the journal is being made."""
    for _ in range(TRIES):
        try:
            return Patient(make, steps)
        except JournalError:
            continue
    raise AssertionError("the journal cannot be made, though the disk is well again")
