"""The simulated data plane shows a core what the driver over XPUB and XSUB would show it."""

from __future__ import annotations

from tests.testing.recorder import Recorder, core
from zmqkit.testing.data import DataConnection, Forwarder
from zmqkit.testing.network import Rates
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World

ADDRESS = "tcp://pub:1"
LINK = ("d", ADDRESS)


def pair(seed: int = 0, *, subscribers: int = 1, hop_timeout_s: float = 1.0) -> tuple[World, SimPeer, list[SimPeer]]:
    """An XPUB that is bound, and some XSUB that connect."""
    world = World(seed, hop_timeout_s=hop_timeout_s)
    pub = world.peer("pub", lambda peer: Recorder(), data="XPUB", data_bind=[ADDRESS])
    subs = [
        world.peer(f"sub{n}", lambda peer: Recorder(), data="XSUB", data_connect=[ADDRESS]) for n in range(subscribers)
    ]
    pub.data[ADDRESS].tells_tokens = True
    world.run(0.1)
    return world, pub, subs


def say(world: World, peer: SimPeer, *bodies: bytes, wait: float = 0.2) -> None:
    for body in bodies:
        peer.post("send", LINK, body)
    world.run(wait)


def only(world: World) -> DataConnection:
    (connection,) = world.network.connections.values()
    assert isinstance(connection, DataConnection)
    return connection


def test_a_bound_one_is_up_as_the_first_thing_it_hears_and_never_down():
    world, pub, (sub,) = pair()
    assert core(pub).heard[0] == ("up", LINK)
    assert core(sub).heard == [("up", LINK)]
    world.network.break_connection(only(world))
    world.run(1.0)
    assert core(pub).kinds("up", "down", "disturbed") == [("up", LINK), ("disturbed", LINK)]
    assert core(sub).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]


def test_messages_go_to_those_who_subscribed_a_prefix_of_them():
    world, pub, (one, two) = pair(subscribers=2)
    say(world, one, b"\x01da", b"\x01dbb")
    say(world, two, b"\x01dab")
    say(world, pub, b"da1", b"dab", b"dbb2", b"db")
    assert core(one).messages() == [b"da1", b"dab", b"dbb2"]
    assert core(two).messages() == [b"dab"]
    say(world, one, b"\x00da")
    say(world, pub, b"dab")
    assert core(one).messages() == [b"da1", b"dab", b"dbb2"]
    assert core(two).messages() == [b"dab", b"dab"]


def test_subscriptions_come_with_a_token_and_only_the_last_one_to_leave_is_told():
    world, pub, (one, two) = pair(subscribers=2)
    tokens = [connection.token for connection in pub.data[ADDRESS].connections]
    say(world, one, b"\x01d", b"\x01d")
    say(world, two, b"\x01d")
    say(world, one, b"\x00d")
    say(world, one, b"\x00d")
    say(world, two, b"\x00d")
    mine, other = tokens if core(pub).messages()[0].endswith(tokens[0]) else reversed(tokens)
    assert core(pub).messages() == [b"\x01d" + mine, b"\x01d" + mine, b"\x01d" + other, b"\x00d" + other]


def test_a_new_connection_is_a_new_socket_without_subscriptions():
    world, pub, (sub,) = pair()
    say(world, sub, b"\x01d")
    world.network.break_connection(only(world))
    world.run(1.0)
    say(world, pub, b"d1")
    assert core(sub).messages() == []
    assert core(pub).messages()[-1] == b"\x00d", "with the last subscriber went the subscription"
    say(world, sub, b"\x01d")
    say(world, pub, b"d2")
    assert core(sub).messages() == [b"d2"]


def test_nothing_of_a_connection_comes_after_its_end():
    for seed in range(60):
        world, pub, (sub,) = pair(seed)
        say(world, sub, b"\x01d")
        for number in range(20):
            pub.post("send", LINK, b"d%d" % number)
            if number == 10:
                sub.freeze(0.3)
                world.run(0.0004)
                world.network.break_connection(only(world))
            world.run(0.0004)
        world.run(1.0)
        heard = core(sub).heard
        got = [int(what[2][1:]) for what in heard if what[0] == "message"]
        assert got == list(range(len(got))), "whole until it breaks"
        if got:
            last = max(at for at, what in enumerate(heard) if what[0] == "message")
            assert ("down", LINK) in heard[last:]


def test_nothing_is_lost_doubled_or_overtaken_in_a_connection_whatever_the_rates():
    world, pub, (sub,) = pair()
    say(world, sub, b"\x01d")
    world.network.rates = Rates(loss=0.2, duplicate=0.2, reorder=0.2, spike=0.2)
    bodies = [b"d%d" % number for number in range(200)]
    say(world, pub, *bodies, wait=5.0)
    assert core(sub).messages() == bodies
    assert world.counts["data delayed"]


