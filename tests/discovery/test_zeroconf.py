"""Peers announce themselves, are found, and go, within one process and between several."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import pytest
from zeroconf import RecordUpdate

from tests.discovery.helpers import ANNOUNCER, PATIENCE_S, Script, Seen
from zmqkit import discovery
from zmqkit.discovery import Found, network
from zmqkit.errors import DiscoveryError

Run = Callable[..., Script]

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16


def announce(
    name: str, instance: str, address: str = "tcp://127.0.0.1:5557", role: str = "push"
) -> discovery.Announcement:
    return discovery.announce(name, [address], role=role, instance=instance, peer_name="a test")


def test_a_peer_is_found_in_its_own_process_and_gone_when_it_says_goodbye(name: str, seen: Seen) -> None:
    with discovery.watch(f"zeroconf://{name}", on_change=seen) as watch:
        announcement = announce(name, A)
        found = Found("tcp://127.0.0.1:5557", A, name, "push")
        assert seen.wait_for_instances(A) == watch.found == {found}
        announcement.close()
        seen.wait_for_instances()
        announcement.close()
    assert seen.told == [{found}, set()]


def test_a_watch_that_comes_later_finds_who_is_there(name: str, seen: Seen, run: Run) -> None:
    run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", A)
    run(ANNOUNCER, name, "tcp://127.0.0.1:5558", "push", B)
    with discovery.watch(f"zeroconf://{name.upper()}", on_change=seen):
        assert {found.address for found in seen.wait_for_instances(A, B)} == {
            "tcp://127.0.0.1:5557",
            "tcp://127.0.0.1:5558",
        }


def test_peers_of_other_processes_come_and_go(name: str, seen: Seen, run: Run) -> None:
    with discovery.watch(f"zeroconf://{name}", on_change=seen):
        first = run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", A)
        seen.wait_for_instances(A)
        second = run(ANNOUNCER, name, "tcp://127.0.0.1:5558,ipc:///tmp/x", "push", B)
        seen.wait_for_instances(A, B)
        first.end()
        seen.wait_for_instances(B)
        run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", C)
        seen.wait_for_instances(B, C)
        second.end()
        seen.wait_for_instances(C)


def test_an_interpreter_that_just_ends_says_goodbye(name: str, seen: Seen, run: Run) -> None:
    with discovery.watch(f"zeroconf://{name}", on_change=seen):
        script = run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", "leave-it-to-exit")
        seen.wait_for_instances("leave-it-to-exit")
        script.end()
        seen.wait_for_instances()


def test_each_instance_is_found_once_however_many_addresses_it_has(name: str, seen: Seen) -> None:
    addresses = ["ipc:///tmp/zmqkit-x", "tcp://*:5559", "tcp://127.0.0.1:5557"]
    with (
        discovery.watch(f"zeroconf://{name}", on_change=seen),
        discovery.announce(name, addresses, role="push", instance=A),
    ):
        assert seen.wait_for_instances(A) == {Found("tcp://127.0.0.1:5559", A, name, "push")}


def test_a_watch_takes_only_the_roles_it_wants_and_says_so_once(
    name: str, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    everyone = Seen()
    with (
        caplog.at_level(logging.WARNING, "zmqkit.discovery"),
        discovery.watch(f"zeroconf://{name}", on_change=everyone),
        discovery.watch(f"zeroconf://{name}", on_change=seen, roles={"push", "stream"}),
        announce(name, A, role="pull"),
        announce(name, B, role="pull"),
        announce(name, C, role="push"),
    ):
        everyone.wait_for_instances(A, B, C)
        seen.wait_for_instances(C)
    assert {found.instance for told in seen.told for found in told} == {C}
    warnings = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert len(warnings) == 1
    assert "a pull (a test) announces this name too; only push or stream is taken" in warnings[0]


def test_one_instance_id_in_two_processes_is_reported(
    name: str, seen: Seen, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zmqkit.discovery"), discovery.watch(f"zeroconf://{name}", on_change=seen):
        run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", A)
        run(ANNOUNCER, name, "tcp://127.0.0.1:5558", "push", A)
        run(ANNOUNCER, name, "tcp://127.0.0.1:5559", "push", B)
        seen.wait_for_instances(A, B)
    assert "two processes announce" in caplog.text


def test_an_environment_variable_may_mix_names_and_addresses(
    name: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", f"tcp://a:1 zeroconf://{name}")
    with discovery.watch("env://ZMQKIT_TEST_JOBS", on_change=seen), announce(name, A):
        seen.wait_for_instances(None, A)  # type: ignore[arg-type]
    assert seen.told[0] == {Found("tcp://a:1", None, "tcp://a:1")}


def test_browse_lists_what_is_announced(name: str, run: Run) -> None:
    run(ANNOUNCER, name, "tcp://127.0.0.1:5557,ipc:///tmp/x", "push", A)
    with announce(name, B, "tcp://*:5558", role="pull"):
        seen = Seen()
        with discovery.watch(f"zeroconf://{name}", on_change=seen):
            seen.wait_for_instances(A, B)
            rows = [row for row in discovery.browse(0.01) if row["name"] == name]
    assert [(row["instance"], row["role"], row["address"]) for row in rows] == [
        (B, "pull", "tcp://127.0.0.1:5558"),
        (A, "push", "tcp://127.0.0.1:5557"),
    ]
    assert rows[1]["addresses"] == ["tcp://127.0.0.1:5557", "ipc:///tmp/x"]
    assert rows[0]["here"] is True
    assert rows[0]["pid"] == os.getpid()
    assert rows[0]["peer_name"] == "a test"


# ---- killed announcers, and networks that are away -------------------------------


def let_records_run_out() -> None:
    """Do what python-zeroconf does when the lifetime of every record that it knows is over."""
    (net,) = network._networks.values()

    async def expire() -> None:
        zeroconf = net._zeroconf
        now = 1e15
        expired = zeroconf.cache.async_expire(now)
        updates = [RecordUpdate(record, record) for record in expired]
        zeroconf.record_manager.async_updates(now, updates)
        zeroconf.record_manager.async_updates_complete(False)

    net.call(expire())


ON_A_SERVICE_OF_ITS_OWN = """\
import sys
from zmqkit.discovery import network
network.SERVICE = sys.argv.pop(1)
"""


@pytest.mark.slow
def test_a_killed_announcer_goes_when_its_record_runs_out_and_a_living_one_stays(
    name: str, seen: Seen, run: Run
) -> None:
    with discovery.watch(f"zeroconf://{name}", on_change=seen):
        killed = run(ANNOUNCER, name, "tcp://127.0.0.1:5557", "push", A)
        run(ANNOUNCER, name, "tcp://127.0.0.1:5558", "push", B)
        seen.wait_for_instances(A, B)
        killed.kill()
        assert {found.instance for found in seen.now} == {A, B}
        let_records_run_out()
        seen.wait_for_instances(B)
    assert {A, B} >= {found.instance for told in seen.told for found in told}


def test_who_was_known_is_kept_while_nobody_can_be_heard_and_dropped_when_others_are(
    name: str, seen: Seen, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SERVICE", f"_t{name[-10:]}._tcp.local.")  # nobody else is heard here
    monkeypatch.setattr(network, "_RESOLVE_TIMEOUT_MS", 300)
    net = network.acquire(("127.0.0.1",))
    told = threading.Event()
    try:
        net.listen(told.set)
        script = run(
            ON_A_SERVICE_OF_ITS_OWN + ANNOUNCER,
            network.SERVICE,
            name,
            "tcp://127.0.0.1:5557",
            "push",
            A,
        )
        assert told.wait(PATIENCE_S)
        script.kill()
        told.clear()
        asked = threading.Event()
        resolve = net._resolve

        async def noticed(label: str, service: network._Service) -> None:
            await resolve(label, service)
            asked.set()

        monkeypatch.setattr(net, "_resolve", noticed)
        let_records_run_out()
        assert asked.wait(PATIENCE_S)
        assert [record.instance for record in net.records()] == [A]
        assert not told.is_set()
        run(
            ON_A_SERVICE_OF_ITS_OWN + ANNOUNCER,
            network.SERVICE,
            name,
            "tcp://127.0.0.1:5558",
            "push",
            B,
        )
        while [record.instance for record in net.records()] != [B]:
            assert told.wait(PATIENCE_S)
            told.clear()
    finally:
        network.release(net)


# ---- closing, forking, misuse ----------------------------------------------------


def test_nothing_is_told_after_close_even_when_closed_from_the_callback(name: str) -> None:
    told: list[frozenset[Found]] = []
    done = threading.Event()

    def once(found: frozenset[Found]) -> None:
        told.append(found)
        watch.close()
        done.set()

    watch = discovery.watch(f"zeroconf://{name}", on_change=once)
    other = Seen()
    with announce(name, A), discovery.watch(f"zeroconf://{name}", on_change=other):
        assert done.wait(PATIENCE_S)
        with announce(name, B):
            other.wait_for_instances(A, B)
    watch.close()
    assert len(told) == 1


def test_a_callback_may_announce_and_withdraw(name: str, seen: Seen) -> None:
    inner: list[discovery.Announcement] = []

    def answer(found: frozenset[Found]) -> None:
        if found and not inner:
            inner.append(announce(name + "2", B))
        elif not found and inner:
            inner[0].close()

    with (
        discovery.watch(f"zeroconf://{name}2", on_change=seen),
        discovery.watch(f"zeroconf://{name}", on_change=answer),
    ):
        with announce(name, A):
            seen.wait_for_instances(B)
        seen.wait_for_instances()


def test_all_of_a_process_share_one_object_and_it_goes_with_the_last(name: str, seen: Seen) -> None:
    before = set(threading.enumerate())
    watches = [discovery.watch(f"zeroconf://{name}", on_change=seen) for _ in range(5)]
    with announce(name, A):
        assert len(network._networks) == 1
        assert len(set(threading.enumerate()) - before) == 1
    for watch in watches:
        watch.close()
    assert discovery.wait_closed(PATIENCE_S)
    assert not network._networks
    assert not network._open
    assert not set(threading.enumerate()) - before


def test_an_asyncio_loop_is_left_alone(name: str, seen: Seen) -> None:
    async def main() -> set[asyncio.Task[object]]:
        with discovery.watch(f"zeroconf://{name}", on_change=seen), announce(name, A):
            await asyncio.to_thread(seen.wait_for_instances, A)
            return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set()


FORKED = """
    import os, sys, threading
    from tests.discovery.helpers import Seen
    from zmqkit import discovery
    from zmqkit.discovery import network
    name = sys.argv[1]
    seen = Seen()
    announcement = discovery.announce(name, ["tcp://127.0.0.1:1"], role="push", instance="parent")
    watch = discovery.watch("zeroconf://" + name, on_change=seen)
    seen.wait_for_instances("parent")
    (inherited,) = network._networks.values()
    child = os.fork()
    if not child:
        status = 1
        try:
            watch.close()
            announcement.close()
            assert all(os.readlink(f"/proc/self/fd/{fd}") == "/dev/null" for fd in inherited._descriptors)
            own = Seen()
            with discovery.watch("zeroconf://" + name, on_change=own):
                with discovery.announce(name, ["tcp://127.0.0.1:2"], role="push", instance="child"):
                    own.wait_for_instances("parent", "child")
                own.wait_for_instances("parent")
            assert discovery.wait_closed(20)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert seen.wait_for_instances("parent")
    with discovery.announce(name, ["tcp://127.0.0.1:3"], role="push", instance="later"):
        seen.wait_for_instances("parent", "later")
    told = {found.instance for told in seen.told for found in told}
    print("ok", sorted(told), flush=True)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at /proc")
