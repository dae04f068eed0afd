"""Named deadlines in one heap, against a dict that is searched."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zmqkit.protocol.timers import Timers

keys = st.integers(0, 5)
times = st.integers(0, 30).map(float)
acts = st.lists(
    st.tuples(st.just("set"), keys, times)
    | st.tuples(st.just("sooner"), keys, times)
    | st.tuples(st.just("cancel"), keys, times)
    | st.tuples(st.just("pop"), keys, times),
    max_size=150,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(acts)
def test_timers_do_what_a_searched_dict_does(acts: list[tuple[str, int, float]]) -> None:
    timers = Timers()
    naive: dict[int, float] = {}
    for act, key, when in acts:
        if act == "set":
            timers.set(key, when)
            naive[key] = when
        elif act == "sooner":
            timers.sooner(key, when)
            naive[key] = min(naive.get(key, when), when)
        elif act == "cancel":
            timers.cancel(key)
            naive.pop(key, None)
        else:
            popped = timers.pop(when)
            due = {each for each, at in naive.items() if at <= when}
            if popped is None:
                assert not due
            else:
                assert popped in due
                assert isinstance(popped, int)
                assert naive[popped] == min(naive.values())
                del naive[popped]
        assert timers.next() == min(naive.values(), default=None)
        assert len(timers) == len(naive)
        assert all((each in timers) == (each in naive) for each in range(6))
        assert all(timers.due(each) == naive.get(each) for each in range(6))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(times, min_size=1, max_size=50))
def test_timers_come_in_order_and_first_set_first_where_equal(whens: list[float]) -> None:
    timers = Timers()
    for number, when in enumerate(whens):
        timers.set(number, when)
    popped = []
    while (key := timers.pop(100.0)) is not None:
        popped.append(key)
    assert popped == [number for number, _ in sorted(enumerate(whens), key=lambda each: (each[1], each[0]))]


def test_nothing_comes_before_it_is_due() -> None:
    timers = Timers()
    timers.set("a", 2.0)
    assert timers.pop(1.999) is None
    assert timers.pop(2.0) == "a"
    assert timers.pop(9.0) is None
    assert timers.next() is None


def test_a_key_that_is_moved_for_ever_fills_no_memory() -> None:
    timers = Timers()
    timers.set("rock", 5.0)
    for number in range(10_000):
        timers.set("rolling", 1e6 - number)
    assert len(timers.heap) < 100
    assert timers.pop(10.0) == "rock"
