"""A pusher's core that is made anew over the journal of the one before, and a puller's that stays; virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.protocol.cores import CorePair, Host
from zmqkit.errors import DecodeError, LeaseLost
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.kept import KEPT
from zmqkit.patterns.pipeline.puller import HELD_EVERY, Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.returning import GIVEN, MAX_EPOCHS, pack_given, unpack_given
from zmqkit.patterns.pipeline.rows import Pack, Plan
from zmqkit.protocol.core import Row
from zmqkit.protocol.local import Local

JOURNAL = b"j" * 16
BOUND = 3.0
"""Of the heartbeat of all hosts here."""


class Pipeline:
    """A puller, and a pusher that is killed and opened anew; the puller dials, or the pushers do."""

    def __init__(self, *, says: bool = True, prefetch: int = 100, dial: bool = False, **puller: Any) -> None:
        self.dial = dial
        self.lives = 0
        self.says = says
        self.next = 1
        self.puller = Host(
            "puller", lambda said, rng: PullerCore(said, rng, **puller), role="pull", accepts=frozenset({"push"}),
            credit_messages=prefetch,
        )  # fmt: skip
        self.pusher = self._made({})
        self.pair = CorePair(self.pusher, self.puller) if dial else CorePair(self.puller, self.pusher)

    def _made(self, rows: dict[str, dict[int, tuple[int, bytes]]]) -> Host:
        self.lives += 1
        epoch = bytes([self.lives]) * 16
        about = {"epoch": epoch, "journal": JOURNAL} if self.says else {"epoch": epoch}

        def make(said: Local, rng: random.Random) -> PusherCore:
            return PusherCore(said, PusherSettings(origin=f"o{self.lives}", epoch=epoch, durable=True), rng)

        host = Host(f"pusher{self.lives}", make, role="push", accepts=frozenset({"pull"}), about=about)
        host.rows = rows
        kept = {name: [Row(key, *log[key]) for key in sorted(log)] for name, log in rows.items()}
        messages, marks = kept.get("messages", []), kept.get("marks", [])
        left = sum(row.weight for row in messages) - sum(row.weight for row in marks)
        if messages:
            host.core.found(messages[0].key, messages[-1].key, left)
        host.core.restore(kept.get("lanes", []), marks, kept.get("ids", []), kept.get("state", []))
        self.next = max(self.next, 1 + 10_000 * self.lives)
        host.core.opened_at(self.next)
        return host

    def kill(self) -> None:
        """The pusher dies, and its connection with it."""
        self.pair.disconnect()

    def forget(self) -> None:
        """The puller finds that it is dead, and forgets what it held."""
        self.pair.advance(BOUND + 0.1)
        self.puller.core._keeping.close()

    def open(self) -> None:
        """The same journal is opened anew."""
        self.pusher = self._made(self.pusher.rows)
        if self.dial:
            self.pair.c = self.pusher
        else:
            self.pair.b = self.pusher
        self.pair.turn()

    def restart(self) -> None:
        self.kill()
        self.open()
        self.pair.connect()
        self.pair.flow()

    def send(self, *bodies: bytes, key: str | None = None) -> None:
        for body in bodies:
            plan = None if key is None else Plan({0: key})
            pack = Pack("raw", 0, [len(body)], body, plan=plan)
            self.pusher.core.append(pack, self.next, None, True, None, self.pair.now)
            self.next += 1
        self.pair.flow()

    def send_row(self, *bodies: bytes, keys: dict[int, str] | None = None) -> None:
        pack = Pack("raw", 0, list(map(len, bodies)), b"".join(bodies), plan=Plan(keys) if keys else None)
        self.pusher.core.append(pack, self.next, None, True, None, self.pair.now)
        self.next += len(bodies)
        self.pair.flow()

    def begin(self, count: int = 1 << 30) -> list[tuple[Parcel, int]]:
        """Take so many jobs that came; the others wait untouched."""
        items, self.puller.items = self.puller.items, []
        found: list[tuple[Parcel, int]] = []
        for parcel in items:
            while len(found) < count and (index := next(parcel.claims, None)) is not None:
                found.append((parcel, index))
        return found

    def ack(self, parcel: Parcel, index: int) -> None:
        parcel.acked.append(index)
        self.puller.core.collect(parcel, self.pair.now)

    def say(self, message: Any) -> None:
        """The puller says something of a stranger's."""
        (session,) = self.puller.core.sessions
        self.puller.core.sessions.send(session, message.pack(), 0, self.pair.now)
        self.pair.flow()

    def answer(self, message: Any) -> None:
        """The pusher does."""
        (session,) = self.pusher.core.sessions
        self.pusher.core.sessions.send(session, message.pack(), 0, self.pair.now)
        self.pair.flow()

    def given(self) -> tuple[int, int, list[bytes]]:
        return unpack_given(self.pusher.rows["state"][GIVEN][1])