def test_a_partition_that_drops_elsewhere_only_holds_the_data_plane_up():
    world, pub, (sub,) = pair()
    say(world, sub, b"\x01d")
    world.network.partition(pub.host, sub.host, "drop")
    say(world, pub, b"d1", wait=0.5)
    assert core(sub).messages() == []
    world.network.mend(pub.host, sub.host)
    world.run(0.2)
    assert core(sub).messages() == [b"d1"]


def test_a_long_partition_breaks_the_connection_and_what_waited_is_gone():
    world, pub, (sub,) = pair()
    say(world, sub, b"\x01d")
    world.network.partition(pub.host, sub.host, "hold")
    say(world, pub, b"d1", wait=3.0)
    world.network.mend(pub.host, sub.host)
    world.run(8.0)
    assert core(sub).messages() == []
    assert core(sub).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]


def test_a_forwarder_drops_frames_and_nobody_is_told():
    world, pub, (sub,) = pair(3)
    world.network.data.forwarders[ADDRESS] = Forwarder(0.1, 0.02, 8)
    say(world, sub, b"\x01d")
    bodies = [b"d%03d" % number for number in range(300)]
    say(world, pub, *bodies, wait=1.0)
    got = core(sub).messages()
    assert got == sorted(got)
    assert 100 < len(got) < 290
    assert len(got) == 300 - world.counts["dropped by a forwarder"]
    assert core(sub).kinds("down") == []


def test_the_publisher_closes_one_connection_by_its_token():
    world, pub, (one, two) = pair(subscribers=2)
    say(world, one, b"\x01d")
    token = core(pub).messages()[-1][2:]
    say(world, two, b"\x01d")
    pub.post(lambda recorder, now: recorder.out.disconnects.append((*LINK, token)))
    world.run(1.0)
    assert core(one).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]
    assert core(two).kinds("up", "down") == [("up", LINK)]
    pub.post(lambda recorder, now: recorder.out.disconnects.append((*LINK, token)))
    world.run(0.3)
    assert world.counts["data connection expelled"] == 1


def test_a_subscriber_that_leaves_dials_anew():
    world, _, (sub,) = pair()
    sub.post(lambda recorder, now: recorder.out.disconnects.append(LINK))
    world.run(1.0)
    assert core(sub).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]


def test_a_bound_subscriber_tells_each_new_connection_what_it_has_subscribed_in_order():
    world = World(0, hop_timeout_s=1.0)
    sub = world.peer("sub", lambda peer: Recorder(), data="XSUB", data_bind=[ADDRESS])
    say(world, sub, b"\x01p", b"\x01d", b"\x01d", b"\x01b")
    pub = world.peer("pub", lambda peer: Recorder(), data="XPUB", data_connect=[ADDRESS])
    world.run(0.1)
    pub.data[ADDRESS].tells_tokens = True
    assert [body[:2] for body in core(pub).messages()] == [b"\x01b", b"\x01d", b"\x01p"]
    say(world, pub, b"d1", b"x2", b"p3")
    assert core(sub).messages() == [b"d1", b"p3"]
    say(world, sub, b"\x00d")
    say(world, pub, b"d4")
    say(world, sub, b"\x00d")
    say(world, pub, b"d5")
    assert core(sub).messages() == [b"d1", b"p3", b"d4"]


def test_a_stranger_that_only_dials_is_nobody_to_send_to():
    world, pub, (_sub,) = pair()
    say(world, pub, b"d1")
    assert core(pub).kinds("down") == []


def test_a_core_dials_for_its_recovery_channel_and_leaves_with_the_last_who_wanted_it():
    world, pub, (sub,) = pair()
    pub.bind("tcp://pub:2")
    link = ("c", "tcp://pub:2")

    def dial(wanted: bool):
        return lambda recorder, now: recorder.out.dials.append(("tcp://pub:2", wanted))

    sub.post(dial(True))
    sub.post(dial(True))
    world.run(0.2)
    assert ("up", link) in core(sub).heard
    sub.post(dial(False))
    world.run(0.2)
    assert ("down", link) not in core(sub).heard
    sub.post(dial(False))
    world.run(0.2)
    assert ("down", link) in core(sub).heard


def test_a_publisher_that_dies_and_comes_back_is_a_break_for_its_subscribers():
    world, pub, (sub,) = pair()
    say(world, sub, b"\x01d")
    pub.crash()
    world.run(1.0)
    assert core(sub).kinds("up", "down") == [("up", LINK), ("down", LINK)]
    pub.start()
    world.run(8.0)
    assert core(sub).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]
    assert core(pub).heard[0] == ("up", LINK)
