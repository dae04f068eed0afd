"""Packs that a pusher's core accepts together: all of them or none, told once, when all are stored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.protocol.pair import local
from zmqkit.errors import JournalError
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.lanes import LANES
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import MESSAGES, Pack, Plan, Row

NOW = 100.0


def core(**more: Any) -> PusherCore:
    settings = PusherSettings(origin="o", epoch=b"e" * 16, **{"durable": True, **more})
    return PusherCore(local("pusher", role="push", accepts=frozenset({"pull"})), settings, random.Random(1))


def pack(*bodies: bytes, plan: Plan | None = None, **more: Any) -> Pack:
    return Pack("raw", 1, list(map(len, bodies)), b"".join(bodies), plan=plan, **more)


def store(pusher: PusherCore) -> list[tuple[str, int, int]]:
    """End the turn, and have the journal take it. Returns what was written: log, key, weight."""
    pusher.end_turn(NOW)
    writes, pusher.out.writes = pusher.out.writes, []
    if writes:
        pusher.stored(pusher.out.written, NOW)
        pusher.end_turn(NOW)
    return [(each.log, each.key, each.weight) for each in writes]


def told(pusher: PusherCore) -> Sequence[tuple[Any, Any]]:
    replies, pusher.out.replies = pusher.out.replies, []
    return replies


def test_each_pack_is_a_row_of_one_commit_and_the_ticket_is_told_once() -> None:
    pusher = core()
    pusher.append_all([pack(b"a", b"b"), pack(b"c", plan=Plan(priority=1)), pack(b"d")], 10, "ticket", NOW)
    pusher.end_turn(NOW)
    assert told(pusher) == []
    assert store(pusher) == [(MESSAGES, 10, 2), (MESSAGES, 12, 1), (LANES, 12, 1), (MESSAGES, 13, 1)]
    assert told(pusher) == [("ticket", None)]
    assert (pusher.unsettled, pusher.stored_up_to, pusher.accepted_up_to) == (4, 13, 13)
    assert pusher.counters["sent"] == 4


def test_times_begin_when_they_are_handed_over() -> None:
    pusher = core()
    pusher.append_all([pack(b"a", plan=Plan(delay=5.0)), pack(b"b", plan=Plan(ttl=7.0))], 10, None, NOW)
    pusher.end_turn(NOW)
    rows = [Row.unpack(each.key, each.value or b"") for each in pusher.out.writes if each.log == MESSAGES]
    assert [(row.due // 1_000_000, row.expires // 1_000_000) for row in rows] == [(105, 0), (0, 107)]


def test_they_wait_until_there_is_room_for_all() -> None:
    pusher = core(max_waiting=4)
    pusher.append(pack(b"1", b"2"), 1, None, True, None, NOW)
    pusher.append_all([pack(b"3", b"4"), pack(b"5", plan=Plan(priority=1))], 3, "ticket", NOW)
    pusher.append(pack(b"6"), 6, "behind", True, None, NOW)
    assert store(pusher) == [(MESSAGES, 1, 2)]
    assert (told(pusher), pusher.unsettled) == ([], 2)
    row = pusher.backlog.row_of(1)
    assert row is not None
    pusher._done(row, 0b1, "acked", "")
    assert (MESSAGES, 3, 2) not in store(pusher), "one has settled; what has room now is told of with the next turn"
    assert [each[:2] for each in store(pusher)] == [(MESSAGES, 3), (MESSAGES, 5), (LANES, 5)]
    assert told(pusher) == [("ticket", None)]


def test_without_a_journal_their_bytes_count_together_too() -> None:
    pusher = core(durable=False, limits=Limits(queued_bytes=10, queued_messages=100))
    pusher.append(pack(b"12345"), 1, None, True, None, NOW)
    pusher.append_all([pack(b"123"), pack(b"456", plan=Plan(priority=1))], 2, "ticket", NOW)
    pusher.append(pack(b"x"), 4, "refused", False, None, NOW)
    pusher.end_turn(NOW)
    assert pusher.unsettled == 1
    ((ticket, error),) = told(pusher)
    assert ticket == "refused"
    assert "no room" in str(error)


def test_who_gives_up_takes_all_of_them_back() -> None:
    pusher = core(max_waiting=1)
    pusher.append(pack(b"1"), 1, None, True, None, NOW)
    pusher.append_all([pack(b"2", b"3"), pack(b"4", plan=Plan(priority=1))], 2, "ticket", NOW)
    store(pusher)
    pusher.withdraw("ticket", "answer", NOW)
    assert told(pusher) == [("answer", True)]
    assert (pusher.accepted_up_to, pusher.stored_bytes, pusher.counters["sends_refused"]) == (4, 4, 3)
    assert store(pusher) == []


def test_a_commit_that_fails_stores_none_of_them_and_says_so_once() -> None:
    pusher = core()
    pusher.append_all([pack(b"a"), pack(b"b", plan=Plan(priority=1))], 10, "ticket", NOW)
    pusher.end_turn(NOW)
    error = JournalError("no")
    pusher.store_failed(pusher.out.written, error, NOW)
    assert told(pusher) == [("ticket", error)]
    assert pusher.unsettled == 0


def test_the_ticket_waits_for_all_also_where_the_last_were_sent_before() -> None:
    pusher = core()
    once: dict[str, Any] = {"ids": {0: "one"}, "plan": Plan(priority=1, once=True)}
    pusher.append(pack(b"1", **once), 1, "first", True, None, NOW)
    store(pusher)
    assert told(pusher) == [("first", None)]
    pusher.append_all([pack(b"2"), pack(b"again", **once)], 2, "ticket", NOW)
    pusher.end_turn(NOW)
    assert told(pusher) == []
    store(pusher)
    assert told(pusher) == [("ticket", None)]
    assert (pusher.unsettled, pusher.stored_up_to, pusher.counters["duplicates"]) == (2, 3, 1)
    pusher.append_all([pack(b"again", **once), pack(b"again", **once)], 4, "none of them", NOW)
    assert store(pusher) == []
    assert told(pusher) == [("none of them", None)]
    assert pusher.stored_up_to == 5