def test_what_is_in_hand_goes_on_and_what_nobody_began_comes_again_at_once() -> None:
    pipeline = Pipeline()
    pipeline.send_row(b"a", b"b", b"c", b"d")
    jobs = pipeline.begin(2)
    pipeline.restart()
    assert (pipeline.pusher.core.counters["presented"], pipeline.pusher.core.counters["taken"]) == (4, 4)
    again = pipeline.begin()
    assert [parcel.delivery.blob for parcel, _ in again][:1] == [b"cd"]
    assert pipeline.puller.core.counters["went_on"] == 2
    assert pipeline.puller.core.held == 4
    for job in (*jobs, *again):
        pipeline.ack(*job)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 4
    assert not pipeline.pusher.rows["messages"]


def test_a_pusher_that_dials_again_before_it_was_given_up_goes_on_at_once() -> None:
    pipeline = Pipeline(dial=True)
    pipeline.send(b"a")
    (job,) = pipeline.begin()
    pipeline.restart()
    pipeline.ack(*job)
    pipeline.pair.flow()
    assert (pipeline.pusher.core.counters["taken"], pipeline.pusher.core.acked) == (1, 1)
    assert len(pipeline.puller.core.sessions) == 1


def test_what_goes_on_takes_no_credit_and_gives_none_back() -> None:
    pipeline = Pipeline(prefetch=5)
    for _ in range(4):
        pipeline.send_row(*[b"x"] * 5)
        jobs = pipeline.begin()
        assert len(jobs) == 5
        pipeline.restart()
        (session,) = pipeline.pusher.core.sessions
        assert session.room_messages == 5
        for job in jobs:
            pipeline.ack(*job)
        pipeline.pair.flow()
        assert session.room_messages == 5
        assert pipeline.puller.core.held == pipeline.pusher.core.unsettled == 0


def test_a_settle_that_was_not_heard_is_told_to_the_next_opening() -> None:
    pipeline = Pipeline()
    pipeline.send(b"acked", b"failed", b"dead")
    acked, failed, dead = pipeline.begin()
    pipeline.pair.disconnect()  # it is dead, and the puller does not know
    pipeline.ack(*acked)
    pipeline.puller.core.settle(*failed, wire.NACK, 0.0, "why", "", pipeline.pair.now)
    pipeline.puller.core.settle(*dead, wire.REJECT, None, "never", "", pipeline.pair.now)
    pipeline.puller.core.end_turn(pipeline.pair.now)
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.advance(0.1)
    assert (pipeline.pusher.core.acked, pipeline.pusher.core.dead) == (1, 1)
    assert pipeline.pusher.core.counters["failed"] == 1
    ((parcel, _),) = pipeline.begin()
    assert (parcel.delivery.blob, parcel.delivery.failures) == (b"failed", {0: 1})


def test_a_settle_that_was_heard_is_not_told_twice() -> None:
    pipeline = Pipeline()
    pipeline.send(b"failed", b"held")
    failed, held = pipeline.begin()
    pipeline.puller.core.settle(*failed, wire.NACK, 60.0, "why", "", pipeline.pair.now)
    pipeline.pair.advance(0.5)
    pipeline.restart()
    assert pipeline.pusher.core.counters["presented"] == 1
    pipeline.pair.advance(BOUND)
    assert pipeline.pusher.core.counters["failed"] == 0
    assert [parcel.delivery.failures for parcel, _ in pipeline.begin()] == [{0: 1}]
    pipeline.ack(*held)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 1


