"""Data endpoints: XPUB and XSUB, and what a core hears of them, over each transport."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.transport.planes import OUTSIDE, PLACES, TCP, own, publisher, say, subscribed, subscriber
from tests.transport.raw import (
    ANSWER,
    ASK,
    PATIENCE_S,
    Disturbed,
    Down,
    Heard,
    RawCore,
    Up,
    driver,
    raw,
    take,
    take_until,
    until,
)
from tests.transport.test_links import place
from zmqkit.errors import AddressError, AddressInUse, UsageError
from zmqkit.options import Heartbeat, Limits
from zmqkit.transport import connections, wires
from zmqkit.transport.context import context
from zmqkit.transport.data import DIALERS, DataDialer, DataListener
from zmqkit.transport.links import Dialer

pytestmark = pytest.mark.usefixtures("tested")


# ---- what goes over them -----------------------------------------------------------


@pytest.mark.parametrize("kind", PLACES)
def test_a_subscriber_gets_what_it_subscribed_to_and_nothing_else(kind: str, tmp_path: Path) -> None:
    with publisher(place(kind, tmp_path)) as bound, subscriber(bound.data_addresses) as dialled:
        link = own(bound)
        assert take(dialled) == Up(link)  # the other side's name of it is the same
        say(dialled, link, b"\x01a")
        subscription = take(bound)
        assert subscription.link == link
        assert subscription.frames[0] == b"\x01a"
        assert bool(subscription.frames[1]) == (kind != "inproc")
        for frames in ([b"a1"], [b"b"], [b"a2", b"", b"two"], [b""], [b"a" * 100_000]):
            say(bound, link, *frames)
        assert [take(dialled).frames for _ in range(3)] == [[b"a1"], [b"a2", b"", b"two"], [b"a" * 100_000]]
        say(dialled, link, b"\x00a")
        assert take(bound) == Heard(link, [b"\x00a", subscription.frames[1]])
        say(dialled, link, b"\x01")
        assert take(bound) == Heard(link, [b"\x01", subscription.frames[1]])
        say(bound, link, b"anything")
        assert take(dialled) == Heard(link, [b"anything"])


def test_what_a_publisher_says_goes_to_each_subscriber_of_it() -> None:
    with publisher(TCP) as bound:
        own(bound)
        with contextlib.ExitStack() as stack:
            dialled = [stack.enter_context(subscriber(bound.data_addresses)) for _ in range(3)]
            tokens = []
            for io, topic in zip(dialled, (b"a", b"a", b"ab"), strict=True):
                link, token = subscribed(io, bound, topic)
                tokens.append(token)
            assert len(set(tokens)) == 3  # the second to subscribe to "a" is told, too
            for message in (b"ax", b"ab", b"b"):
                say(bound, link, message)
            say(dialled[0], link, b"\x01fence")
            assert take(bound).frames == [b"\x01fence", tokens[0]]
            assert [
                [take(io).frames[0] for _ in range(count)] for io, count in zip(dialled, (2, 2, 1), strict=True)
            ] == [
                [b"ax", b"ab"],
                [b"ax", b"ab"],
                [b"ab"],
            ]


def test_what_follows_a_subscription_on_its_connection_is_whole() -> None:
    """A fence: the publisher answers the last of many subscriptions, and from there on all of them are in force."""
    topics = [b"t%04d" % n for n in range(3000)]
    with publisher(TCP) as bound, subscriber(bound.data_addresses) as dialled:
        link = own(bound)
        take(dialled)

        def subscribe(now: float) -> None:
            raw(dialled).out.sends += [(link, [b"\x01" + topic]) for topic in (*topics, b"p")]

        dialled.submit(subscribe)
        heard = [take(bound).frames[0] for _ in range(len(topics) + 1)]
        assert heard == [b"\x01" + topic for topic in (*topics, b"p")]
        for message in (b"p", *topics):
            say(bound, link, message)
        assert [take(dialled).frames[0] for _ in range(len(topics) + 1)] == [b"p", *topics]


def test_a_bound_data_endpoint_is_the_first_that_a_core_hears_of(tmp_path: Path) -> None:
    class Told(RawCore):
        def end_turn(self, now: float) -> None:
            told.append(list(self.out.items))
            super().end_turn(now)

    told: list[list[Any]] = []
    binds = [TCP, f"ipc://{tmp_path}/socket", f"inproc://{tmp_path}"]
    with driver(Told(), binds=[TCP], data="XPUB", data_binds=binds) as bound:
        assert [take(bound) for _ in binds] == [Up(("d", address)) for address in bound.data_addresses]
        assert len(bound.addresses) == 1
        assert told[0] == [Up(("d", address)) for address in bound.data_addresses]


def test_a_core_that_raises_when_told_of_its_data_endpoints_is_told_of_the_others() -> None:
    core = RawCore()
    core.raises["link_up"] = 1
    with driver(core, data="XPUB", data_binds=[TCP, TCP]) as bound:
        assert take(bound) == Up(("d", bound.data_addresses[1]))
        assert bound.stats()["io_core_errors"] == 1


# ---- breaks ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_break_is_told_after_all_that_came_before_it_and_before_anything_of_the_next_connection(
    kind: str, tmp_path: Path
) -> None:
    count = 500
    with publisher(place(kind, tmp_path)) as first, subscriber(first.data_addresses) as dialled:
        address = first.data_addresses[0]
        link, _ = subscribed(dialled, first, b"")
        raw(first).goodbyes = [(link, [b"%d" % n]) for n in range(count)]
        assert first.close(PATIENCE_S)
        heard = [take(dialled) for _ in range(count + 1)]
        assert heard == [Heard(link, [b"%d" % n]) for n in range(count)] + [Down(link)]
        with publisher(address) as second:
            own(second)
            assert take(dialled) == Up(link)
            # The new connection knows nothing of what was subscribed to over the last one.
            say(second, link, b"to nobody")
            say(dialled, link, b"\x01")
            assert take(second).frames[0] == b"\x01"
            say(second, link, b"fresh")
            assert take(dialled) == Heard(link, [b"fresh"])


def test_libzmq_does_not_connect_again_by_itself_while_the_driver_stands_still() -> None:
    """As at a slow disk: libzmq would repeat the subscriptions, and a gap could not be told from silence."""
    accepted: list[bool] = []
    peer = context().socket(zmq.XPUB)
    peer.bind("tcp://127.0.0.1:*")
    address = peer.getsockopt_string(zmq.LAST_ENDPOINT)
    with subscriber([address]) as dialled, context().socket(zmq.XPUB) as next_one:
        link = take(dialled).link

        def bound() -> bool:
            with contextlib.suppress(zmq.ZMQError):  # the last one's port is not free at once
                next_one.bind(address)
                return True
            return False

        def stand_still(now: float) -> None:
            peer.send(b"before")
            peer.close(linger=1000 * int(PATIENCE_S))
            until(bound)
            accepted.append(bool(monitor.poll(500)))

        say(dialled, link, b"\x01")
        assert peer.recv() == b"\x01"
        monitor = next_one.get_monitor_socket(zmq.EVENT_ACCEPTED)
        dialled.submit(stand_still)
        assert [take(dialled), take(dialled)] == [Heard(link, [b"before"]), Down(link)]
        assert accepted == [False]
        assert take(dialled) == Up(link)
        assert monitor.poll(1000 * int(PATIENCE_S))
        next_one.disable_monitor()
        monitor.close()


@pytest.mark.parametrize("kind", ["tcp", "ipc", "inproc"])
def test_a_publisher_that_is_not_there_yet_is_dialled_until_it_is(kind: str, tmp_path: Path) -> None:
    address = place(kind, tmp_path)
    if kind == "tcp":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with subscriber([address]) as dialled:
        if kind != "inproc":
            dialer = dialled._wires._by_link["d", address]
            assert isinstance(dialer, DataDialer)
            until(lambda: dialer.failures >= 2)
            assert len(dialled.mailbox) == 0
        with publisher(address) as bound:
            link, _ = subscribed(dialled, bound, b"")
            say(bound, link, b"at last")
            assert take(dialled) == Heard(link, [b"at last"])
        assert dialled.stats()["io_handshakes_failed"] == 0


def test_a_name_that_cannot_be_resolved_is_tried_again() -> None:
    """libzmq tells nothing of it if it is told never to connect again."""
    address = f"tcp://{'x' * 64}:5555"  # too long for a question to a name server
    with subscriber([address]) as dialled:
        dialer = dialled._wires._by_link["d", address]
        assert isinstance(dialer, DataDialer)
        until(lambda: dialer.failures >= 2)


def test_a_publisher_within_the_process_that_is_gone_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No monitor tells of it, and no send fails."""
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.001)
    count = 5 * connections.MESSAGES_A_TURN
    address = f"inproc://{tmp_path}"
    with publisher(address) as first, subscriber([address]) as dialled:
        link, _ = subscribed(dialled, first, b"")
        raw(first).goodbyes = [(link, [b"%d" % n]) for n in range(count)]
        assert first.close(PATIENCE_S)
        heard = [take(dialled) for _ in range(count + 1)]
        assert heard == [Heard(link, [b"%d" % n]) for n in range(count)] + [Down(link)]
        with publisher(address) as second:
            subscribed(dialled, second, b"")
            say(second, link, b"hello")
            assert take(dialled) == Heard(link, [b"hello"])


