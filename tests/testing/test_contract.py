"""The checks of the contract see what a driver would suffer from."""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Any

import pytest

from tests.testing.recorder import Recorder
from zmqkit.protocol.timers import Timers
from zmqkit.testing.contract import ContractBroken, check_deadline, check_purity, fingerprint


class LazyHeap(Recorder):
    """Prunes when it is asked: the trap that this check is for."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = [(1.0, "gone"), (2.0, "here")]
        self.live = {"here"}

    def next_deadline(self) -> float | None:
        while self.heap and self.heap[0][1] not in self.live:
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None


class Creeping(Recorder):
    asked = 0

    def next_deadline(self) -> float | None:
        self.asked += 1
        return float(self.asked) + 100


def test_a_deadline_that_prunes_a_heap_is_impure():
    with pytest.raises(ContractBroken, match="changed"):
        check_purity(LazyHeap())


def test_a_deadline_that_moves_when_asked_is_named():
    with pytest.raises(ContractBroken, match="asking must change nothing"):
        check_deadline(Creeping(), 0.0)


@pytest.mark.parametrize("due", [4.0, 5.0])
def test_a_deadline_that_is_not_later_than_now_is_named(due: float):
    core = Recorder()
    core.deadline = due
    with pytest.raises(ContractBroken, match="spin"):
        check_deadline(core, 5.0)


def test_a_well_behaved_core_passes():
    core = Recorder()
    check_purity(core)
    check_deadline(core, 0.0)
    core.deadline = 5.1
    check_deadline(core, 5.0)


def test_a_fingerprint_sees_into_slots_containers_and_generators():
    timers = Timers()
    rng = random.Random(1)
    box: list[Any] = [timers, {"a": deque([1, 2])}, {3, 4}, rng]
    seen = {fingerprint(box)}
    assert fingerprint(box) in seen, "looking twice gives the same"
    timers.set("x", 1.0)
    seen.add(fingerprint(box))
    box[1]["a"].append(3)
    seen.add(fingerprint(box))
    rng.random()
    seen.add(fingerprint(box))
    box[2].add(5)
    seen.add(fingerprint(box))
    assert len(seen) == 5


def test_a_fingerprint_survives_circles():
    circle: list[object] = []
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)
