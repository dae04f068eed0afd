"""What the simulation found in the cores of publish-subscribe: each with the fewest steps that show it."""

from __future__ import annotations

from tests.pubsub.listening import EPOCH
from tests.pubsub.test_history import EPOCH2, Durable, reopened
from zmqkit.patterns.pubsub import talk


def test_a_feed_behind_all_that_the_journal_has_of_an_earlier_opening_reads_it_once():
    scene = Durable()
    scene.publish(("a", b"1"))
    scene.publish(("a", b"2"))
    scene = reopened(scene)
    scene.topics("a")
    scene.feed(after=2)  # no row says that 2 is the last of its row
    (done,) = scene.said(talk.Done)
    assert done.epoch == EPOCH2
    first = scene.publish(("a", b"3"))
    assert scene.fed() == [(first, "a", b"3")]


def test_last_values_are_told_in_the_epochs_that_they_are_of():
    scene = Durable(last_value=True)
    scene.publish(("a", b"1"), ("b", b"2"))
    scene = reopened(scene, last_value=True)
    last = scene.publish(("b", b"3"))
    scene.topics("#")
    scene.say(talk.Values(1, last))
    assert [(block.epoch, list(block.offsets)) for block in scene.blocks()] == [(EPOCH, [1]), (EPOCH2, [last])]