@pytest.mark.parametrize("kind", OUTSIDE)
def test_one_connection_is_closed_by_its_token_and_the_others_stay(kind: str, tmp_path: Path) -> None:
    with publisher(place(kind, tmp_path)) as bound:
        link = own(bound)
        with subscriber(bound.data_addresses) as slow, subscriber(bound.data_addresses) as good:
            _, token = subscribed(slow, bound, b"")
            _, other = subscribed(good, bound, b"")
            for useless in (b"", b"junk", b"\xff" * len(token), token[:-1] + bytes([token[-1] ^ 1])):
                bound.submit(raw(bound).drop, (*link, useless))
            bound.submit(raw(bound).drop, (*link, token))
            assert take(slow) == Down(link)
            assert take(bound) == Disturbed(link)
            _, again = subscribed(slow, bound, b"")
            assert again not in (token, other)
            bound.submit(raw(bound).drop, (*link, token))  # it is gone: nobody else is meant
            say(bound, link, b"hello")
            assert take(slow) == Heard(link, [b"hello"])
            assert take(good) == Heard(link, [b"hello"])


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "ipc", "inproc"])
def test_a_data_link_of_no_use_is_dialled_anew_and_a_bound_one_stays(kind: str, tmp_path: Path) -> None:
    with publisher(place(kind, tmp_path)) as bound, subscriber(bound.data_addresses) as dialled:
        link, _ = subscribed(dialled, bound, b"a")
        bound.submit(raw(bound).drop, link)
        say(bound, link, b"a1")
        assert take(dialled) == Heard(link, [b"a1"])
        dialled.submit(raw(dialled).drop, link)
        assert take(dialled) == Down(link)
        subscribed(dialled, bound, b"b")
        say(bound, link, b"a2")
        say(bound, link, b"b1")
        assert take(dialled) == Heard(link, [b"b1"])


