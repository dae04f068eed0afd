"""Many seeds of a scenario: run them, count what happened, compare runs, and say how to replay what failed.

Other processes are started as ``python -m zmqkit.testing.sweeps module:Class FIRST COUNT`` and answer with one line of
JSON; so seeds run on several cores, and the second run of a seed has another ``PYTHONHASHSEED`` than the first.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from zmqkit.testing.scenario import Failure, Outcome, Scenario, simulate

CHUNK = 1000
"""How many seeds one process runs at most before it answers. To start one costs as much as ten seeds or so."""

FEW = 200
"""In fewer seeds than these a counter may well stay 0."""

HASH_SEEDS = ("1", "2")
"""``PYTHONHASHSEED`` of the first and of the second run, where they are processes of their own."""


class SweepFailed(AssertionError):
    """A seed failed, a counter stayed 0, or two runs of a seed differ. The message is the report."""


@dataclasses.dataclass(slots=True)
class Totals:
    """What became of many seeds.

    Attributes:
        seeds: how many ran.
        counts: the sum of their counters.
        failures: by seed.
        digests: of each trace, by seed.
        differing: seeds whose two runs gave different traces; `compared` is how many ran twice.
        turns, sent, received: how much happened.
        simulated_s, seconds: simulated and real time.
    """

    seeds: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: dict[int, Failure] = dataclasses.field(default_factory=dict)
    digests: dict[int, int] = dataclasses.field(default_factory=dict)
    differing: list[int] = dataclasses.field(default_factory=list)
    compared: int = 0
    turns: int = 0
    sent: int = 0
    received: int = 0
    simulated_s: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Add one seed."""
        self.seeds += 1
        self.counts.update(outcome.counts)
        self.digests[outcome.seed] = outcome.digest
        if outcome.failure is not None:
            self.failures[outcome.seed] = outcome.failure
        self.turns += outcome.turns
        self.sent += outcome.sent
        self.received += outcome.received
        self.simulated_s += outcome.simulated_s

    def merge(self, more: Totals) -> None:
        """Add other seeds."""
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(more, field.name)
            if isinstance(mine, dict):
                mine.update(theirs)
            else:
                setattr(self, field.name, mine + theirs)

    def never(self, scenario: type[Scenario]) -> list[str]:
        """The counters that the scenario expects and that stayed 0."""
        return [name for name in scenario.expects if not self.counts.get(name)]


def run_seeds(scenario: type[Scenario], seeds: Iterable[int], *, failures: int = 1) -> Totals:
    """Run seeds here, one after the other; stop after so many failures."""
    totals = Totals()
    start = time.perf_counter()
    with collected_by_hand() as collect:
        for seed in seeds:
            totals.add(simulate(scenario, seed))
            if len(totals.failures) >= failures:
                break
            collect()
    totals.seconds = time.perf_counter() - start
    return totals


