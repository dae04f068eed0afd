"""What a publisher still holds, and that a feed gives exactly that: from memory, from a journal, over restarts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pubsub.listening import EPOCH, Scene, pack
from zmqkit.errors import CommitIndeterminate, JournalDamaged, JournalFull
from zmqkit.journal import MemoryJournal
from zmqkit.options import Retention
from zmqkit.patterns.pubsub import history, talk
from zmqkit.patterns.pubsub.feeds import Feed, Feeder, Lane
from zmqkit.patterns.pubsub.history import Epochs
from zmqkit.patterns.pubsub.offsets import LastOffsets
from zmqkit.patterns.pubsub.rows import (
    CURSORS,
    EPOCHS,
    LOGS,
    MESSAGES,
    STATE,
    Found,
    Row,
    begin_epoch,
    first_offset,
    look_into,
)
from zmqkit.patterns.pubsub.talk import Begun, Committed, Done, Epoch, Hole
from zmqkit.patterns.pubsub.topics import Filter
from zmqkit.protocol import core
from zmqkit.protocol.core import Write
from zmqkit.testing.journal import Disk, SimulatedJournal

EPOCH2 = "e2" * 16
TOPICS = ["a", "b", "c.d", "c.e"]
Message = tuple[str, bytes]


def reopened(scene: Durable, epoch: str = EPOCH2, **more: Any) -> Durable:
    """A publisher of the same journal, later."""
    rows = scene.b.rows
    journal = MemoryJournal(logs=LOGS)
    for log, held in rows.items():
        journal.commit([Write(log, key, weight, value) for key, (weight, value) in held.items()])
        highest = max([*held, *scene.highest.get(log, ())], default=0)
        if highest:  # a journal knows its highest key also when that row is deleted
            journal.commit([Write(log, highest, 0, held.get(highest, (0, b""))[1])])
            weight, value = held.get(highest, (0, None))
            journal.commit([Write(log, highest, weight, value)])
    settings = {"durable": True, **more}
    return Durable(rows=rows, first=first_offset(journal), found=look_into(journal), epoch=epoch, **settings)


class Durable(Scene):
    """A scene with a journal.

    Attributes:
        highest: by log, keys that were ever used.
    """

    def __init__(self, **more: Any) -> None:
        self.highest: dict[str, set[int]] = {}
        super().__init__(**{"durable": True, **more})

    def _drain(self, host: Any) -> bool:
        for write in host.core.out.writes:
            self.highest.setdefault(write.log, set()).add(write.key)
        return super()._drain(host)

    def publish_some(self, count: int, topic: str = "a") -> None:
        for _ in range(count):
            self.publish((topic, b"x"))


# ---- a feed is the filtered history ----------------------------------------------

PATTERNS = st.lists(st.sampled_from(["a", "b", "c.d", "c.*", "#", "x"]), min_size=1, max_size=3)


@given(
    packs=st.lists(st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6), max_size=12),
    patterns=PATTERNS,
    after=st.integers(0, 40),
    until=st.one_of(st.none(), st.integers(0, 60)),
    grants=st.lists(st.integers(1, 9), max_size=12),
    kept=st.integers(0, 30),
    durable=st.booleans(),
)
def test_a_feed_is_the_filtered_history_from_any_position_with_any_credit(
    packs, patterns, after, until, grants, kept, durable
):
    scene = Durable(credit=0) if durable else Scene(credit=0, history=kept)
    everything = []
    for topics in packs:
        first = scene.publish(*[(topic, topic.encode()) for topic in topics])
        everything += [(first + at, topic, topic.encode()) for at, topic in enumerate(topics)]
    scene.topics(*patterns)
    scene.feed(after=after, until=until)
    for grant in [*grants, 100]:
        scene.grant(grant)
        assert len(scene.fed()) <= scene.c.core.granted
    last = len(everything)
    begun, gone = min(after, last), 0 if durable else max(0, last - kept)
    end = last if until is None else min(until, last)
    filter = Filter(patterns)
    wanted = [each for each in everything if filter.matches(each[1])]
    assert scene.fed() == [each for each in wanted if max(begun, gone) < each[0] <= end]
    missed = [each for each in wanted if begun < each[0] <= gone]
    holes = scene.said(Hole)
    if begun >= end and until is not None:
        assert not holes
    else:
        assert bool(holes) == bool(missed)
        assert not holes or set(holes[0].topics) == {topic for _, topic, _ in missed}
    assert scene.said(Begun) == [Begun(1, EPOCH, begun)]
    assert [type(each) for each in scene.got].count(Done) == 1


@given(st.integers(0, 2**32))
def test_a_feed_from_a_journal_is_the_filtered_history_over_restarts_and_small_reads(seed):
    rng = random.Random(seed)
    window, reads = history.WINDOW_MESSAGES, history.READ_BYTES
    history.WINDOW_MESSAGES, history.READ_BYTES = rng.choice([1, 5, 1000]), rng.choice([1, 200, 100_000])
    try:
        _feed_over_restarts(rng)
    finally:
        history.WINDOW_MESSAGES, history.READ_BYTES = window, reads


def _feed_over_restarts(rng: random.Random) -> None:
    scene = Durable(credit=0)
    everything: list[tuple[int, str, bytes]] = []
    firsts = [1]
    epochs = [EPOCH]
    for number in range(rng.randint(1, 3)):
        if number:
            epochs.append(f"{number:02x}" * 16)
            scene = reopened(scene, epochs[-1], credit=0)
            firsts.append(scene.next)
        for _ in range(rng.randint(0, 8)):
            topics = [rng.choice(TOPICS) for _ in range(rng.randint(1, 5))]
            first = scene.publish(*[(topic, b"x") for topic in topics])
            everything += [(first + at, topic, b"x") for at, topic in enumerate(topics)]
    patterns = rng.sample(["a", "b", "c.*", "#"], 2)
    index = rng.randrange(len(epochs))
    start = firsts[index] - 1 + rng.randint(0, 10)
    scene.topics(*patterns)
    scene.feed(after=start, epoch=epochs[index])
    for _ in range(5):
        scene.grant(rng.randint(1, 10))
    scene.grant(1000)
    start = min(start, firsts[index + 1] - 1 if index + 1 < len(firsts) else scene.next - 1)
    filter = Filter(patterns)
    assert scene.fed() == [each for each in everything if each[0] > start and filter.matches(each[1])]
    said = [each for each in scene.got if isinstance(each, Begun | Epoch | talk.Block)]
    assert said[0] == Begun(1, epochs[index], start)
    epoch = epochs[index]
    for each in said[1:]:
        if isinstance(each, Epoch):
            assert each.first == firsts[epochs.index(each.epoch)]
            epoch = each.epoch
        else:
            assert isinstance(each, talk.Block)
            assert each.epoch == epoch
            at = epochs.index(epoch)
            assert each.offsets[0] >= firsts[at]
            assert at + 1 == len(firsts) or each.offsets[-1] < firsts[at + 1]
    assert epoch == epochs[-1], "at the newest message a feed is in the newest epoch"
    assert not scene.said(Hole)


# ---- the journal -----------------------------------------------------------------


def test_nothing_is_sent_or_said_before_it_is_stored():
    scene = Durable()
    scene.topics("a")
    scene.feed(kind="earliest")
    scene.b.storing = False
    scene.publish(("a", b"1"), ticket="t")
    assert scene.frames == []
    assert scene.fed() == []
    assert scene.b.replies == {}
    scene.b.storing = True
    scene.flow()
    assert len(scene.frames) == 1
    assert scene.fed() == [(1, "a", b"1")]
    assert scene.b.replies == {"t": None}


def test_small_messages_of_one_turn_share_a_row():
    scene = Durable()
    for at in range(5):
        scene.b.core.publish(packs_of(("a", b"%d" % at)), at + 1, f"t{at}", scene.now)
    scene.flow()
    assert list(scene.b.rows[MESSAGES]) == [1]
    assert set(scene.b.replies) == {"t0", "t1", "t2", "t3", "t4"}
    assert [list(each.offsets) for each in scene.read()] == [[1, 2, 3, 4, 5]]


def packs_of(*messages: Message) -> list[Any]:
    return [pack(each) for each in messages]


def test_a_full_journal_refuses_and_recovers_and_loses_nothing_that_it_confirmed():
    scene = Durable()
    scene.publish(("a", b"1"), ticket="one")
    scene.b.storing = False
    scene.publish(("a", b"2"), ticket="two")
    publisher = scene.b.core
    publisher.out.writes.clear()
    publisher.store_failed(publisher.out.written, JournalFull("no room"), scene.now)
    scene.b.storing = True
    scene.flow()
    assert isinstance(scene.b.replies["two"], JournalFull)
    scene.publish(("a", b"3"), ticket="three")
    assert isinstance(scene.b.replies["three"], JournalFull)
    scene.advance(1.5)
    scene.publish(("a", b"4"), ticket="four")
    assert scene.b.replies["four"] is None
    scene.topics("a")
    scene.feed(kind="earliest", until=10)
    assert [offset for offset, *_ in scene.fed()] == [1, 4]
    assert [list(each.offsets) for each in scene.read() if hasattr(each, "offsets")] == [[1], [4]]


def test_after_an_unknown_commit_nothing_is_published():
    scene = Durable()
    scene.b.storing = False
    scene.publish(("a", b"1"), ticket="one")
    publisher = scene.b.core
    publisher.out.writes.clear()
    publisher.store_failed(publisher.out.written, CommitIndeterminate("who knows"), scene.now)
    scene.publish(("a", b"2"), ticket="two")
    assert isinstance(scene.b.replies["one"], CommitIndeterminate)
    assert "failed before" in str(scene.b.replies["two"])
    assert scene.frames == []


def test_a_damaged_row_ends_the_reading_and_says_what_to_do():
    scene = Durable()
    with pytest.raises(JournalDamaged, match="good copy"):
        scene.b.core.loaded(talk_read(), [row(b"\0\0\0\1\xc1")], scene.now)


def talk_read() -> Any:
    return core.Read(MESSAGES, 1, 2, 3)


def row(value: bytes) -> Any:
    return core.Row(1, 1, value)


def test_offsets_never_come_twice_over_restarts_even_of_epochs_in_which_nothing_was_published():
    scene = Durable()
    scene.publish(("a", b"1"), ("a", b"2"))
    firsts = [1]
    for number in range(3):
        scene = reopened(scene, f"{number:02x}" * 16)
        firsts.append(scene.next)
    assert firsts == sorted(set(firsts))
    assert firsts[1] > 2
    assert list(scene.b.rows[EPOCHS]) == firsts


def test_retention_by_count_deletes_the_oldest_rows_and_says_up_to_where():
    scene = Durable(retention=Retention(count=10))
    scene.publish_some(30)
    scene.advance(1.0)
    assert sorted(scene.b.rows[MESSAGES]) == list(range(21, 31))
    scene.topics("a")
    scene.feed(after=0, until=30)
    assert scene.said(Hole) == [Hole(1, EPOCH, 1, 20, ["a"])]
    assert [offset for offset, *_ in scene.fed()] == list(range(21, 31))


def test_retention_by_age_deletes_what_is_too_old():
    scene = Durable(retention=Retention(seconds=5.0), wall=-99.9999)
    scene.publish_some(3)
    scene.advance(4.0)
    assert len(scene.b.rows[MESSAGES]) == 3
    scene.advance(2.0)
    assert not scene.b.rows[MESSAGES]
    assert len(scene.b.rows[STATE]) == 1


def test_retention_by_size_keeps_about_so_much():
    scene = Durable(retention=Retention(size_bytes=1_000))
    for _ in range(40):
        scene.publish(("a", b"x" * 100))
    scene.advance(1.0)
    assert 10 <= len(scene.b.rows[MESSAGES]) <= 11


def test_after_a_restart_only_what_was_deleted_is_a_hole_not_the_offsets_that_were_left_out():
    scene = Durable(retention=Retention(seconds=5.0), wall=-99.9999)
    scene.publish(*[("a", b"x")] * 3)
    scene.advance(10.0)
    assert not scene.b.rows[MESSAGES]
    later = reopened(scene)
    later.topics("a")
    later.feed(1, after=3, epoch=EPOCH)
    assert later.said(Hole) == []
    later.feed(2, after=1, epoch=EPOCH)
    assert later.said(Hole) == [Hole(2, EPOCH, 2, 3, [])]
    assert later.said(Epoch)[-1] == Epoch(2, EPOCH2, later.next)


def test_what_could_not_be_deleted_on_a_full_disk_is_deleted_later():
    scene = Durable(retention=Retention(count=2))
    scene.publish_some(2)
    scene.b.storing = False
    scene.publish_some(1)
    publisher = scene.b.core
    scene.b.storing = True
    scene.flow()
    scene.b.storing = False
    scene.advance(0.1)
    publisher.end_turn(scene.now)
    publisher.out.writes.clear()
    publisher.store_failed(publisher.out.written, JournalFull("no room"), scene.now)
    scene.b.storing = True
    scene.advance(3.0)
    scene.publish_some(1)
    scene.advance(1.0)
    assert len(scene.b.rows[MESSAGES]) == 2


def test_a_feed_that_begins_at_a_time_finds_it_in_memory_and_on_disk():
    for window in (1_000_000, 1):
        before, history.WINDOW_MESSAGES = history.WINDOW_MESSAGES, window
        try:
            scene = Durable()
            scene.publish_some(20)  # each was sent at the time that is its offset
            scene.topics("a")
            for number, time in enumerate([0, 1, 7, 20, 21], 1):
                scene.feed(number, after=time, until=20, kind="time")
                assert [offset for offset, *_ in scene.fed(number)] == list(range(max(1, time), 21))
        finally:
            history.WINDOW_MESSAGES = before


def test_a_position_in_a_lost_tail_goes_on_with_the_next_epoch():
    scene = Durable()
    scene.publish_some(5)
    del scene.b.rows[MESSAGES][4], scene.b.rows[MESSAGES][5]
    later = reopened(scene)
    later.publish(("a", b"new"))
    later.topics("a")
    later.feed(after=100_000, epoch=EPOCH)
    assert [offset for offset, *_ in later.fed()] == [later.next - 1]


def test_a_position_of_an_epoch_that_is_not_known_begins_with_the_earliest():
    scene = Durable()
    scene.publish_some(3)
    scene.topics("a")
    scene.feed(after=2, epoch="99" * 16)
    assert scene.said(Begun) == [Begun(1, EPOCH, 0)]
    assert len(scene.fed()) == 3


def test_last_values_come_back_from_the_journal():
    scene = Durable()
    scene.publish(("a", b"1"), ("b", b"2"))
    scene.publish(("a", b"3"))
    later = reopened(scene, last_value=True)
    later.publish(("b", b"4"))
    later.topics("#")
    later.say(talk.Values(1, later.next - 1))
    assert [(topic, body) for _, topic, body in later.fed()] == [("a", b"3"), ("b", b"4")]


def test_cursors_outlive_their_publisher():
    scene = Durable(about={"cursor": "audit"})
    scene.publish_some(5)
    scene.b.storing = False
    scene.say(talk.Commit(EPOCH, 3, 7))
    assert scene.said(Committed) == []
    scene.b.storing = True
    scene.flow()
    assert scene.said(Committed) == [Committed(7)]
    assert len(scene.b.rows[CURSORS]) == 1
    later = reopened(scene, about={"cursor": "audit"})
    later.topics("a")
    later.feed(kind="resume")
    assert later.said(Begun) == [Begun(1, EPOCH, 3)]
    assert [offset for offset, *_ in later.fed()] == [4, 5]
    assert later.said(Done)[-1].epoch == EPOCH2


# ---- parts -----------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60), st.integers(1, 4))
def test_the_last_offset_of_a_topic_is_known_or_at_most_the_floor(published, generation):
    offsets = LastOffsets(generation=generation)
    true: dict[str, int] = {}
    for offset, (topic, at_once) in enumerate(published, 1):
        if at_once:
            offsets.update({topic: offset})
        else:
            told = offsets.put(topic, offset)
            assert true.get(topic, 0) <= told < offset
        true[topic] = offset
        assert len(offsets) <= 2 * generation + 1
        for each in "abcdefgh":
            known = offsets.known(each)
            assert known == true[each] if known is not None else true.get(each, 0) <= offsets.floor


def test_a_position_keeps_to_its_epoch():
    epochs = Epochs([(1, "one"), (10, "two")])
    assert epochs.at(9) == ("one", 1)
    assert epochs.at(10) == ("two", 10)
    assert (epochs.clamp("one", 50), epochs.clamp("two", 50), epochs.clamp("three", 50)) == (9, 50, None)
    assert epochs.forget(9) == [1]
    assert epochs.at(3) == ("two", 10)


class Told(Lane):
    """The way of a feed to somebody who takes all."""

    room = 1000

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any, messages: int, now: float) -> None:
        self.sent.append(message)


def test_a_hole_that_ends_in_a_newer_epoch_is_told_after_its_beginning():
    epochs = ((1, EPOCH), (513, EPOCH2))
    held = history.History(0, 0, Retention(), Found(1, 601, 601, 100, gone=600, epochs=epochs))
    feed, lane = Feed(1, 5, EPOCH, None), Told()
    Feeder(held, core.Outputs(), None).pump(feed, Filter(["a"]), lane, 0.0)
    assert lane.sent == [Epoch(1, EPOCH2, 513), Hole(1, EPOCH2, 6, 600, [])]


def test_a_power_cut_takes_no_epoch_that_a_publisher_began_and_no_offset_of_its_beginning_is_used_again():
    disk = Disk("disk", durability="process", logs=LOGS)
    journal = SimulatedJournal(disk)
    first, _ = begin_epoch(journal)
    row = Row(first, "raw", 0, ["a"], None, [1, 1], b"xy", {})
    journal.commit([Write(MESSAGES, row.key, row.count, row.pack())])
    journal.close()
    assert disk.cut_power(50) == 1

    after = SimulatedJournal(disk)
    again, found = begin_epoch(after)
    assert found.epochs == ((first, journal.epoch),)
    assert (found.messages, again) == (0, first + 1)
