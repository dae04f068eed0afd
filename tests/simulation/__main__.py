"""The command line of the simulations.

python -m tests.simulation                            every scenario, 2,000 seeds each
python -m tests.simulation --scenario S --seed N      one seed, with a readable trace
python -m tests.simulation --mutants                  plant bugs; each must be caught, by whichever seed comes first
python -m tests.simulation --mutants --remember       ... and the tests begin with these seeds from now on
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.simulation import mutants, scenarios
from zmqkit.testing.sweeps import SweepFailed, replayed, sweep


def main() -> int:
    """Returns the exit status: 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulated networks, seed by seed.")
    parser.add_argument("--scenario", choices=sorted(scenarios.SCENARIOS), help="only this one")
    parser.add_argument("--seed", type=int, help="replay one seed, with a readable trace")
    parser.add_argument("--lines", type=int, default=200, help="how much of the trace to show (200)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds (2000)")
    parser.add_argument("--twice", type=int, default=200, help="how many of them run twice, to compare traces (200)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes to use")
    parser.add_argument("--mutants", action="store_true", help="plant bugs, and see that each is caught")
    parser.add_argument("--remember", action="store_true", help="with --mutants: the tests begin with these seeds")
    chosen = parser.parse_args()
    names = [chosen.scenario] if chosen.scenario else list(scenarios.SCENARIOS)
    if chosen.mutants:
        return _hunt_all(names, chosen.first, chosen.seeds, chosen.jobs, keep=chosen.remember)
    if chosen.seed is not None:
        if not chosen.scenario:
            parser.error("--seed needs --scenario")
        print(replayed(scenarios.find(chosen.scenario), chosen.seed, lines=chosen.lines))
        return 0
    status = 0
    for name in names:
        try:
            sweep(
                scenarios.find(name),
                first=chosen.first,
                seeds=chosen.seeds,
                twice=chosen.twice,
                jobs=chosen.jobs,
                replay=lambda seed, name=name: scenarios.replay(name, seed),  # type: ignore[misc]
            )
        except SweepFailed as failed:
            print(f"FAILED\n{failed}", file=sys.stderr)
            status = 1
    return status


def _hunt_all(names: list[str], first: int, seeds: int, jobs: int, *, keep: bool) -> int:
    wanted = [number for number, mutant in enumerate(mutants.all_mutants()) if mutant.scenario in names]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        hunts = [pool.submit(mutants.hunt_by_number, number, first, seeds) for number in wanted]
        caught = [hunt.result() for hunt in hunts]
    print(mutants.table(caught))
    if keep:
        mutants.remember(caught)
    survived = [each.name for each in caught if each.seed is None]
    if survived:
        print(f"FAILED: {len(survived)} of {len(caught)} planted bugs survived {seeds} seeds", file=sys.stderr)
        return 1
    print(f"{len(caught)} planted bugs, all caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