@contextmanager
def collected_by_hand() -> Iterator[Callable[[], object]]:
    """Leave the collector of garbage alone: within a world it finds nothing, and what there was before is no garbage.

    Gives the function that takes away the worlds that have ended. Call it after each: while a world's memory is still
    in the processor's caches that is cheap, and the next one is laid there, too.
    """
    was_on = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def sweep(
    scenario: type[Scenario],
    *,
    first: int = 0,
    seeds: int = 2000,
    twice: int = 200,
    jobs: int = 1,
    replay: Callable[[int], str] | None = None,
    say: Callable[[str], object] = print,
) -> Totals:
    """Run seeds ``first`` to ``first + seeds - 1``, and say what happened.

    Args:
        scenario: the class; with ``jobs`` or ``twice`` it must be importable by its module and name.
        first, seeds: which seeds.
        twice: so many of them run once more, in another process; their traces must be the same.
        jobs: processes to use; 1 stays in this one.
        replay: gives the command that replays a seed; None: this module's own.
        say: takes the report.

    Raises:
        SweepFailed: a seed failed, an expected counter stayed 0 in 200 seeds or more, or two traces differ.
    """
    start = time.perf_counter()
    totals = Totals()
    chunk = max(1, min(CHUNK, -(-seeds // max(1, jobs))))
    spans = [(at, min(chunk, first + seeds - at)) for at in range(first, first + seeds, chunk)]
    again = [(at, min(chunk, first + twice - at)) for at in range(first, first + min(twice, seeds), chunk)]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        second = [pool.submit(_elsewhere, scenario, at, count, HASH_SEEDS[1]) for at, count in again]
        if jobs == 1:
            totals = run_seeds(scenario, range(first, first + seeds))
        else:
            for part in pool.map(lambda span: _elsewhere(scenario, span[0], span[1], HASH_SEEDS[0]), spans):
                totals.merge(part)
        for future in second:
            for seed, digest in future.result().digests.items():
                if seed in totals.digests:
                    totals.compared += 1
                    if totals.digests[seed] != digest:
                        totals.differing.append(seed)
    totals.seconds = time.perf_counter() - start
    say(report(scenario, totals))
    problems = complaints(scenario, totals, replay or (lambda seed: f"{_command(scenario)} {seed}"))
    if problems:
        raise SweepFailed("\n".join(problems))
    return totals


def report(scenario: type[Scenario], totals: Totals) -> str:
    """How often each fault and each branch happened, as a table."""
    lines = [
        f"{scenario.__name__}: {totals.seeds} seeds, {totals.simulated_s / 3600:.1f} simulated hours, "
        f"{totals.received} messages received in {totals.seconds:.1f} s; {totals.compared} seeds run twice",
    ]
    names = sorted({*totals.counts, *scenario.expects})
    width = max(map(len, names), default=0)
    cells = [f"{name:<{width}} {totals.counts.get(name, 0):>10}" for name in names]
    half = (len(cells) + 1) // 2
    lines += ["  " + "   ".join(cells[index::half]) for index in range(half)]
    return "\n".join(lines)


def complaints(scenario: type[Scenario], totals: Totals, replay: Callable[[int], str]) -> list[str]:
    """What is wrong with a sweep; empty when all is well."""
    lines = []
    for seed in sorted(totals.failures):
        failure = totals.failures[seed]
        lines += [
            f"{scenario.__name__}, seed {seed}: {failure.kind} at {failure.at_s:.3f} s: {failure.message}",
            f"  replay it: {replay(seed)}",
        ]
    for seed in totals.differing:
        lines += [f"{scenario.__name__}, seed {seed}: two runs, two traces", f"  replay it: {replay(seed)}"]
    never = totals.never(scenario)
    if never and not totals.failures and totals.seeds >= FEW:
        lines.append(f"{scenario.__name__}: in {totals.seeds} seeds this never happened: {', '.join(never)}")
    return lines


def replayed(scenario: type[Scenario], seed: int, *, lines: int = 200) -> str:
    """Run one seed with a readable trace; returns its last lines and what became of it."""
    outcome = simulate(scenario, seed, text=lines)
    failure = outcome.failure
    end = (
        f"seed {seed}: all is well"
        if failure is None
        else f"{failure.traceback}\nseed {seed}: {failure.kind} at {failure.at_s:.3f} s: {failure.message}"
    )
    return "\n".join([*outcome.text, end, f"trace {outcome.digest:08x}"])


def load(reference: str) -> type[Scenario]:
    """The class that ``module:Class`` names."""
    module, _, name = reference.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, Scenario)):
        raise TypeError(f"{reference} is not a Scenario")
    return found


def _reference(scenario: type[Scenario]) -> str:
    return f"{scenario.__module__}:{scenario.__qualname__}"


def _command(scenario: type[Scenario]) -> str:
    return f"python -m zmqkit.testing.sweeps {_reference(scenario)}"


def _elsewhere(scenario: type[Scenario], first: int, count: int, hash_seed: str) -> Totals:
    """Run seeds in another process."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "zmqkit.testing.sweeps", _reference(scenario), str(first), str(count)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SweepFailed(f"the process for seeds from {first} on failed:\n{done.stderr}")
    fields = json.loads(done.stdout.splitlines()[-1])
    return Totals(
        **{
            **fields,
            "counts": Counter(fields["counts"]),
            "failures": {int(seed): Failure(**failure) for seed, failure in fields["failures"].items()},
            "digests": {int(seed): digest for seed, digest in fields["digests"].items()},
        }
    )


def _main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print("python -m zmqkit.testing.sweeps module:Class SEED           one seed, with its trace", file=sys.stderr)
        print("python -m zmqkit.testing.sweeps module:Class FIRST COUNT    many, as JSON", file=sys.stderr)
        return 2
    scenario = load(arguments[0])
    first = int(arguments[1])
    if len(arguments) == 2:
        print(replayed(scenario, first))
        return 0
    totals = run_seeds(scenario, range(first, first + int(arguments[2])))
    fields = {field.name: getattr(totals, field.name) for field in dataclasses.fields(totals)}
    fields["failures"] = {seed: dataclasses.asdict(failure) for seed, failure in totals.failures.items()}
    print(json.dumps(fields))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
