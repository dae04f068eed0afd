"""Who waits awake, and for how long: over a kernel and a clock of the test's own."""

from __future__ import annotations

import math
import os

import pytest

import zmqkit
from zmqkit.transport import spinning
from zmqkit.transport.spinning import LONE_BYTES, SPIN_SECONDS, VARIABLE, Events, Spinner, spin_seconds

COMES: Events = [(7, 1)]
LOOK = 0.00001
"""What asking the kernel takes."""


class Kernel:
    """Something comes at a time that the test sets; asking and sleeping take time.

    Attributes:
        asked: how often it was asked without sleeping.
        slept: for how long it was to sleep at most, each time.
        yielded: how often others were let run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.comes_at = math.inf
        self.came = 0
        self.asked = 0
        self.yielded = 0
        self.slept: list[float] = []
        monkeypatch.setattr(spinning, "monotonic", lambda: self.now)
        monkeypatch.setattr(os, "sched_yield", self.give_way)

    def give_way(self) -> None:
        self.yielded += 1

    def poll(self, seconds: float) -> Events:
        if seconds == 0:
            self.asked += 1
            self.now += LOOK
        else:
            self.slept.append(seconds)
            self.now = min(self.comes_at, self.now + seconds if seconds > 0 else math.inf)
        return COMES if self.now >= self.comes_at else []

    def wait(self, spinner: Spinner, comes_in: float, seconds: float = -1, came: int = 200) -> Events:
        """One wait, for what comes after so long; so many bytes came before it."""
        self.comes_at = self.now + comes_in
        self.came += came
        self.asked = self.yielded = 0
        self.slept = []
        return spinner.poll(seconds, self.now, self.came)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_who_waited_for_a_short_time_only_does_not_sleep_the_next_time(kernel: Kernel) -> None:
    spinner = Spinner(kernel.poll, 0.0005)
    assert kernel.wait(spinner, 0.0002) == COMES
    assert (kernel.asked, kernel.slept) == (0, [-1])  # nothing is known yet
    assert kernel.wait(spinner, 0.0002) == COMES
    assert kernel.slept == []
    assert 19 <= kernel.asked <= 21
    assert kernel.yielded == kernel.asked - 1, "others run before each next question"


def test_who_spun_in_vain_sleeps_and_sleeps_at_once_the_next_time(kernel: Kernel) -> None:
    spinner = Spinner(kernel.poll, 0.0005)
    kernel.wait(spinner, 0.0002)
    assert kernel.wait(spinner, 3.0) == COMES
    assert 49 <= kernel.asked <= 51
    assert kernel.slept == [-1]
    assert kernel.wait(spinner, 0.0002) == COMES
    assert (kernel.asked, kernel.slept) == (0, [-1])
    kernel.wait(spinner, 0.0002)
    assert kernel.slept == []


def test_nobody_spins_for_longer_than_he_may_wait(kernel: Kernel) -> None:
    spinner = Spinner(kernel.poll, 0.0005)
    kernel.wait(spinner, 0.0002)
    began = kernel.now
    assert kernel.wait(spinner, 3.0, seconds=0.0001) == []
    assert 9 <= kernel.asked <= 12
    assert kernel.now - began <= 0.0001 + 3 * LOOK
    kernel.wait(spinner, 0.0002)
    began = kernel.now
    assert kernel.wait(spinner, 3.0, seconds=0.002) == []
    (slept,) = kernel.slept
    assert 0.0014 < slept < 0.0016, "what is left"
    assert kernel.now - began == pytest.approx(0.002)
    assert kernel.wait(spinner, 3.0, seconds=0) == [], "a question only"


def test_nobody_spins_where_much_comes_at_a_time(kernel: Kernel) -> None:
    spinner = Spinner(kernel.poll, 0.0005)
    kernel.wait(spinner, 0.0002)
    kernel.wait(spinner, 0.0002, came=LONE_BYTES + 1)
    assert (kernel.asked, kernel.slept) == (0, [-1])
    kernel.wait(spinner, 0.0002, came=LONE_BYTES)
    assert kernel.slept == []


def test_who_may_not_spin_always_sleeps(kernel: Kernel) -> None:
    spinner = Spinner(kernel.poll, 0.0)
    for _ in range(3):
        assert kernel.wait(spinner, 0.00001) == COMES
        assert (kernel.asked, kernel.slept) == (0, [-1])


def test_without_a_second_processor_nobody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(spinning, "processors", lambda: 1)
    assert spin_seconds() == 0
    monkeypatch.setattr(spinning, "processors", lambda: 2)
    assert spin_seconds() == SPIN_SECONDS


def test_the_environment_says_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in (("0", 0.0), ("250", 0.00025), (" 50 ", 0.00005)):
        monkeypatch.setenv(VARIABLE, given)
        assert spin_seconds() == seconds
    for wrong in ("-1", "0.5", "much", "1000000", "\u0663"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(zmqkit.UsageError, match=VARIABLE):
            spin_seconds()
    with pytest.raises(zmqkit.UsageError, match=VARIABLE):
        zmqkit.Client("tcp://127.0.0.1:1").open()


def test_calls_are_answered_whether_or_not_anybody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("0", "500", "999999"):
        monkeypatch.setenv(VARIABLE, given)
        server = zmqkit.Server("tcp://127.0.0.1:*")
        server.method(abs)
        with server, zmqkit.Client(server.addresses[0]) as client:
            assert [client.call("abs", -number) for number in range(50)] == list(range(50))
