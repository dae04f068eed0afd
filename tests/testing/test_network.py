"""The simulated network shows a core what the driver over libzmq would show it."""

from __future__ import annotations

import pytest

from tests.testing.recorder import ADDRESS, GROUP, LINK, core, couple
from zmqkit.protocol.core import Link
from zmqkit.testing.network import Connection, Rates
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World


def only(world: World) -> Connection:
    (connection,) = world.network.connections.values()
    return connection


def say(world: World, peer: SimPeer, link: Link, *bodies: bytes, wait: float = 0.1) -> None:
    for body in bodies:
        peer.post("send", link, body)
    world.run(wait)


def test_messages_arrive_in_order_on_a_link_of_the_binders_own():
    world, binder, dialler = couple()
    say(world, dialler, LINK, b"1", b"2", b"3")
    assert core(binder).messages() == [b"1", b"2", b"3"]
    (link,) = core(binder).links()
    assert link[:2] == GROUP
    assert not core(binder).kinds("up"), "a binder is not told of connections"
    say(world, binder, link, b"answer")
    assert core(dialler).messages() == [b"answer"]


def test_a_break_is_link_down_here_and_links_disturbed_there_and_a_new_link_after():
    world, binder, dialler = couple()
    say(world, dialler, LINK, b"1")
    world.network.break_connection(only(world))
    world.run(1.0)
    say(world, dialler, LINK, b"2")
    assert core(dialler).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]
    assert core(binder).kinds("disturbed") == [("disturbed", GROUP)]
    old, new = core(binder).links()
    assert old[:2] == new[:2] == GROUP
    say(world, binder, old, b"lost")
    assert core(binder).kinds("down") == [("down", old)]
    assert core(dialler).messages() == []


def test_many_breaks_disturb_a_group_once_in_fifty_milliseconds():
    world, binder, _ = couple()
    for number in range(8):
        world.peer(f"d{number}", lambda peer: type(core(binder))(), connect=[ADDRESS])
    world.run(0.1)
    for connection in list(world.network.connections.values()):
        world.network.break_connection(connection)
    world.run(0.045)
    assert len(core(binder).kinds("disturbed")) == 1
    world.run(0.2)
    assert len(core(binder).kinds("disturbed")) <= 3


@pytest.mark.parametrize("keeps_pipe", [False, True])
def test_what_is_sent_while_there_is_no_connection(keeps_pipe: bool):
    world, binder, dialler = couple(keeps_pipe=keeps_pipe)
    binder.crash()
    world.run(0.5)
    say(world, dialler, LINK, b"in between")
    binder.start()
    world.run(6.0)
    say(world, dialler, LINK, b"after")
    assert core(binder).messages() == ([b"in between", b"after"] if keeps_pipe else [b"after"])


@pytest.mark.parametrize(("mode", "heard"), [("hold", [b"1", b"2"]), ("drop", [b"2"])])
def test_a_short_partition_holds_messages_up_or_loses_them_and_breaks_nothing(mode, heard):
    world, binder, dialler = couple()
    world.network.partition(dialler.host, binder.host, mode)
    say(world, dialler, LINK, b"1", wait=0.5)
    assert core(binder).messages() == []
    world.network.mend(dialler.host, binder.host)
    say(world, dialler, LINK, b"2")
    assert core(binder).messages() == heard
    assert not core(dialler).kinds("down")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("deaf", ["binder", "dialler"])
def test_a_partition_longer_than_the_hop_timeout_breaks_the_connection_at_both_ends(deaf: str, full: bool):
    world, binder, dialler = couple(hop_timeout_s=1.0)
    source, target = (dialler, binder) if deaf == "binder" else (binder, dialler)
    world.network.partition(source.host, target.host, "hold")
    if full:
        world.network.partition(target.host, source.host, "hold")
    world.run(0.9)
    assert not core(dialler).kinds("down")
    world.run(0.6)
    assert core(dialler).kinds("down") == [("down", LINK)]
    assert core(binder).kinds("disturbed")
    world.run(10.0)
    assert len(core(dialler).kinds("up")) == 1, "no connection is made through a partition"
    world.network.heal()
    world.run(8.0)
    assert len(core(dialler).kinds("up")) == 2


