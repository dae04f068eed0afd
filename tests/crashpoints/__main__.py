"""The command line of the crash points: what the tests try at some moments, at each of them.

python -m tests.crashpoints                   all of it: about a quarter of an hour
python -m tests.crashpoints twice power       only these
python -m tests.crashpoints killed --every 10 one moment in ten
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.crashpoints import failing, killed
from tests.crashpoints.killed import Failure, Kill
from tests.crashpoints.power import Cuts
from tests.crashpoints.snapshots import Shot, Theatre
from zmqkit.options import Durability

Trial = Callable[[], object]
"""Raises what is wrong."""

DURABILITIES: tuple[Durability, ...] = ("power", "process")

SEEDS = 3
"""So often the power is cut at each moment: each time other sectors are left."""


def once(folder: Path, every: int) -> Iterator[Trial]:
    """A crash at each moment of the story."""
    for durability in DURABILITIES:
        (folder / durability).mkdir()
        theatre = Theatre(folder / durability, durability)
        shots, steps = theatre.play()
        for shot in shots[::every]:
            yield partial(theatre.recover, shot, steps)


def twice(folder: Path, every: int) -> Iterator[Trial]:
    """A crash at each moment of the story, and another at each moment of its recovery."""
    theatre = Theatre(folder)
    shots, steps = theatre.play()
    for number, first in enumerate(shots):
        later, more = theatre.recover_again(first, steps)
        for second in later[number % every :: every]:
            yield partial(theatre.recover, second, more)


def power(folder: Path, every: int) -> Iterator[Trial]:
    """A power cut at each write and sync of the journal."""
    theatre = Theatre(folder)
    for seed in range(SEEDS):
        cuts = Cuts(theatre, wanted=partial(_wanted, every, seed % every), seed=seed)
        for shot in cuts.shots:
            yield partial(_nothing_lost, cuts, shot)


def _wanted(every: int, phase: int, moment: int) -> bool:
    return moment % every == phase


def _nothing_lost(cuts: Cuts, shot: Shot) -> None:
    lost = cuts.lost(shot)
    assert not lost, f"{shot.label}: {lost}"


def disk(folder: Path, every: int) -> Iterator[Trial]:
    """Each operation of the journal's disk fails, carried out or not."""
    theatre = Theatre(folder)
    for fault in failing.faults(failing.play(theatre, None).operations, every):
        yield partial(failing.play, theatre, fault)


def processes(folder: Path, every: int) -> Iterator[Trial]:
    """A process killed at each of its system calls that change files; and so the next one, at some."""
    reason = killed.missing()
    if reason:
        print(f"left out: {reason}")
        return
    first = folder / "counted"
    first.mkdir()
    calls = killed.calls_of(first)
    later = [Kill(name, at) for name in killed.CALLS for at in range(1, calls[name] + 1, 7)]
    number = 0
    for name in killed.CALLS:
        for at in range(1, calls[name] + 1, every):
            number += 1
            place = folder / f"{name}-{at}"
            place.mkdir()
            yield partial(killed.lives, place, Kill(name, at), later[number % len(later)])


def failing_calls(folder: Path, every: int) -> Iterator[Trial]:
    """System calls of a process that change files fail."""
    reason = killed.missing()
    if reason:
        print(f"left out: {reason}")
        return
    first = folder / "counted"
    first.mkdir()
    calls = killed.calls_of(first)
    for name, errors in killed.ERRORS.items():
        for error in errors:
            for times in (1, 3):
                for at in range(1, calls[name] + 1, every):
                    place = folder / f"{name}-{at}-{times}-{error}"
                    place.mkdir()
                    yield partial(killed.fail, place, Failure(name, at, times, error))


KINDS: dict[str, Callable[[Path, int], Iterator[Trial]]] = {
    "once": once, "twice": twice, "power": power, "disk": disk, "killed": processes,
    "calls": failing_calls,
}  # fmt: skip


def main() -> int:
    """Returns the exit status: 0 when nothing was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description="Crash at every moment.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"which: {', '.join(KINDS)} (all)")
    parser.add_argument("--every", type=int, default=1, help="only one moment in so many (1)")
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - KINDS.keys()
    if unknown or arguments.every < 1:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}" if unknown else "--every is 1 or more")
    logging.disable(logging.CRITICAL)
    failures = 0
    for kind in arguments.kinds or KINDS:
        failures += _try_all(kind, arguments.every)
    print("nothing was lost or doubled" if not failures else f"{failures} went wrong")
    return 1 if failures else 0


def _try_all(kind: str, every: int) -> int:
    """Returns how many went wrong."""
    start, count = time.monotonic(), 0
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="zmqkit-crashes-") as folder:
        for trial in KINDS[kind](Path(folder), every):
            count += 1
            try:
                trial()
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                wrong[told] += 1
                if wrong[told] == 1:
                    notes = getattr(error, "__notes__", [])
                    print("; ".join([told, *notes]), file=sys.stderr, flush=True)
    print(f"{kind}: {count} tried, {wrong.total()} went wrong, in {time.monotonic() - start:.0f} s", flush=True)
    return wrong.total()


if __name__ == "__main__":
    sys.exit(main())
