"""Several subscribers behind one connection of the data plane, as through a forwarder (docs/protocol.md, 14.7)."""

from __future__ import annotations

from typing import Any

from tests.protocol.cores import Host
from tests.pubsub.listening import DATA, TOKEN, Listener, Scene
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.talk import Leave
from zmqkit.patterns.pubsub.topics import private_topic, wire_topic

MOST = 100_000
"""So many bytes may be sent and not seen; each message of these tests has more than half of it."""


class Shared(Scene):
    """A publisher, a listener ``c``, and a second one, both behind the connection `TOKEN`."""

    def __init__(self) -> None:
        super().__init__(limits=Limits(queued_bytes=MOST))
        self.other = self.second({})
        self.subscribe(wire_topic("a"))
        for host in (self.c, self.other):
            self.tell(host, talk.Topics(True, ["a"], [], True))
            self.subscribe(private_topic(wire.private_name(host.core.local.instance, 1)))

    def tell(self, host: Host, *messages: Any) -> None:
        for each in messages:
            host.core.say(each, self.now)
        self.settle()

    def settle(self) -> None:
        self.flow()
        self.flow_second(self.other)

    def publish_and_see(self, *seeing: Host) -> None:
        """A large message, and the beat after it, which some of them say that they have seen."""
        self.publish(("a", b"x" * 60_000))
        self.advance(0.3)
        beat = next(each for each in reversed(self.read()) if isinstance(each, wire.Beat))
        for host in seeing:
            self.tell(host, talk.Seen(beat.number))
        self.settle()

    def told_to_leave(self, host: Host) -> int:
        core = host.core
        assert isinstance(core, Listener)
        return sum(type(each) is Leave for each in core.got)

    def modes(self) -> list[str]:
        ticket = object()
        self.call(self.b, "subscribers", ticket)
        return sorted(each.mode for each in self.b.replies[ticket])


def test_who_does_not_keep_up_is_told_to_leave_in_its_session_and_the_connection_stays():
    scene = Shared()
    scene.tell(scene.c, talk.Joined(1, 0))
    scene.tell(scene.other, talk.Joined(1, 0))
    for _ in range(6):
        scene.publish_and_see(scene.other)
    assert (scene.told_to_leave(scene.c), scene.told_to_leave(scene.other)) == (1, 0)
    assert scene.disconnects == []
    assert scene.modes() == ["joining", "live"]
    assert scene.b.core.counters["subscribers_slow"] == 1


def test_who_was_told_to_leave_may_join_again_over_the_same_connection():
    scene = Shared()
    scene.tell(scene.c, talk.Joined(1, 0))
    scene.tell(scene.other, talk.Joined(1, 0))
    for _ in range(3):
        scene.publish_and_see(scene.other)
    scene.tell(scene.c, talk.Left())
    scene.subscribe(private_topic(wire.private_name(scene.c.core.local.instance, 2)))
    scene.subscribe(private_topic(wire.private_name(scene.c.core.local.instance, 1)), on=False)
    scene.tell(scene.c, talk.Joined(2, 3))
    for _ in range(4):
        scene.publish_and_see(scene.c, scene.other)
    assert scene.told_to_leave(scene.c) == 1
    assert scene.modes() == ["live", "live"]
    assert scene.disconnects == []


def test_the_connection_is_closed_when_nobody_behind_it_keeps_up():
    scene = Shared()
    scene.tell(scene.c, talk.Joined(1, 0))
    scene.tell(scene.other, talk.Joined(1, 0))
    for _ in range(2):
        scene.publish_and_see()
    assert (scene.told_to_leave(scene.c), scene.told_to_leave(scene.other)) == (1, 1)
    assert scene.disconnects == [(*DATA, TOKEN)]


def test_a_session_that_ends_leaves_the_connection_to_the_others():
    scene = Shared()
    scene.disconnect()
    scene.c.paused = True
    for _ in range(200):
        scene.advance(0.3)
        scene.flow_second(scene.other)
    assert len(scene.b.core.audience.members) == 1
    assert scene.disconnects == []


def test_a_connection_over_which_no_data_is_subscribed_is_nobodys_burden():
    # Of a subscriber that lives on feeds: it gets beats and fences, and says of none that it saw it.
    scene = Scene(limits=Limits(queued_bytes=MOST))
    scene.topics("a")
    scene.subscribe(b"b")
    scene.join()
    for _ in range(4):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert scene.disconnects == []
    assert scene.b.core.counters["subscribers_slow"] == 0


def test_who_joins_over_an_old_connection_is_not_judged_by_what_was_sent_before():
    scene = Shared()
    scene.subscribe(wire_topic("a"), on=False)
    for _ in range(4):
        scene.publish_and_see()
    scene.subscribe(wire_topic("a"))
    scene.tell(scene.c, talk.Joined(1, 4))
    scene.publish_and_see(scene.c)
    assert scene.disconnects == []
    assert scene.told_to_leave(scene.c) == 0


def test_who_takes_its_private_topic_back_is_watched_all_the_same():
    scene = Scene(limits=Limits(queued_bytes=MOST))
    private = private_topic(wire.private_name(b"n" * 16, 1))
    scene.subscribe(b"d", token=b"sly")
    scene.subscribe(private, token=b"sly")
    scene.subscribe(private, token=b"sly", on=False)
    for _ in range(3):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert scene.disconnects == [(*DATA, b"sly")]


def test_who_has_no_session_for_long_is_watched_all_the_same():
    scene = Scene(limits=Limits(queued_bytes=MOST))
    scene.subscribe(b"d", token=b"silent")
    scene.subscribe(private_topic(wire.private_name(b"n" * 16, 1)), token=b"silent")
    scene.advance(60.0)
    assert not scene.b.core.audience.has_private
    for _ in range(3):
        scene.publish(("a", b"x" * 60_000))
        scene.advance(0.3)
    assert scene.disconnects == [(*DATA, b"silent")]