def test_a_forked_child_has_its_own_and_leaves_the_parents_alone(name: str, run: Run) -> None:
    assert run(FORKED, name).said == "ok ['child', 'later', 'parent']"


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (["inproc://x"], "inproc://x cannot be announced"),
        (["tcp://127.0.0.1:5", "inproc://x"], "inproc://x cannot be announced"),
        (["tcp://127.0.0.1:*"], "before it is bound"),
        ([], "nothing can be announced"),
    ],
)
def test_what_cannot_be_announced_is_refused_by_name(name: str, addresses: list[str], says: str) -> None:
    with pytest.raises(DiscoveryError, match=says):
        discovery.announce(name, addresses, role="push", instance=A)


def test_names_are_checked_at_both_ends(seen: Seen) -> None:
    with pytest.raises(DiscoveryError, match="'my-service' would do"):
        announce("my_service", A)
    with pytest.raises(DiscoveryError, match="'my-service' would do"):
        discovery.watch("zeroconf://my_service", on_change=seen)
    with pytest.raises(DiscoveryError, match="a role"):
        announce("my-service", A, role="")
    with pytest.raises(DiscoveryError, match="an instance id"):
        announce("my-service", "")


def test_interfaces_that_do_not_exist_are_named_with_what_to_do(
    name: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("nowhere0", "192.0.2.77", "nowhere0, 192.0.2.77"):
        monkeypatch.setenv("ZMQKIT_INTERFACES", wrong)
        with pytest.raises(DiscoveryError, match=r"(nowhere0|192\.0\.2\.77).*static://"):
            discovery.watch(f"zeroconf://{name}", on_change=seen)
    monkeypatch.setenv("ZMQKIT_INTERFACES", "lo")
    with discovery.watch(f"zeroconf://{name}", on_change=seen), announce(name, A):
        seen.wait_for_instances(A)
