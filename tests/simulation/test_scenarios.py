"""Every scenario over many seeds: ``ZMQKIT_SEEDS`` says how many, ``ZMQKIT_FIRST`` with which to begin.

On failure it prints the command that replays the seed; always, how often each fault and each branch happened.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.scenarios import SCENARIOS, find, replay
from zmqkit.testing.scenario import simulate
from zmqkit.testing.sweeps import FEW, sweep

FIRST = int(os.environ.get("ZMQKIT_FIRST", "0"))
JOBS = min(2, os.cpu_count() or 1)
MANY = 1000
"""Fewer seeds than these are run here: to start a process costs as much as ten of them."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_seed_is_safe_and_converges_and_repeats_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = SCENARIOS[name]
    seeds = int(os.environ.get("ZMQKIT_SEEDS", entry.seeds))

    def say(report: str) -> None:
        with capsys.disabled():
            print(f"\n{report}")

    totals = sweep(
        find(name), first=FIRST, seeds=seeds, twice=entry.twice, jobs=JOBS if seeds >= MANY else 1, say=say,
        replay=lambda seed: replay(name, seed),
    )  # fmt: skip
    assert totals.seeds == seeds
    assert totals.compared == min(entry.twice, seeds)
    if seeds >= entry.seeds:
        assert not totals.never(find(name))
    if name == "pubsub" and seeds >= FEW:
        assert totals.counts["gaps filled"] >= seeds // 20, "gaps that are filled must be many"


def test_the_promised_numbers_of_seeds_are_run():
    real = [SCENARIOS[name] for name in ("sessions", "pipeline", "chain")]
    assert sum(entry.seeds for entry in real) >= 2000
    assert sum(entry.twice for entry in real) >= 200
    for name in ("reqrep", "pubsub"):
        assert SCENARIOS[name].seeds >= 2000
        assert SCENARIOS[name].twice >= 50


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_few_seeds_are_fine(name: str) -> None:
    for seed in range(3):
        assert simulate(find(name), seed).failure is None, replay(name, seed)
