"""One server of three is dead, and does not say so: what it costs callers is counted, not timed."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import zmqkit
from tests.chaos.calls.plan import SERVERS
from tests.chaos.calls.roles import HEARTBEAT
from tests.chaos.fleet import Fleet, Member
from tests.chaos.plan import Step
from zmqkit.events import ServerBack, ServerOut

PATIENCE_S = 30.0
CALLERS = 6
CALLS = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def fleet(folder: Path) -> Fleet:
    name = f"chaos-{secrets.token_hex(4)}"
    return Fleet(folder, name, 1, crew={"server": SERVERS}, program="tests.chaos.calls.roles")


def step(kind: str, member: Member, away_s: float) -> Step:
    assert kind in ("stop", "kill")
    return Step(0.0, "server", member.index, "stop" if kind == "stop" else "kill", True, away_s, True)


@pytest.mark.parametrize("kind", ["stop", "kill"])
def test_one_dead_server_of_three_costs_callers_one_bound_once_and_nothing_after(tmp_path: Path, kind: str) -> None:
    served: Counter[str] = Counter()
    name = iter(range(10**9)).__next__

    def read(client: zmqkit.Client) -> str:
        server: str = client.call("read", f"call-{name()}", 0.0)[0]
        served[server] += 1
        return server

    with fleet(tmp_path) as servers:
        servers.wait(lambda: all(each.told("open") for each in servers.members), PATIENCE_S, "servers to be open")
        with zmqkit.Client(
            *[each.address for each in servers.members], timeout=PATIENCE_S, heartbeat=HEARTBEAT
        ) as client:
            while len(served) < SERVERS:
                read(client)
            victim = servers.members[1]
            out = threading.Event()
            client.on(ServerOut, lambda _: out.set())
            servers.do(step(kind, victim, 3600.0))

            # Each caller meets the dead one at most once; all calls are answered, by the others.
            served.clear()
            with ThreadPoolExecutor(CALLERS) as threads:
                while not out.is_set():
                    list(threads.map(read, [client] * CALLERS))
            paid = client.stats()["calls_retried"]
            assert victim.name not in served
            assert paid <= CALLERS
            assert client.stats()["servers_out"] == 1

            # And after that none does.
            with ThreadPoolExecutor(CALLERS) as threads:
                list(threads.map(read, [client] * CALLS))
            stats = client.stats()
            assert victim.name not in served
            assert (stats["calls_retried"], stats["servers_out"], stats["servers_probed"]) == (paid, 1, 0)
            assert stats["calls_unknown"] == stats["calls_late"] == 0

            # When it is back, it takes its share again.
            back = threading.Event()
            client.on(ServerBack, lambda _: back.set())
            servers.settle_down(PATIENCE_S)
            while victim.name not in served or not back.is_set():
                read(client)
            assert client.stats()["calls_retried"] == paid