def test_an_ack_that_somebody_waits_for_is_told_when_the_next_opening_has_stored_it() -> None:
    pipeline = Pipeline()
    pipeline.send(b"sent", b"later")
    sent, later = pipeline.begin()
    pipeline.pair.disconnect()
    pipeline.puller.core.ack_asking(*sent, "sent", pipeline.pair.now)
    pipeline.puller.core.end_turn(pipeline.pair.now)
    pipeline.pair.advance(BOUND + 0.1)  # now the session is lost
    assert not pipeline.puller.core.sessions
    pipeline.puller.core.ack_asking(*later, "later", pipeline.pair.now)
    pipeline.open()
    pipeline.pusher.storing = False
    pipeline.pair.connect()
    pipeline.pair.flow()
    assert pipeline.puller.replies == {}
    pipeline.pusher.storing = True
    pipeline.pair.flow()
    assert pipeline.puller.replies == {"sent": None, "later": None}
    assert pipeline.pusher.core.acked == 2


@pytest.mark.parametrize("max_lease", [None, 20.0])
def test_what_nobody_comes_back_for_is_lost_in_the_end(max_lease: float | None) -> None:
    pipeline = Pipeline(max_lease=max_lease)
    pipeline.send(b"a", b"b")
    (parcel, index), other = pipeline.begin()
    pipeline.kill()
    pipeline.pair.advance(BOUND + 0.1)
    pipeline.puller.core.ack_asking(parcel, index, "ticket", pipeline.pair.now)
    pipeline.pair.advance((max_lease or KEPT) - 1.0)
    assert pipeline.puller.replies == {}
    assert not parcel.lost
    pipeline.pair.advance(1.0)
    assert type(pipeline.puller.replies["ticket"]) is LeaseLost
    assert parcel.lost
    assert other[0].lost
    counters = pipeline.puller.core.counters
    assert (counters["jobs_lost"], counters["overdue"]) == ((1, 0) if max_lease is None else (0, 1))


def test_who_comes_back_after_the_bound_has_lost_its_leases() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.begin()
    pipeline.kill()
    pipeline.open()
    pipeline.pair.advance(BOUND + 0.1)
    pipeline.pair.connect()
    pipeline.puller.core.ack_asking(parcel, index, "ticket", pipeline.pair.now)
    pipeline.pair.flow()
    assert type(pipeline.puller.replies["ticket"]) is LeaseLost
    assert (pipeline.pusher.core.counters["taken"], pipeline.pusher.core.acked) == (0, 0)
    ((again, _),) = pipeline.begin()
    assert again.delivery.blob == b"a"


def test_an_answer_that_does_not_come_within_a_bound_is_none() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    ((parcel, index),) = pipeline.begin()
    pipeline.restart()
    pipeline.kill()
    pipeline.open()
    pipeline.pusher.core.returning.present = lambda *_: None
    pipeline.pair.connect()
    pipeline.pair.flow()
    pipeline.puller.core.ack_asking(parcel, index, "ticket", pipeline.pair.now)
    pipeline.pair.advance(BOUND - 0.1)
    assert "ticket" not in pipeline.puller.replies
    pipeline.pair.advance(0.2)
    assert type(pipeline.puller.replies["ticket"]) is LeaseLost


def test_a_pusher_that_does_not_say_so_is_presented_nothing() -> None:
    pipeline = Pipeline(says=False)
    pipeline.send(b"a")
    ((parcel, _),) = pipeline.begin()
    pipeline.restart()
    assert parcel.lost
    assert pipeline.pusher.core.counters["presented"] == 0
    assert GIVEN not in pipeline.pusher.rows.get("state", {})
    assert len(pipeline.begin()) == 1  # and it comes again at once


def test_only_what_may_have_been_lent_is_held_back() -> None:
    pipeline = Pipeline(prefetch=2)
    pipeline.pusher.core.returning.reserved = 0
    pipeline.send(b"1", b"2", b"3", b"4")
    assert len(pipeline.begin()) == 2
    assert pipeline.given() == (10_002, 0, [b"\1" * 16])
    pipeline.kill()
    pipeline.puller.core.close(pipeline.pair.now)
    pipeline.open()
    assert pipeline.pusher.core.returning.held == 2
    assert pipeline.pusher.core.backlog.ready == 2
    pipeline.pair.advance(BOUND - 0.1)
    assert pipeline.pusher.core.returning.held == 2
    pipeline.pair.advance(0.2)
    assert (pipeline.pusher.core.returning.held, pipeline.pusher.core.backlog.ready) == (0, 4)
    assert pipeline.given() == (10_002, 0, [b"\2" * 16])


