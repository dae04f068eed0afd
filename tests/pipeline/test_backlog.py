"""The backlog against a naive model: every message has one state, and comes out when, and as often as, it should."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.patterns.pipeline import backlog as module
from zmqkit.patterns.pipeline.backlog import Backlog
from zmqkit.patterns.pipeline.rows import MESSAGES, Row
from zmqkit.patterns.pipeline.runs import runs
from zmqkit.protocol import core

bounded = settings(max_examples=150, deadline=None, derandomize=True)

WINDOW = 12
WINDOW_BYTES = 40


class Model:
    """The backlog under test, a journal that is a dict, and for each sequence what became of it."""

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.backlog = Backlog(durable=durable)
        self.disk: dict[int, Row] = {}
        self.next = 1
        self.state: dict[int, str] = {}
        self.due: dict[int, float] = {}
        self.alone: dict[int, bool] = {}
        self.out: list[tuple[Row, int]] = []
        self.now = 0.0
        self.reopened_at: int | None = None

    # ---- what may happen --------------------------------------------------------------

    def store(self, count: int, size: int, gap: int) -> None:
        self.next += gap
        row = Row(self.next, "o", 0, "raw", [size] * count, b"." * size * count, {}, {})
        self.next += count
        if self.durable:
            self.disk[row.key] = row
        self.backlog.stored(row)
        self.state.update((row.key + index, "fresh") for index in range(count))

    def take(self, most: int, most_bytes: int) -> None:
        run = self.backlog.take(most, most_bytes)
        ready = sorted(sequence for sequence, state in self.state.items() if state in ("fresh", "again"))
        if run is None:
            assert self.backlog.ready == 0
            assert self.durable or not ready
            return
        assert 1 <= run.count <= most
        assert run.index + run.count <= run.row.count
        assert run.count == 1 or sum(run.row.lengths[run.index : run.index + run.count]) <= most_bytes
        taken = [run.row.key + run.index + at for at in range(run.count)]
        states = {self.state[sequence] for sequence in taken}
        assert len(states) == 1
        assert states <= {"fresh", "again"}, "it is out already, or settled, or waits"
        again = [sequence for sequence in ready if self.state[sequence] == "again" and self.loaded(sequence)]
        first = again[0] if again else ready[0]
        assert taken[0] == first, "tried again first, then in order"
        assert run.alone == self.alone.get(taken[0], False)
        assert not run.alone or run.count == 1
        for sequence in taken:
            self.state[sequence] = "out"
            self.out.append((run.row, sequence - run.row.key))

    def put_back(self, at: int, alone: bool) -> None:
        if self.out:
            row, index = self.out.pop(at % len(self.out))
            self.backlog.again(row, 1 << index, alone=alone)
            self.state[row.key + index] = "again"
            self.alone[row.key + index] = alone

    def delay(self, at: int, seconds: float) -> None:
        if self.out:
            row, index = self.out.pop(at % len(self.out))
            self.backlog.later(row, index, self.now + seconds)
            self.state[row.key + index] = "delayed"
            self.alone[row.key + index] = False
            self.due[row.key + index] = self.now + seconds

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.backlog.fall_due(self.now)
        for sequence, due in list(self.due.items()):
            if due <= self.now:
                del self.due[sequence]
                self.state[sequence] = "again"
        assert self.backlog.next_due() == min(self.due.values(), default=None)

    def settle(self, at: int) -> None:
        if self.out:
            row, index = self.out.pop(at % len(self.out))
            row.done |= 1 << index
            del self.state[row.key + index]
            if row.done == row.all:
                self.backlog.forget(row)
                self.disk.pop(row.key, None)

    def load(self) -> None:
        read = self.backlog.wanted()
        assert self.backlog.wanted() is None or read is None, "asked for twice"
        while read is not None:
            assert self.durable
            keys = [key for key in sorted(self.disk) if read.first <= key <= read.last]
            if read.log == MESSAGES:
                rows: list[core.Row] = []
                size = 0
                for key in keys:
                    if size >= 30:
                        break
                    rows.append(core.Row(key, self.disk[key].count, self.disk[key].pack()))
                    size += len(self.disk[key].blob)
            else:
                rows = [core.Row(key, 0, self.disk[key].pack_marks()[1]) for key in keys if self.disk[key].done]
            read = self.backlog.loaded(read, rows)

    def reopen(self) -> None:
        """The process starts again: what is not settled waits once more, what was done of rows is marked."""
        if not self.durable:
            return
        self.backlog = Backlog(durable=True)
        self.out.clear()
        self.due.clear()
        left = sum(row.count - row.done.bit_count() for row in self.disk.values())
        if self.disk:
            self.backlog.found(min(self.disk), max(self.disk), left)
        for sequence in self.state:
            row = self.disk[max(key for key in self.disk if key <= sequence)]
            self.state[sequence] = "again" if row.done else "fresh"
            self.alone[sequence] = False

    # ---- what must be so --------------------------------------------------------------

    def loaded(self, sequence: int) -> bool:
        return not self.backlog.on_disk(sequence)

    def check(self) -> None:
        waiting = sum(state in ("fresh", "again") for state in self.state.values())
        assert self.backlog.waiting == waiting
        assert self.backlog.delayed == len(self.due)
        ready = [sequence for sequence, state in self.state.items() if state in ("fresh", "again")]
        assert self.backlog.ready == sum(map(self.loaded, ready))
        for sequence in self.state:
            row = self.backlog.row_of(sequence)
            assert self.backlog.on_disk(sequence) or (row is not None and row.key <= sequence <= row.last)
        for sequence in range(1, self.next):
            row = self.backlog.row_of(sequence)
            assert row is None or row.key <= sequence <= row.last
        lowest = self.backlog.lowest()
        if self.state:
            assert lowest is not None
            assert lowest <= min(self.state)


acts = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "take", "take", "put_back", "delay", "wait", "settle", "settle", "reopen"]),
        st.integers(1, 7),
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=60,
)


@pytest.mark.parametrize("durable", [True, False])
@bounded
@given(acts=acts)
def test_the_backlog_does_what_a_naive_model_does(durable: bool, acts: list[tuple[str, int, int, bool]]) -> None:
    before = module.WINDOW_MESSAGES, module.WINDOW_BYTES
    module.WINDOW_MESSAGES, module.WINDOW_BYTES = WINDOW, WINDOW_BYTES  # type: ignore[misc]
    try:
        model = Model(durable)
        for act, one, two, flag in acts:
            if act == "store":
                model.store(one, two, gap=5 if flag else 0)
            elif act == "take":
                model.take(one, two * 4 + 1)
            elif act == "put_back":
                model.put_back(two, flag)
            elif act == "delay":
                model.delay(two, float(one))
            elif act == "wait":
                model.wait(float(one))
            elif act == "settle":
                for _ in range(one):
                    model.settle(two)
            elif flag and one == 7:
                model.reopen()
            model.load()
            model.check()
        for _ in range(1000):
            model.wait(10.0)
            model.load()
            model.take(100, 1000)
            model.check()
            while model.out:
                model.settle(0)
            if not model.state:
                break
        assert not model.state, "something never came out"
        assert model.backlog.waiting == model.backlog.delayed == 0
        model.load()
        assert model.backlog.lowest() is None
    finally:
        module.WINDOW_MESSAGES, module.WINDOW_BYTES = before  # type: ignore[misc]


@bounded
@given(st.integers(0, 1 << 70))
def test_runs_of_bits_are_those_that_are_set(bits: int) -> None:
    found = list(runs(bits))
    assert sum(((1 << count) - 1) << index for index, count in found) == bits
    ends = [(index, index + count) for index, count in found]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))


def test_memory_holds_a_window_of_what_waits_on_disk() -> None:
    backlog = Backlog(durable=True)
    for key in range(1, 200_001, 100):
        backlog.stored(Row(key, "o", 0, "raw", [10] * 100, b"." * 1000, {}, {}))
    assert backlog.waiting == 200_000
    assert len(backlog._rows) * 100 <= module.WINDOW_MESSAGES + 100
    assert backlog.on_disk(200_000)
    assert not backlog.on_disk(1)
