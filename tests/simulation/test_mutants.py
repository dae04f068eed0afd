"""Each planted bug is caught, or the simulator proves nothing. The run shows by which seed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from tests.simulation.mutants import SEEDS, Caught, all_mutants, hunt_by_number, table
from tests.simulation.scenarios import replay

BUGS = all_mutants()


@pytest.fixture(scope="module")
def hunts() -> Iterator[list[Future[Caught]]]:
    """The hunts for all bugs, in processes of their own."""
    jobs = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield [pool.submit(hunt_by_number, number, 0, SEEDS) for number in range(len(BUGS))]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(BUGS)), ids=[f"{bug.scenario}: {bug.name}" for bug in BUGS])
def test_a_mutant_is_caught(number: int, hunts: list[Future[Caught]], capsys: pytest.CaptureFixture[str]) -> None:
    caught = hunts[number].result()
    with capsys.disabled():
        print(f"\n{table([caught])}", end="")
    bug = BUGS[number]
    assert caught.seed is not None, f"{SEEDS} seeds, such as {replay(bug.scenario, 0)!r}, did not notice: {bug.name}"
