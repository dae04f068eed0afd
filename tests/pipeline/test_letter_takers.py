"""Puller(dead_letters=True): dead letters as jobs, over every face, and what crashes and full disks leave of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, take
from tests.pipeline.test_dead_letters import bury, seen
from tests.protocol.cores import CorePair, Host
from zmqkit import Settled, UsageError
from zmqkit.errors import DecodeError, JournalFull
from zmqkit.events import BadFrame
from zmqkit.patterns.pipeline import wire
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.letter_takers import ABOUT
from zmqkit.patterns.pipeline.puller import Parcel, PullerCore
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.rows import DeadRow, Pack
from zmqkit.patterns.pipeline.storing import RETRY_STORE
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.local import Local


@pytest.mark.parametrize("journal", [True, False])
async def test_letters_come_as_jobs_that_say_why_and_an_ack_drops_them(
    face: Face, tmp_path: Path, journal: bool
) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push:
        async with face.Puller(push.addresses[0]) as pull:
            receipt = await push.send({"n": 1}, key="k", headers={"a": "b"})
            job = await take(pull)
            sent_at = job.sent_at
            await job.reject("no such order")
            await bury(push, pull, ["x"])
        async with face.Puller(push.addresses[0], dead_letters=True) as letters:
            first = await take(letters)
            assert (first.id, first.body, first.key, first.sent_at) == (receipt.id, {"n": 1}, "k", sent_at)
            assert first.headers["zmqkit-reason"] == "no such order"
            assert int(first.headers["zmqkit-died-at"]) > sent_at.timestamp() * 1e6
            assert (first.headers["a"], "zmqkit-traceback" in first.headers) == ("b", False)
            await first.ack(wait=True)
            assert len(push.dead_letters()) == 1
            async with await take(letters) as second:
                assert second.body == "x"
                await second.ack(wait=True)
        assert await seen(push) == []
        assert await push.flush(PATIENCE_S) == Settled(acked=0, dead=2)


@pytest.mark.parametrize("journal", [True, False])
async def test_what_is_not_acked_stays_and_comes_to_the_next_one_who_asks(
    face: Face, tmp_path: Path, journal: bool
) -> None:
    path = tmp_path / "jobs.db" if journal else None
    async with face.Pusher(LOCAL, journal=path) as push:
        async with face.Puller(push.addresses[0]) as pull:
            await bury(push, pull, ["nacked", "rejected", "released", "raised", "acked"])
        for _ in range(2):
            async with face.Puller(push.addresses[0], dead_letters=True) as letters:
                for body in ("nacked", "rejected", "released", "raised"):
                    job = await take(letters)
                    assert job.body == body
                    if body == "nacked":
                        await job.nack(reason="?")
                    elif body == "rejected":
                        await job.reject("?")
                    elif body == "released":
                        await job.release()
                    else:
                        async with job:
                            raise RuntimeError("contained, as ever")
                last = await take(letters)
                assert last.body == "acked"
                assert await letters.receive(0.05) is None, "nothing comes twice to one puller"
        assert await seen(push) == ["nacked", "rejected", "released", "raised", "acked"]
        assert {each.reason async for each in push.dead_letters()} >= {"no nacked", "no released"}


async def test_ordinary_jobs_do_not_go_there_and_letters_go_to_nobody_else(face: Face, tmp_path: Path) -> None:
    async with (
        face.Pusher(LOCAL, journal=tmp_path / "jobs.db", max_failures=1) as push,
        face.Puller(push.addresses[0], dead_letters=True) as letters,
    ):
        await push.wait_for_peers(1, timeout=PATIENCE_S)
        await push.send("job")
        assert await letters.receive(0.05) is None
        async with face.Puller(push.addresses[0]) as pull:
            job = await take(pull)
            await job.nack(reason="poison")
            async with await take(letters) as letter:  # it comes as it dies
                assert (letter.body, letter.failures, letter.headers["zmqkit-reason"]) == ("job", 1, "poison")
            await push.send("next")
            assert await handle(pull, 1) == ["next"]
        assert await push.flush(PATIENCE_S) == Settled(acked=1, dead=1)


async def test_what_one_puller_holds_nobody_else_deals_with_until_it_is_gone(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        async with face.Puller(push.addresses[0]) as pull:
            await bury(push, pull, list(range(10)))
        one = face.Puller(push.addresses[0], dead_letters=True, prefetch=4)
        job = await take(one)
        assert job.body == 0
        async with face.Puller(push.addresses[0], dead_letters=True) as other:
            assert [(await take(other)).body for _ in range(6)] == [4, 5, 6, 7, 8, 9]
            assert await push.dead_letters().retry() == 0
            assert await push.dead_letters().drop() == 0
            await one.close()  # without a word on any
            assert [(await take(other)).body for _ in range(4)] == [0, 1, 2, 3]
        assert len(push.dead_letters()) == 10


async def test_thousands_of_letters_pass_through_a_small_prefetch(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db", durability="process", max_failures=1) as push:
        async with face.Puller(push.addresses[0]) as pull:
            await push.send_many(range(3_000))
            for _ in range(3_000):
                await (await take(pull)).reject("all of them")
            await push.flush(PATIENCE_S)
        assert len(push.dead_letters()) == 3_000
        async with face.Puller(push.addresses[0], dead_letters=True, prefetch=10) as letters:
            for n in range(3_000):
                async with await take(letters) as job:
                    assert job.body == n
            await job_settled(push)


async def job_settled(push: Any) -> None:
    """Wait until no letter is left; a drop that is under way is not waited for by anything else."""
    for _ in range(10_000):
        if not push.dead_letters():
            return
        async for _ in push.dead_letters():
            break
    raise AssertionError(f"{len(push.dead_letters())} letters are left")


def test_what_makes_no_sense_with_dead_letters_is_refused(face: Face, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave inbox= out"):
        face.Puller("tcp://127.0.0.1:1", dead_letters=True, inbox=tmp_path / "inbox.db")
    with pytest.raises(UsageError, match="plain=True goes without dead_letters="):
        face.Puller("tcp://127.0.0.1:1", dead_letters=True, plain=True)
    for wrong in (1, "yes", None):
        with pytest.raises(TypeError, match="dead_letters"):
            face.Puller("tcp://127.0.0.1:1", dead_letters=wrong)


# ---- the cores -------------------------------------------------------------------------

EPOCH = b"e" * 16


class Shelf:
    """A puller that came for dead letters, at a pusher whose journal has some."""

    def __init__(self, letters: int, *, lends: bool = True, prefetch: int = 100) -> None:
        def make_pusher(said: Local, rng: random.Random) -> PusherCore:
            return PusherCore(said, PusherSettings(origin="o", epoch=EPOCH, durable=True), rng)

        about = {"epoch": EPOCH} | ({ABOUT: True} if lends else {})
        self.pusher = Host("pusher", make_pusher, role="push", accepts=frozenset({"pull"}), about=about)
        self.puller = Host(
            "puller", PullerCore, role="pull", accepts=frozenset({"push"}), about={ABOUT: True},
            credit_messages=prefetch, credit_bytes=1 << 20,
        )  # fmt: skip
        self.shelf = self.pusher.rows.setdefault("dead", {})
        for key in range(1, letters + 1):
            self.shelf[key] = (1, DeadRow(f"id-{key}", "raw", b"x", {}, "why", "", 1, 0, 0).pack())
        self.pusher.core.found(0, 0, 0, letters)
        self.pair = CorePair(self.puller, self.pusher)

    def take(self) -> list[tuple[Parcel, int]]:
        items, self.puller.items = self.puller.items, []
        return [(parcel, index) for parcel in items for index in range(len(parcel))]


def key_of(parcel: Parcel) -> int:
    return parcel.delivery.sequence


def test_an_ack_is_answered_when_the_letter_is_gone_and_not_before() -> None:
    shelf = Shelf(2)
    (first, _), (second, _) = shelf.take()
    shelf.pusher.storing = False
    shelf.pair.call(shelf.puller, "ack_asking", first, 0, "asked")
    shelf.pair.flow()
    assert "asked" not in shelf.puller.replies
    assert set(shelf.shelf) == {1, 2}
    shelf.pusher.storing = True
    shelf.pair.flow()
    assert shelf.puller.replies["asked"] is None
    assert set(shelf.shelf) == {2}
    assert shelf.pusher.core.letters.count == 1
    shelf.pair.call(shelf.puller, "ack_asking", second, 0, "again")
    shelf.pair.flow()
    assert (shelf.puller.replies["again"], shelf.shelf) == (None, {})


def test_what_a_full_disk_did_not_drop_is_dropped_when_there_is_room() -> None:
    shelf = Shelf(1)
    ((parcel, _),) = shelf.take()
    shelf.pusher.storing = False
    shelf.pair.call(shelf.puller, "ack_asking", parcel, 0, "asked")
    shelf.pair.flow()
    core = shelf.pusher.core
    for _ in range(3):
        written, core.out.writes = core.out.written, []
        core.store_failed(written, JournalFull("full"), shelf.pair.now)
        shelf.pair.flow()
        assert not core.out.writes, "it is not tried again at once"
        shelf.pair.advance(RETRY_STORE + 0.01)
        assert core.out.writes
        assert "asked" not in shelf.puller.replies
    shelf.pusher.storing = True
    shelf.pair.flow()
    assert (shelf.puller.replies["asked"], shelf.shelf, core.letters.count) == (None, {}, 0)


def test_a_letter_that_its_puller_does_not_list_as_held_comes_again() -> None:
    shelf = Shelf(3)
    assert len(shelf.take()) == 3
    (taker,) = shelf.pusher.core.takers.sessions.values()
    held = list(taker.held)
    shelf.pusher.core.received(taker.session, wire.Held(EPOCH, held[-1], [held[1], held[1]]).pack(), 0, shelf.pair.now)
    shelf.pair.flow()
    assert [key_of(parcel) for parcel, _ in shelf.take()] == [1, 3]
    shelf.pusher.core.received(taker.session, wire.Held(b"f" * 16, 10**9, []).pack(), 0, shelf.pair.now)
    shelf.pair.flow()
    assert shelf.take() == [], "of another epoch: nothing"


@pytest.mark.parametrize(
    "settle",
    [
        wire.Settle(b"f" * 16, [1, 3], [], 7),
        wire.Settle(EPOCH, [4, 1 << 40], [], 7),
        wire.Settle(EPOCH, [], [wire.Unsettled(9, wire.NACK), wire.Unsettled(10, wire.RELEASE)], 7),
    ],
)
def test_tokens_that_are_nobodys_change_nothing_and_are_answered(settle: wire.Settle) -> None:
    shelf = Shelf(3)
    core = shelf.pusher.core
    (taker,) = core.takers.sessions.values()
    core.received(taker.session, settle.pack(), 0, shelf.pair.now)
    shelf.pair.flow()
    assert set(shelf.shelf) == {1, 2, 3}
    assert len(taker.held) == 3
    assert core.counters["settles_stale"] > 0


def test_many_ranges_of_many_letters_are_dealt_with_once_each() -> None:
    shelf = Shelf(1_000, prefetch=1_000)
    assert len(shelf.take()) == 1_000
    core = shelf.pusher.core
    (taker,) = core.takers.sessions.values()
    core.received(taker.session, wire.Settle(EPOCH, [1, 1 << 50] * wire.MAX_RANGES, [], 0).pack(), 0, shelf.pair.now)
    shelf.pair.flow()
    assert (shelf.shelf, core.letters.count, taker.held) == ({}, 0, {})


def test_a_puller_must_not_deliver_here_either() -> None:
    shelf = Shelf(1)
    ((parcel, _),) = shelf.take()
    (taker,) = shelf.pusher.core.takers.sessions.values()
    with pytest.raises(DecodeError, match="must not deliver"):
        shelf.pusher.core.received(taker.session, parcel.delivery.pack(), 1, shelf.pair.now)


def test_a_letter_of_a_later_version_is_left_where_it_is_and_the_others_come() -> None:
    shelf = Shelf(2)
    shelf.take()
    later = Shelf(0)
    later.shelf.update({1: (1, session_wire.pack([2, {}])), 2: shelf.shelf[2]})
    for key in (1, 2):
        later.pusher.core.takers.buried(key)
    later.pair.flow()
    assert [key_of(parcel) for parcel, _ in later.take()] == [2]
    assert set(later.shelf) == {1, 2}


def test_who_comes_for_letters_takes_no_messages_of_a_pusher_that_lends_none() -> None:
    shelf = Shelf(1, lends=False)
    pack = Pack("raw", 0, [1], b"m")
    shelf.pair.call(shelf.pusher, "append", pack, 1, None, True, None)
    shelf.pair.flow()
    assert shelf.take() == []
    assert any(isinstance(event, BadFrame) for event in shelf.puller.events)