def test_a_data_address_is_connected_until_its_last_user_leaves() -> None:
    with publisher(TCP) as bound, driver(data="XSUB") as dialled:
        address = bound.data_addresses[0]
        dialled.disconnect_data(address)  # unknown: ignored
        dialled.connect_data(address)
        dialled.connect_data(address)
        link, _ = subscribed(dialled, bound, b"")
        dialled.disconnect_data(address)
        dialled.disconnect(address)  # of another kind
        say(bound, link, b"still here")
        assert take(dialled) == Heard(link, [b"still here"])
        assert dialled.stats()["io_connections"] == 1
        dialled.disconnect_data(address)
        assert take(dialled) == Down(link)
        assert take_until(bound, Disturbed) == Disturbed(link)
        say(dialled, link, b"\x01")
        dialled.connect_data(address)
        assert take(dialled) == Up(link)
        assert dialled.stats()["io_sends_dropped"] == 1


# ---- publishers that connect -------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp://127.0.0.1:0", "ipc", "inproc"])
def test_several_publishers_connect_to_a_bound_subscriber(kind: str, tmp_path: Path) -> None:
    with driver(data="XSUB", data_binds=[place(kind, tmp_path)]) as bound:
        link = own(bound)
        for subscription in (b"\x01p1", b"\x01dz", b"\x01b", b"\x01da"):
            say(bound, link, subscription)
        with driver(data="XPUB", data_connects=bound.data_addresses) as first:
            with driver(data="XPUB", data_connects=bound.data_addresses) as second:
                for io in (first, second):
                    # A subscriber's latest publisher hears all it has subscribed to, in the order of the bytes.
                    assert take(io) == Up(link)
                    heard = [take(io) for _ in range(4)]
                    assert [each.frames[0] for each in heard] == [b"\x01b", b"\x01da", b"\x01dz", b"\x01p1"]
                    assert len({each.frames[1] for each in heard}) == 1
                    say(io, link, b"da from %d" % (io is second))
                assert {take(bound).frames[0], take(bound).frames[0]} == {b"da from 0", b"da from 1"}
            if kind != "inproc":
                assert take(bound) == Disturbed(link)
            say(first, link, b"p1")
            assert take_until(bound, Heard) == Heard(link, [b"p1"])  # it may be told of the break again
            say(bound, link, b"\x00p1")
            assert take(first).frames[0] == b"\x00p1"


def test_a_publisher_that_connected_drops_its_connection_by_its_token() -> None:
    with driver(data="XSUB", data_binds=[TCP]) as bound:
        link = own(bound)
        say(bound, link, b"\x01a")
        with driver(data="XPUB", data_connects=bound.data_addresses) as dialled:
            assert take(dialled) == Up(link)
            heard = take(dialled)
            dialled.submit(raw(dialled).drop, (*link, b"junk"))
            say(dialled, link, b"a1")
            assert take(bound) == Heard(link, [b"a1"])
            dialled.submit(raw(dialled).drop, (*link, heard.frames[1]))
            assert [take(dialled), take(dialled)] == [Down(link), Up(link)]


