"""Peers of all patterns through a learning switch, over real sockets, as if nothing lay between (section 15).

The device's own tests are elsewhere: here it is what peers owe a device, whichever side they are on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import zmqkit
from tests.protocol.switch import ANY, BEAT, Switch
from zmqkit.address import bare
from zmqkit.events import PeerFound

PATIENCE_S = 20.0


@pytest.fixture(params=["acceptors that bind", "acceptors that dial"])
def through(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens acceptors, and the switch before them: ``through("client", "server", make, make, ...)``."""
    with ExitStack() as stack:

        def build(initiators: str, acceptors: str, *makers: Callable[..., Any]) -> tuple[Switch, list[Any]]:
            if request.param == "acceptors that bind":
                made = [stack.enter_context(make(bind=ANY)) for make in makers]
                switch = Switch(initiators, acceptors, [each.addresses[0] for each in made])
                stack.callback(switch.close)
            else:
                switch = Switch(initiators, acceptors, [])
                stack.callback(switch.close)
                made = [stack.enter_context(make(connect=switch.back)) for make in makers]
            return switch, made

        yield build


@contextmanager
def served(server: zmqkit.Server) -> Iterator[zmqkit.Server]:
    """A server that serves."""
    with server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(PATIENCE_S)
    assert not thread.is_alive()


def a_server(name: str, gate: threading.Event | None = None, entered: threading.Event | None = None) -> Any:
    """Makes a server that tells its name, at once or when the gate opens."""

    def make(**where: Any) -> Any:
        server = zmqkit.Server(name=name, heartbeat=BEAT, **where)

        @server.method(name="who")
        def who() -> str:
            if entered is not None and gate is not None:
                entered.set()
                assert gate.wait(PATIENCE_S)
            return name

        return served(server)

    return make


def test_a_client_has_a_session_with_each_server_and_goes_on_with_those_that_stay(through: Any) -> None:
    switch, servers = through("client", "server", a_server("one"), a_server("two"))
    met: list[str] = []
    with zmqkit.Client(switch.front, heartbeat=BEAT) as client:
        client.on(PeerFound, lambda event: met.append(event.address))
        client.wait_for_peers(2, timeout=PATIENCE_S)
        assert {client.call("who") for _ in range(20)} == {"one", "two"}
        assert client._dialled_in_use() == {switch.front}
        servers[0].close()
        assert {client.call("who") for _ in range(20)} == {"two"}
        assert met == [bare(address) for address in met]


def test_a_server_behind_a_switch_that_closes_answers_what_it_has_begun(through: Any) -> None:
    gate, entered = threading.Event(), threading.Event()
    switch, (server,) = through("client", "server", a_server("one", gate, entered))
    with zmqkit.Client(switch.front, heartbeat=BEAT) as client:
        reply = client.submit("who")
        assert entered.wait(PATIENCE_S)
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        gate.set()
        assert reply.result(PATIENCE_S) == "one"
        closing.join(PATIENCE_S)
        assert not closing.is_alive()


def a_puller(name: str) -> Callable[..., zmqkit.Puller[Any]]:
    return lambda **where: zmqkit.Puller(name=name, heartbeat=BEAT, **where)


def a_pusher(name: str) -> Callable[..., zmqkit.Pusher]:
    return lambda **where: zmqkit.Pusher(name=name, heartbeat=BEAT, **where)


def taken(pullers: list[Any], count: int) -> list[Any]:
    """So many messages, each acked, whoever gets them."""
    found: list[Any] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        for puller in pullers:
            job = puller.receive(0.05)
            if job is not None:
                found.append(job.body)
                job.ack()
    return found


def test_pushers_before_a_switch_reach_each_puller_behind_it(through: Any) -> None:
    switch, pullers = through("push", "pull", a_puller("one"), a_puller("two"))
    with a_pusher("x")(connect=switch.front) as x, a_pusher("y")(connect=switch.front) as y:
        for pusher in (x, y):
            pusher.wait_for_peers(2, timeout=PATIENCE_S)
            pusher.send_many([f"{pusher.name}{number}" for number in range(200)])
        found = taken(pullers, 400)
    assert sorted(found) == sorted(f"{name}{number}" for name in "xy" for number in range(200))


def test_pullers_before_a_switch_are_pushed_to_by_each_pusher_behind_it(through: Any) -> None:
    switch, pushers = through("pull", "push", a_pusher("x"), a_pusher("y"))
    with a_puller("one")(connect=switch.front) as one, a_puller("two")(connect=switch.front) as two:
        for puller in (one, two):
            puller.wait_for_peers(2, timeout=PATIENCE_S)
        for pusher in pushers:
            pusher.send_many([f"{pusher.name}{number}" for number in range(200)])
        found = taken([one, two], 400)
        assert sorted(found) == sorted(f"{name}{number}" for name in "xy" for number in range(200))
        pushers[0].close(PATIENCE_S)
        pushers[1].send("last")
        assert taken([one, two], 1) == ["last"]


def test_all_goes_on_through_a_switch_in_the_place_of_one_that_was_closed() -> None:
    with a_puller("one")(bind=ANY) as puller:
        switch = Switch("push", "pull", [puller.addresses[0]])
        front = switch.front
        with a_pusher("x")(connect=front) as pusher:
            pusher.wait_for_peers(1, timeout=PATIENCE_S)
            pusher.send_many(range(100))
            switch.close()
            pusher.send_many(range(100, 200))
            switch = Switch("push", "pull", [puller.addresses[0]], front=front)
            try:
                assert taken([puller], 200) == list(range(200))
                assert pusher.stats()["sessions_lost"] == 0
                assert pusher.stats()["sessions_resumed"] >= 1
            finally:
                pusher.close(PATIENCE_S)
                switch.close()


def test_an_address_that_discovery_names_no_more_is_left_with_all_its_connections_once_no_session_needs_them(
    through: Any,
) -> None:
    switch, _ = through("client", "server", a_server("one"), a_server("two"))
    with zmqkit.Client(switch.front, heartbeat=BEAT) as client:
        client.wait_for_peers(2, timeout=PATIENCE_S)
        driver = client._driver
        assert driver is not None

        def now_and_then(verb: Callable[[float], object]) -> None:
            """Run something where the core may be touched, and wait until its turn is over."""
            for each in (verb, lambda now: None):
                done = driver.ticket()
                driver.ask(done, PATIENCE_S, lambda ticket, now, each=each: (each(now), ticket.resolve(None)), done)

        client._fading.add(switch.front)
        now_and_then(client._drop_faded_now)
        assert client._fading == {switch.front}
        assert client.stats()["io_connections"] == 2
        now_and_then(lambda now: client._hang_up(driver, switch.front, now))
        assert client.stats()["io_connections"] == 0
        assert not list(client._core.sessions)
