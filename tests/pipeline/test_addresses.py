"""Where peers may be, and how they find each other: announced, listed, in the environment; and what is refused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle, listen
from zmqkit import AddressError, AddressInUse, DiscoveryError, InsecureAddress, Settled, UsageError, WaitTimeout
from zmqkit.events import PeerLost

FAR = "tcp://198.51.100.7:5557"  # TEST-NET-2: nobody is there, and nobody is asked


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:20]}"


def makers(face: Face) -> list[Any]:
    return [face.Pusher, face.Puller]


# ---- found by name -------------------------------------------------------------------


async def test_a_puller_finds_every_pusher_that_is_announced_under_a_name_as_they_come_and_go(
    face: Face, name: str
) -> None:
    async with face.Puller(f"zeroconf://{name}") as pull:
        lost = listen(face, pull, PeerLost)
        async with face.Pusher(LOCAL, announce=name) as first:
            await first.send("first")
            assert await handle(pull, 1) == ["first"]
            assert await first.flush(PATIENCE_S) == Settled(acked=1)
            async with face.Pusher(f"zeroconf://{name}") as second:  # to bind a name is to announce it, on a free port
                assert second.addresses[0].startswith("tcp://127.0.0.1:")
                await second.send("second")
                assert await handle(pull, 1) == ["second"]
                assert await second.flush(PATIENCE_S) == Settled(acked=1)
            assert (await lost.next()).reason.startswith("goodbye")
        async with face.Pusher(announce=name) as third:
            await third.send("third")
            assert await handle(pull, 1) == ["third"]
            assert await third.flush(PATIENCE_S) == Settled(acked=1)


async def test_a_peer_of_the_same_role_under_the_name_is_left_alone(face: Face, name: str) -> None:
    async with (
        face.Puller(bind=LOCAL, announce=name) as other,
        face.Pusher(LOCAL, announce=name) as push,
        face.Puller(f"zeroconf://{name}") as pull,
    ):
        await push.send("x")
        assert await handle(pull, 1) == ["x"]
        await push.flush(PATIENCE_S)
        assert push.stats()["sessions_opened"] == 1
        assert other.stats()["sessions_opened"] == 0


async def test_static_lists_several_addresses(face: Face) -> None:
    async with face.Pusher(LOCAL) as first, face.Pusher(LOCAL) as second:
        plain = [push.addresses[0].removeprefix("tcp://") for push in (first, second)]
        async with face.Puller(f"static://{','.join(plain)}") as pull:
            await pull.wait_for_peers(2, timeout=PATIENCE_S)
            await first.send(1)
            await second.send(2)
            assert sorted(await handle(pull, 2)) == [1, 2]
            await first.flush(PATIENCE_S)
            await second.flush(PATIENCE_S)


async def test_the_environment_names_addresses(face: Face, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", f"ipc://{folder}/a, ipc://{folder}/b")
    async with face.Pusher("env://ZMQKIT_TEST_JOBS") as push, face.Puller("env://ZMQKIT_TEST_JOBS") as pull:
        assert push.addresses == (f"ipc://{folder}/a", f"ipc://{folder}/b")
        await push.send("x")
        assert await handle(pull, 1) == ["x"]
        await push.flush(PATIENCE_S)
    monkeypatch.delenv("ZMQKIT_TEST_JOBS")
    for make in makers(face):
        with pytest.raises(DiscoveryError, match="ZMQKIT_TEST_JOBS"):
            await make("env://ZMQKIT_TEST_JOBS").open()


async def test_an_environment_does_not_get_round_the_rule_for_far_addresses(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", "tcp://0.0.0.0:0")
    with pytest.raises(InsecureAddress):
        await face.Pusher("env://ZMQKIT_TEST_JOBS").open()


# ---- refused -------------------------------------------------------------------------


@pytest.mark.parametrize("far", [FAR, "tcp://*:5557", "tcp://0.0.0.0:5557", "tcp://some.host:5557"])
def test_a_far_address_is_refused_unless_it_is_allowed_by_name(
    face: Face, far: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connectable = "*" not in far and "0.0.0.0" not in far
    for make in makers(face):
        with pytest.raises(InsecureAddress, match="insecure=True"):
            make(bind=far)
        make(bind=far, insecure=True)
        if connectable:
            with pytest.raises(InsecureAddress, match="insecure=True"):
                make(connect=far)
            make(connect=far, insecure=True)
    monkeypatch.setenv("ZMQKIT_INSECURE", "1")
    face.Pusher(far)


@pytest.mark.parametrize("near", ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///x", "inproc://x"])
def test_addresses_of_this_host_are_allowed(face: Face, near: str) -> None:
    for make in makers(face):
        make(bind=near)
        make(connect=near)


def test_addresses_that_cannot_be_read_or_used_are_refused_before_anything_is_opened(face: Face) -> None:
    for make in makers(face):
        with pytest.raises(UsageError, match="needs an address"):
            make()
        with pytest.raises(AddressError, match="nonsense"):
            make("nonsense")
        with pytest.raises(UsageError, match="nobody can connect"):
            make(connect="tcp://127.0.0.1:*")
        with pytest.raises(UsageError, match="two names"):
            make(bind="zeroconf://a", announce="b")
        with pytest.raises(TypeError, match="nonsense"):
            make("inproc://x", nonsense=1)
        with pytest.raises(ValueError, match="linger"):
            make("inproc://x", linger=-1)
    for wrong in ({"max_failures": 0}, {"max_waiting": 0}, {"durability": "paper"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            face.Pusher("inproc://x", **wrong)
    for wrong in ({"prefetch": 0}, {"on_error": "ignore"}, {"max_lease": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            face.Puller("inproc://x", **wrong)


async def test_an_address_that_is_taken_is_named_and_nothing_is_left_open(face: Face, tmp_path: Any) -> None:
    async with face.Pusher(LOCAL) as first:
        second = face.Pusher(first.addresses[0], journal=tmp_path / "jobs.db")
        with pytest.raises(AddressInUse, match=first.addresses[0]):
            await second.open()
        with pytest.raises(OSError, match=first.addresses[0]):  # which it also is
            await second.open()
    async with second:  # the place is free now, and the journal was given back
        assert second.addresses == first.addresses


async def test_waiting_for_peers_that_do_not_come_is_out_of_time(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        for _ in range(3):
            with pytest.raises(WaitTimeout, match=r"1 peer did not come within 0\.02 s: nobody came to tcp:"):
                await push.wait_for_peers(1, timeout=0.02)
        core = getattr(push, "real", push)._core
        await push.flush(PATIENCE_S)
        assert core._awaited == []
        async with face.Puller(push.addresses[0]):
            await push.wait_for_peers(1, timeout=PATIENCE_S)
            await push.wait_for_peers(1, timeout=0)