def test_what_had_arrived_before_a_break_is_received_after_it():
    world, binder, dialler = couple()
    binder.freeze(1.0)
    say(world, dialler, LINK, b"1", b"2")
    dialler.crash()
    world.run(2.0)
    assert core(binder).messages() == [b"1", b"2"]


def test_all_that_a_closing_peer_sent_arrives():
    world, binder, dialler = couple()
    for number in range(20):
        dialler.post("send", LINK, b"%d" % number)
    dialler.close()
    world.run(1.0)
    assert not dialler.alive
    assert len(core(binder).messages()) == 20
    assert core(binder).kinds("disturbed")


@pytest.mark.parametrize("seed", range(6))  # whose end breaks first is up to the seed
def test_a_half_open_connection_swallows_what_is_sent_until_the_hop_timeout(seed: int):
    world, binder, dialler = couple(seed, hop_timeout_s=1.0)
    say(world, dialler, LINK, b"hello")
    (link,) = core(binder).links()
    world.network.break_connection(only(world), half_open=True)
    world.run(0.5)
    say(world, binder, link, b"into the void")
    world.run(1.0)
    say(world, binder, link, b"nobody there")
    assert core(dialler).messages() == []
    assert core(dialler).kinds("down") == [("down", LINK)]
    assert ("down", link) in core(binder).kinds("down")


def test_a_busy_peer_keeps_its_connection_and_hears_everything_late():
    world, binder, dialler = couple(hop_timeout_s=1.0)
    binder.freeze(5.0)
    say(world, dialler, LINK, b"1", wait=4.0)
    assert core(binder).messages() == []
    world.run(1.5)
    assert core(binder).messages() == [b"1"]
    assert not core(dialler).kinds("down")


def test_a_stopped_process_loses_its_connections():
    world, binder, dialler = couple(hop_timeout_s=1.0)
    binder.stop()
    world.run(0.8)
    assert not core(dialler).kinds("down")
    world.run(1.0)
    assert core(dialler).kinds("down")
    assert core(binder).heard == []
    binder.resume()
    world.run(6.0)
    assert core(binder).kinds("disturbed")
    assert len(core(dialler).kinds("up")) == 2


def test_a_power_cut_is_noticed_by_the_hop_timeout_only():
    world, binder, dialler = couple(hop_timeout_s=1.0)
    binder.crash("power cut")
    world.run(0.9)
    assert not core(dialler).kinds("down")
    world.run(0.5)
    assert core(dialler).kinds("down") == [("down", LINK)]


def test_a_link_of_no_more_use_is_dialled_anew():
    world, _, dialler = couple()
    core(dialler).out.disconnects.append(LINK)
    dialler.post("send", LINK, b"x")
    world.run(1.0)
    assert core(dialler).kinds("up", "down") == [("up", LINK), ("down", LINK), ("up", LINK)]


@pytest.mark.parametrize(
    ("rates", "counter"),
    [
        (Rates(loss=0.2), "lost"),
        (Rates(duplicate=0.2), "duplicated"),
        (Rates(reorder=0.2), "reordered"),
        (Rates(spike=0.2), "delayed"),
    ],
)
def test_each_rate_does_what_it_says(rates: Rates, counter: str):
    world, binder, dialler = couple()
    world.network.rates = rates
    sent = [b"%03d" % number for number in range(300)]
    for body in sent:
        say(world, dialler, LINK, body, wait=0.002)
    world.network.heal()
    world.run(5.0)
    heard = core(binder).messages()
    count = world.counts[counter]
    assert count > 20
    if counter == "lost":
        assert heard == sorted(heard)
        assert len(heard) == len(sent) - count
    elif counter == "duplicated":
        assert heard == sorted(heard)
        assert len(heard) == len(sent) + count
    elif counter == "reordered":
        assert heard != sent
        assert sorted(heard) == sent
    else:
        assert heard == sent