def test_of_a_row_with_keys_too_only_what_may_have_been_lent_is_held_back() -> None:
    pipeline = Pipeline(prefetch=2)
    pipeline.pusher.core.returning.reserved = 0
    pipeline.send_row(b"1", b"2", b"3", b"4", keys={0: "k", 2: "l"})
    assert len(pipeline.begin()) == 2
    assert pipeline.given() == (0, 10_002, [b"\1" * 16])
    pipeline.kill()
    pipeline.puller.core.close(pipeline.pair.now)
    pipeline.open()
    assert pipeline.pusher.core.backlog.lanes.ready == 2
    pipeline.pair.advance(BOUND + 0.1)
    assert pipeline.pusher.core.backlog.lanes.ready == 4


def test_what_is_held_back_waits_until_the_journal_has_forgotten_who_had_it() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.kill()
    pipeline.open()
    pipeline.pusher.storing = False
    pipeline.pair.advance(BOUND + 1.0)
    assert pipeline.pusher.core.returning.held == 1
    pipeline.pusher.storing = True
    pipeline.pair.flow()
    assert pipeline.pusher.core.returning.held == 0
    assert pipeline.pusher.core.backlog.ready == 1


def test_a_disk_that_takes_nothing_does_not_hold_jobs_back_for_ever() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.kill()
    pipeline.open()
    pipeline.pusher.storing = False
    pipeline.pair.advance(BOUND + 0.1)
    core = pipeline.pusher.core
    core.out.writes.clear()
    core.store_failed(core.out.written, OSError("full"), pipeline.pair.now)
    assert (core.returning.held, core.backlog.ready) == (0, 1)


def test_a_commit_says_how_far_is_lent_for_some_thousand_messages() -> None:
    pipeline = Pipeline(prefetch=100_000)
    for _ in range(100):
        pipeline.send_row(*[b"x"] * 100)
    assert pipeline.pusher.core.counters["delivered"] == 10_000
    writes = pipeline.pusher.core.out.written - 100  # one for each row
    assert writes <= 10_000 // 2048 + 1
    assert pipeline.given()[0] >= pipeline.next - 1


def test_an_end_in_order_says_exactly_what_is_leased() -> None:
    pipeline = Pipeline(prefetch=3)
    pipeline.send(b"1", b"2", b"3", b"4")
    jobs = pipeline.begin()
    pipeline.ack(*jobs[2])
    pipeline.pair.flow()
    pipeline.pusher.core.close(pipeline.pair.now)
    pipeline.pair.turn()
    first = jobs[0][0].delivery.sequence
    assert pipeline.given() == (first + 3, 0, [b"\1" * 16])  # 4 was lent when 3 was acked


@pytest.mark.parametrize("key", [None, "k"])
def test_leases_go_on_over_several_openings(key: str | None) -> None:
    pipeline = Pipeline()
    pipeline.send(b"a", b"b", key=key)
    jobs = pipeline.begin()
    for _ in range(MAX_EPOCHS + 3):
        pipeline.restart()
        assert pipeline.pusher.core.counters["taken"] == len(jobs)
        assert pipeline.begin() == []
    for job in jobs:
        pipeline.ack(*job)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == len(jobs)


def test_leases_of_an_opening_go_on_though_the_next_one_ended_before_anybody_came() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    (job,) = pipeline.begin()
    pipeline.kill()
    pipeline.open()
    pipeline.pair.advance(BOUND / 2)
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    assert pipeline.pusher.core.counters["taken"] == 1
    pipeline.ack(*job)
    pipeline.pair.flow()
    assert pipeline.pusher.core.acked == 1


def test_leases_of_before_are_over_once_their_bound_was_over_in_any_opening() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.begin()
    pipeline.kill()
    pipeline.open()
    pipeline.pair.advance(BOUND + 0.1)
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    assert (pipeline.pusher.core.counters["presented"], pipeline.pusher.core.counters["taken"]) == (1, 0)


def test_a_job_that_is_held_too_long_is_failed_by_its_puller_while_no_pusher_is_there() -> None:
    pipeline = Pipeline(max_lease=8.0)
    pipeline.send(b"a")
    ((parcel, _),) = pipeline.begin()
    pipeline.pair.advance(4.0)
    pipeline.kill()
    pipeline.pair.advance(BOUND + 3.0)
    assert parcel.overdue
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    assert pipeline.pusher.core.counters["failed"] == 1


