"""What is in hand, and up to where all is done: threads may end in any order, a crash must pass nothing over."""

from __future__ import annotations

import random

from zmqkit.inbox import Position
from zmqkit.patterns.pubsub.positions import Progress

A, B = "a" * 32, "b" * 32
FIRST, SECOND = "1" * 32, "2" * 32


def test_the_position_is_that_of_the_newest_message_when_all_are_done_in_order() -> None:
    progress = Progress()
    for offset in (3, 7, 8):
        assert progress.take(A, FIRST, offset)
        assert progress.done(A, FIRST, offset) == Position(A, FIRST, offset)


def test_the_position_stays_before_the_oldest_message_in_hand() -> None:
    progress = Progress()
    for offset in (3, 7, 8, 20):
        progress.take(A, FIRST, offset)
    assert progress.done(A, FIRST, 7) is None
    assert progress.done(A, FIRST, 20) is None
    assert progress.done(A, FIRST, 3) == Position(A, FIRST, 7)
    assert progress.done(A, FIRST, 8) == Position(A, FIRST, 20)


def test_what_was_dealt_with_before_is_not_taken_again() -> None:
    progress = Progress([Position(A, FIRST, 5)])
    assert not progress.take(A, FIRST, 5)
    assert progress.take(A, FIRST, 6)
    assert progress.take(B, FIRST, 1)
    progress.done(A, FIRST, 6)
    assert not progress.take(A, FIRST, 6)


def test_what_is_given_back_is_taken_again() -> None:
    progress = Progress()
    progress.take(A, FIRST, 1)
    progress.take(A, FIRST, 2)
    assert progress.take(A, FIRST, 1)
    assert progress.done(A, FIRST, 2) is None
    assert progress.done(A, FIRST, 1) == Position(A, FIRST, 2)


def test_a_message_is_done_once() -> None:
    progress = Progress()
    progress.take(A, FIRST, 1)
    assert progress.done(A, FIRST, 1) == Position(A, FIRST, 1)
    assert progress.done(A, FIRST, 1) is None


def test_the_position_names_the_epoch_of_its_offset() -> None:
    progress = Progress()
    progress.take(A, FIRST, 4)
    progress.take(A, SECOND, 10)
    progress.take(A, SECOND, 11)
    assert progress.done(A, SECOND, 11) is None
    assert progress.done(A, FIRST, 4) == Position(A, FIRST, 4)
    assert progress.done(A, SECOND, 10) == Position(A, SECOND, 11)


def test_the_oldest_in_hand_is_known() -> None:
    progress = Progress()
    for offset in (1, 2):
        progress.take(A, FIRST, offset)
    assert progress.is_oldest(A, FIRST, 1)
    assert not progress.is_oldest(A, FIRST, 2)
    progress.done(A, FIRST, 1)
    assert progress.is_oldest(A, FIRST, 2)


def test_in_whatever_order_they_are_done_no_position_passes_over_one_in_hand() -> None:
    rng = random.Random(20261121)
    for _ in range(200):
        progress = Progress()
        offsets = sorted(rng.sample(range(1, 60), 12))
        waiting, in_hand, kept = list(offsets), set[int](), 0
        while waiting or in_hand:
            if waiting and (not in_hand or rng.random() < 0.6):
                offset = waiting.pop(0)
                assert progress.take(A, FIRST, offset)
                in_hand.add(offset)
                continue
            offset = rng.choice(sorted(in_hand))
            in_hand.remove(offset)
            position = progress.done(A, FIRST, offset)
            if position is not None:
                assert position.offset > kept
                assert not in_hand or position.offset < min(in_hand)
                kept = position.offset
        assert kept == offsets[-1]


def test_a_later_epoch_may_use_offsets_again_and_an_earlier_one_is_over() -> None:
    progress = Progress([Position(A, FIRST, 9)])
    assert progress.take(A, FIRST, 10)
    assert progress.take(A, SECOND, 10)
    assert progress.take(A, FIRST, 10), "given back"
    assert progress.is_oldest(A, FIRST, 10)
    assert not progress.is_oldest(A, SECOND, 10)
    assert not progress.take(A, FIRST, 11)
    assert progress.done(A, SECOND, 10) is None
    assert progress.done(A, FIRST, 10) == Position(A, SECOND, 10)
    assert not progress.take(A, SECOND, 10)