# ---- what a driver is asked --------------------------------------------------------


def test_a_core_dials_and_leaves_by_itself() -> None:
    with driver(binds=[TCP]) as bound, driver() as dialled:
        address = bound.addresses[0]
        link = ("c", address)
        dialled.submit(raw(dialled).dial, address, True)
        assert take(dialled) == Up(link)
        dialled.connect(address)  # the user wants it, too
        dialled.submit(raw(dialled).dial, address, False)
        say(dialled, link, ASK)
        assert take(dialled) == Heard(link, [ANSWER])
        dialled.disconnect(address)
        assert take(dialled) == Down(link)
        dialled.submit(raw(dialled).dial, address, False)  # unknown: ignored
        dialled.submit(raw(dialled).dial, address, True)
        assert take(dialled) == Up(link)


def test_an_address_that_a_core_cannot_dial_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with driver(binds=[TCP]) as bound, driver() as dialled, caplog.at_level(logging.WARNING):
        dialled.submit(raw(dialled).dial, "tcp://nonsense", True)
        dialled.submit(raw(dialled).dial, bound.addresses[0], True)
        assert take(dialled) == Up(("c", bound.addresses[0]))
    assert "cannot connect to 'tcp://nonsense'" in caplog.text


@pytest.mark.parametrize("way", ["by the core", "by the user", "of data"])
def test_a_dial_for_which_there_are_no_descriptors_is_tried_again(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Dialer] = []

    class Poor(Dialer):
        def open(self) -> None:
            if not failed:
                failed.append(self)
                raise zmq.ZMQError(errno.EMFILE)
            super().open()

    class PoorData(Poor, DataDialer):
        pass

    monkeypatch.setattr(wires, "Dialer", Poor)
    monkeypatch.setitem(DIALERS, "XSUB", PoorData)
    with driver(binds=[TCP], data="XPUB", data_binds=[TCP]) as bound, driver(data="XSUB") as dialled:
        address = (bound.data_addresses if way == "of data" else bound.addresses)[0]
        if way == "by the core":
            dialled.submit(raw(dialled).dial, address, True)
        else:
            (dialled.connect if way == "by the user" else dialled.connect_data)(address)
        assert take(dialled) == Up(("d" if way == "of data" else "c", address))
        assert len(failed) == 1


def test_a_taken_data_address_is_refused_and_leaves_nothing_bound() -> None:
    with publisher(TCP) as holder:
        with (
            pytest.raises(AddressInUse),
            driver(binds=["inproc://data"], data="XSUB", data_binds=holder.data_addresses),
        ):
            raise AssertionError("it bound a taken address")
        with (
            pytest.raises(AddressInUse),
            driver(binds=holder.data_addresses, data="XSUB", data_binds=["inproc://data"]) as failed,
        ):
            raise AssertionError(f"{failed} bound a taken address")
        with driver(data="XSUB", data_binds=["inproc://data"]) as again:
            assert own(again) == ("d", "inproc://data")


def test_addresses_of_data_say_nothing_without_a_kind() -> None:
    with pytest.raises(UsageError, match="data="), driver(data_binds=[TCP]):
        raise AssertionError("it was made")
    with driver() as io, pytest.raises(UsageError, match="no data endpoints"):
        io.connect_data(TCP)


def test_a_data_address_that_cannot_be_read_is_named_at_start_and_survived_later() -> None:
    with pytest.raises(AddressError, match="cannot connect to 'bad'"), subscriber(["bad"]):
        raise AssertionError("it connected to that")
    with publisher(TCP) as bound, driver(data="XSUB") as io:
        io.connect_data("bad")
        io.connect_data(bound.data_addresses[0])
        assert take(io) == Up(("d", bound.data_addresses[0]))
    with publisher(TCP) as bound:
        link = own(bound)
        bound.connect_data(bound.data_addresses[0])  # to itself
        with subscriber(bound.data_addresses) as dialled:
            subscribed(dialled, bound, b"")
            assert isinstance(bound._wires._by_link[link], DataListener)


def test_a_subscriber_closes_though_its_publisher_left_while_it_was_still_talking() -> None:
    with context().socket(zmq.XPUB) as there:
        there.setsockopt(zmq.LINGER, 0)
        port = there.bind_to_random_port("tcp://127.0.0.1")
        dialer = DataDialer(f"tcp://127.0.0.1:{port}", Heartbeat(), Limits())
        dialer.open()
        assert dialer.socket is not None
        dialer.socket.send(b"\x01a")
        assert there.recv() == b"\x01a"
    for n in range(1000):
        dialer.socket.send(b"\x01%d" % n)
    dialer.begin_close(int(2 * PATIENCE_S * 1000))
    try:
        until(dialer.closed)
    finally:
        dialer.close()