def test_a_puller_gives_back_what_it_is_given_and_did_not_present() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a", b"b")
    (job,) = pipeline.begin(1)
    core: PusherCore = pipeline.pusher.core
    (holder,) = core._holders.values()
    pipeline.answer(wire.Taken(b"?" * 16, [7, 900, 901, 40], False))
    assert holder.held == 2  # what it does hold is left to it
    pipeline.ack(*job)
    pipeline.pair.advance(2 * HELD_EVERY)
    assert core.acked == 1


def test_taken_with_leases_that_do_not_fit_their_sequences_is_bad() -> None:
    pipeline = Pipeline()
    pipeline.send_row(b"a", b"b", b"c")
    pipeline.begin()
    pipeline.kill()
    pipeline.open()
    pipeline.pusher.core.returning.present = lambda *_: None
    pipeline.pair.connect()
    pipeline.pair.flow()
    pipeline.answer(wire.Taken(b"\1" * 16, [1, 10_001, 10_001, 5, 1, 10_003, 10_003, 6], False))
    assert pipeline.puller.core.counters["frames_bad"] == 1
    assert pipeline.puller.core.counters["went_on"] == 0


@pytest.mark.parametrize(
    "runs",
    [
        [1, 0, 2**63 - 1],
        [1, 10_001, 2**63 - 1, 1, 10_001, 2**63 - 1],
        [2**63 - 1, 2**63 - 1, 2**63 - 1],
        [1, 5, 9_999],
        [1, 10_002, 10_002] * 1000,
    ],
)
def test_who_presents_what_it_never_had_gets_jobs_at_most_and_each_once(runs: list[int]) -> None:
    pipeline = Pipeline()
    pipeline.send_row(b"a", b"b", b"c")
    pipeline.kill()
    pipeline.forget()
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    core = pipeline.pusher.core
    pipeline.say(wire.Present(b"\1" * 16, runs))
    assert core.counters["taken"] <= 3
    assert core.returning.held == 3 - core.counters["taken"]
    pipeline.pair.advance(HELD_EVERY + BOUND)  # the puller knows nothing of them, and says so
    parcels = [parcel for parcel, _ in pipeline.begin()]
    assert sum(parcel.open.bit_count() for parcel in {id(each): each for each in parcels}.values()) == 3


def test_it_is_said_at_once_of_epochs_that_are_not_known_that_nothing_goes_on() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.kill()
    pipeline.forget()
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    for epoch in (b"?" * 16, b"\2" * 16):
        pipeline.say(wire.Present(epoch, [1, 10_001, 10_001]))
    assert pipeline.pusher.core.counters["taken"] == 0
    assert pipeline.pusher.core.returning.held == 1
    assert pipeline.puller.core.counters["frames_bad"] == 0


def test_who_presents_again_before_it_was_answered_breaks_the_protocol() -> None:
    pipeline = Pipeline()
    pipeline.send(b"a")
    pipeline.kill()
    pipeline.forget()
    pipeline.open()
    pipeline.pair.connect()
    pipeline.pair.flow()
    core = pipeline.pusher.core
    (holder,) = core._holders.values()
    holder.behind = True  # its inbox is, so it must wait
    pipeline.say(wire.Present(b"\1" * 16, [1, 10_001, 10_001]))
    pipeline.say(wire.Present(b"\1" * 16, [1, 10_001, 10_001]))
    assert core.counters["frames_bad"] == 1
    assert core.counters["taken"] == 0
    pipeline.pair.advance(BOUND + 0.1)
    assert core.returning._waiting == []


@pytest.mark.parametrize(
    "value", [b"\xc0", b"\x90", b"\x94\x02\x00\x00\x90", b"\x94\x01\xa0\x00\x90", b"\x94\x01\x00\x00\x91\xc4\x01e"]
)
def test_what_another_version_wrote_of_leases_is_not_guessed_at(value: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack_given(value)


def test_what_may_be_leased_comes_back_from_the_journal() -> None:
    assert unpack_given(pack_given(7, 0, [b"e" * 16])) == (7, 0, [b"e" * 16])
    later = pack_given(7, 0, [])[1:]
    assert unpack_given(b"\x95" + later + b"\xa5later") == (7, 0, [])
