"""Where publishers and subscribers may be, and how they find each other: by name, in lists, in the environment."""

from __future__ import annotations

import uuid

import pytest

import zmqkit
from tests.pubsub.faces import LOCAL, QUICK, Face, bodies, listen, take, there
from zmqkit import AddressInUse, InsecureAddress, events


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:20]}"


async def test_a_subscriber_finds_every_publisher_under_a_name_as_they_come_and_go(face: Face, name: str) -> None:
    async with face.Subscriber(f"zeroconf://{name}", start="earliest") as sub:
        lost = listen(face, sub, events.PeerLost)
        async with face.Publisher(LOCAL, announce=name) as first:
            await there(first)
            await first.publish("a", "first")
            assert await bodies(sub, 1) == ["first"]
            async with face.Publisher(f"zeroconf://{name}") as second:
                assert second.addresses[0].startswith("tcp://127.0.0.1:")
                await there(second)
                await second.publish("a", "second")
                assert await bodies(sub, 1) == ["second"]
            assert (await lost.next()).reason.startswith("goodbye")
        async with face.Publisher(announce=name) as third:
            await there(third)
            await third.publish("a", "third")
            assert await bodies(sub, 1) == ["third"]


async def test_publishers_find_a_subscriber_that_binds_under_a_name(face: Face, name: str) -> None:
    async with face.Subscriber(bind=LOCAL, announce=name) as sub, face.Publisher(connect=f"zeroconf://{name}") as pub:
        await there(pub)
        await pub.publish("a", 1)
        assert (await take(sub)).body == 1


async def test_a_list_and_the_environment_name_publishers(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    async with face.Publisher() as one, face.Publisher() as other:
        ports = ",".join(each.addresses[0].removeprefix("tcp://") for each in (one, other))
        monkeypatch.setenv("ZMQKIT_TEST_PRICES", f"static://{ports}")
        gone = [listen(face, pub, events.PeerLost) for pub in (one, other)]
        for address in (f"static://{ports}", "env://ZMQKIT_TEST_PRICES"):
            async with face.Subscriber(address) as sub:
                for pub in (one, other):
                    await there(pub)
                    await pub.publish("a", address)
                assert await bodies(sub, 2) == [address, address]
            for each in gone:  # lest the next wait finds the subscriber that has left
                await each.next()


async def test_a_taken_address_is_said(face: Face) -> None:
    async with face.Publisher() as pub:
        with pytest.raises(AddressInUse, match="in use"):
            await face.Publisher(pub.addresses[0]).open()


@pytest.mark.parametrize("kind", ["Publisher", "Subscriber"])
def test_an_address_beyond_this_host_needs_to_be_allowed(kind: str) -> None:
    with pytest.raises(InsecureAddress):
        getattr(zmqkit, kind)("tcp://198.51.100.7:5556")


async def test_subscribers_come_back_to_a_publisher_that_moved_in_again(face: Face) -> None:
    async with face.Publisher(heartbeat=QUICK) as pub:
        address = pub.addresses[0]
    async with face.Subscriber(address, heartbeat=QUICK, start="earliest") as sub:
        for life in range(3):
            async with face.Publisher(address, heartbeat=QUICK) as pub:
                await pub.publish("a", life)
                assert await bodies(sub, 1) == [life]
