"""The reply window alone: its bounds, tombstones, evicted floors, and what floods leave of it."""

from __future__ import annotations

import sys

import pytest

from zmqkit.options import Window
from zmqkit.patterns.reqrep import calls, window
from zmqkit.patterns.reqrep.calls import Answer
from zmqkit.patterns.reqrep.window import DONE, DROPPED, GONE, OVERHEAD, RUNNING, Client, Entry, ReplyWindow


class Written:
    """A ledger that only keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def forget(self, entry: Entry, *, soon: bool) -> None:
        self.told.append(("forget", entry.number))

    def bury(self, entry: Entry) -> None:
        self.told.append(("bury", entry.number))

    def floor(self, client: Client) -> None:
        client.row = 99
        self.told.append(("floor", client.evicted))

    def forget_floor(self, row: int) -> None:
        self.told.append(("forget floor", row))


def make(**bounds: float) -> tuple[ReplyWindow, Written]:
    written = Written()
    return ReplyWindow(Window(**bounds), written, {}), written  # type: ignore[arg-type]


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def done(found: ReplyWindow, client: Client, number: int, size: int = 10, *, now: float = 0.0, id: str = "") -> Entry:
    entry = Entry(client, number, id, "add", DONE)
    client.entries[number] = entry
    if id:
        found.ids[id] = entry
    entry.answer = Answer(calls.RESULT, b"x" * size)
    found.keep(entry, now)
    return entry


@pytest.mark.parametrize("bounds", [{"seconds": 0}, {"count": 0}, {"size_bytes": 0}, {"count": 1.5}, {"seconds": -1}])
def test_bounds_are_checked(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds))):
        Window(**bounds)  # type: ignore[arg-type]


def test_the_oldest_is_evicted_by_count_and_raises_its_clients_floor() -> None:
    found, written = make(count=2)
    client = found.client(key(1))
    found.came(client)
    entries = [done(found, client, number) for number in (5, 3, 7)]
    assert entries[0].state == GONE
    assert client.evicted == 5
    assert client.entries.keys() == {3, 7}
    assert found.count == 2
    assert written.told == []  # it had no row


def test_what_has_a_row_leaves_a_floor_before_its_row_goes() -> None:
    found, written = make(count=1)
    client = found.client(key(1))
    found.came(client)
    done(found, client, 1).key = 17
    done(found, client, 2)
    assert written.told == [("floor", 1), ("forget", 1)]


def test_entries_grow_old() -> None:
    found, _ = make(seconds=10.0)
    client = found.client(key(1))
    found.came(client)
    for at in range(20):
        done(found, client, at + 1, now=float(at))
    found.sweep(15.0)
    assert min(client.entries) == 7
    assert client.evicted == 6
    due = found.next_sweep()
    assert due is not None
    assert due > 16.0
    found.sweep(due)
    assert found.next_sweep() is None or found.next_sweep() > due  # type: ignore[operator]
    found.sweep(100.0)
    assert (found.count, found.size, found.next_sweep()) == (0, 0, None)


def test_large_replies_go_first_and_leave_tombstones() -> None:
    found, written = make(size_bytes=100_000)
    client = found.client(key(1))
    found.came(client)
    small = [done(found, client, number, 1000) for number in range(1, 11)]
    large = [done(found, client, number, 40_000) for number in range(11, 15)]
    assert [each.answer is DROPPED for each in large] == [True, True, False, False]
    assert not any(each.answer is DROPPED for each in small)
    assert client.evicted == 0
    assert found.count == 14
    assert found.size <= 100_000
    large[3].key = 5
    done(found, client, 99, 99_000)
    assert ("bury", 14) in written.told
    assert found.size == sum(each.size for each in client.entries.values())


def test_a_reply_larger_than_the_window_is_a_tombstone_at_once() -> None:
    found, _ = make(size_bytes=50_000)
    client = found.client(key(1))
    found.came(client)
    entry = done(found, client, 1, 60_000)
    assert (entry.answer, entry.size, found.size) == (DROPPED, OVERHEAD, OVERHEAD)


def test_small_replies_are_evicted_when_no_large_one_is_left() -> None:
    found, _ = make(size_bytes=10_000)
    client = found.client(key(1))
    found.came(client)
    for number in range(1, 101):
        done(found, client, number, 936)
    assert found.count == 10
    assert found.size == 10_000
    assert client.evicted == 90


def test_a_floor_outlives_its_clients_entries_and_sessions() -> None:
    found, _ = make(count=1)
    client = found.client(key(1))
    found.came(client)
    done(found, client, 8)
    done(found, client, 9)
    found.drop(client.entries[9])
    found.went(client, for_good=False)
    assert not found.clients
    assert found.client(key(1)).evicted == 8


def test_a_client_that_never_comes_back_leaves_nothing_but_what_has_an_id() -> None:
    found, _ = make(count=10)
    client = found.client(key(1))
    found.came(client)
    done(found, client, 1)
    done(found, client, 2, id="order-1")
    found.went(client, for_good=True)
    assert client.entries.keys() == {2}
    found.drop(client.entries[2])
    assert not found.clients
    assert not found.ids


def test_only_so_many_clients_that_are_away_keep_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "MAX_CLIENTS", 10)
    monkeypatch.setattr(window, "MAX_FLOORS", 20)
    found, written = make()
    for number in range(1, 101):
        client = found.client(key(number))
        found.came(client)
        done(found, client, 4).key = number
        running = Entry(client, 3, "", "add", RUNNING)
        client.entries[3] = running
        found.went(client, for_good=False)
        if number % 2:
            found.drop(running)
    assert len(found._away) <= 11
    assert len(found._floors) <= 20
    assert ("floor", 4) in written.told
    known = found.client(key(99))
    assert known.entries.keys() == {4}
    assert found.client(b"never seen------").doubtful  # for all we know
    assert found.client(key(89)).evicted == 4
    assert found.client(key(1)).evicted == 0


def test_a_flood_leaves_memory_within_bounds() -> None:
    found, _ = make(count=1000, size_bytes=1 << 20)
    for number in range(50_000):
        client = found.client(key(number % 500))
        if not client.callers:
            found.came(client)
        entry = done(found, client, number + 1, number % 3000, id=f"id {number}" if number % 7 == 0 else "")
        if number % 3 == 0:
            found.drop(entry)
        found.sweep(0.0)
    assert found.count <= 1000
    assert found.size <= 1 << 20
    assert len(found._order) <= 3001
    assert len(found._large) <= 2000
    assert len(found.ids) <= 1000
    assert sum(len(client.entries) for client in found.clients.values()) == found.count
    assert sys.getsizeof(found._order) < 100_000
