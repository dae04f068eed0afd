"""A publisher that lies to a subscriber: bounded, told, and of no harm to the honest publisher beside it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bad_input.pubsub import Fair
from tests.bad_input.strangers import pack
from zmqkit.errors import CursorInUse
from zmqkit.events import BadFrame, FellBehind, PeerRefused, SubscriptionsRefused
from zmqkit.options import Limits
from zmqkit.patterns.pubsub import delivering, joining, talk, wire
from zmqkit.patterns.pubsub.groups import GROUP_BYTES
from zmqkit.patterns.pubsub.reach import recovery_address
from zmqkit.patterns.pubsub.seen import GENERATION
from zmqkit.patterns.pubsub.topics import private_topic

FAR = (1 << 63) - 10


def stream_of(fair: Fair) -> bytes:
    assert fair.evil.core is not None
    return fair.evil.core.settings.stream


def data(
    fair: Fair, offset: int, *, topic: str = "x", previous: int = 0, last: int = 0, body: bytes = b"b"
) -> list[bytes]:
    frame = wire.Data(topic, stream_of(fair), [offset], previous, last or offset, 1, "raw", [len(body)], body)
    return [frame.pack()]


def fence(fair: Fair, **changed: Any) -> list[bytes]:
    core = fair.evil.core
    assert core is not None
    said = wire.Fence(
        fair.core._links[fair.evil.data].private, stream_of(fair), core.settings.publisher, core.settings.epoch,
        core.local.instance.hex(), 0, ":7101",
    )  # fmt: skip
    return [said._replace(**changed).pack()]


def say(fair: Fair, *messages: Any) -> None:
    """Evil's core says messages of the recovery channel, whatever it was asked."""
    core = fair.evil.core
    assert core is not None
    (session,) = list(core.sessions)
    for each in messages:
        core.sessions.send(session, each.pack(), len(getattr(each, "lengths", ())), fair.now)
        fair.turn()
    fair.flow()


def evil_stream(fair: Fair) -> Any:
    assert fair.evil.core is not None
    return fair.core.streams[fair.evil.core.settings.publisher]


@pytest.mark.parametrize("previous", [0, 3, FAR - 1])
def test_offsets_that_leap_are_asked_for_and_done_with(previous: int) -> None:
    fair = Fair()
    fair.go_on()
    for offset in (5, 1 << 40, FAR):
        fair.lie("data", data(fair, offset, previous=min(previous, offset - 1)))
        fair.flow()
        fair.go_on()
    fair.advance(20.0)
    assert evil_stream(fair).state == "live"
    fair.go_on()


def test_groups_that_never_end_are_handed_on_before_they_take_too_much() -> None:
    fair = Fair()
    body, most = b"x" * 1_000_000, GROUP_BYTES // 2 + 2_000_000
    for offset in range(1, 100):
        fair.lie("data", data(fair, offset, previous=offset - 1, last=FAR, body=body))
        assert evil_stream(fair).groups._bytes < most
    assert fair.strange > 30
    fair.go_on()


def test_endless_gaps_hold_no_more_than_may_be_held() -> None:
    fair = Fair(limits=Limits(queued_messages=100))
    fair.evil.blocked = True
    fair.cut(fair.evil, "recovery")
    for offset in range(10, 5_000, 2):
        fair.lie("data", data(fair, offset, topic=f"t{offset}", previous=offset - 1))
        assert fair.core.held_messages <= 101
    assert fair.happened(FellBehind)
    fair.go_on()


def test_endless_topics_are_remembered_up_to_a_bound() -> None:
    fair = Fair()
    assert evil_stream(fair).seen.generation == GENERATION
    evil_stream(fair).seen.generation = 500
    for offset in range(1, 2_500):
        fair.core.receive_message(("d", fair.evil.data), data(fair, offset, topic=f"t{offset}"), fair.now)
    fair.flow()
    assert len(evil_stream(fair).seen) <= 1_000
    fair.go_on()


def test_fences_that_nobody_asked_for_change_nothing() -> None:
    fair = Fair()
    fences, streams = fair.core.counters["fences"], len(fair.core.streams)
    other = wire.private_name(b"somebody else...", 1)
    fair.lie("data", fence(fair, private=other, stream=b"another!", publisher="cc" * 16))
    assert (fair.core.counters["fences"], len(fair.core.streams)) == (fences, streams)
    fair.go_on()


def test_thousands_of_publishers_behind_one_address_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_STREAMS_OF_LINK", 50)
    monkeypatch.setattr(joining, "MAX_DIALS_OF_LINK", 10)
    fair = Fair()
    for at in range(200):
        fair.lie("data", fence(fair, stream=b"%8d" % at, publisher=f"{at:032x}", recovery=f":{8000 + at}"))
    assert len(fair.core._links[fair.evil.data].streams) <= 50
    assert sum(bool(each.address) for each in fair.core.streams.values()) <= 10 + 1
    assert fair.core.counters["publishers_refused"] >= 150
    fair.go_on()


@pytest.mark.parametrize(
    "told",
    ["tcp://10.0.0.1:22", "tcp://192.168.0.1:7001", "ipc:///var/run/docker.sock", "inproc://secret", "zeroconf://x",
     "tcp://0.0.0.0:1", "nonsense", ":", ":99999", ":x", ":0", ":*", "tcp://127.0.0.1.evil.example:7101"],
)  # fmt: skip
def test_a_fence_sends_nobody_to_another_host(told: str) -> None:
    fair = Fair()
    fair.core.out.dials.clear()
    address = evil_stream(fair).address
    fair.core.receive_message(("d", fair.evil.data), fence(fair, recovery=told), fair.now)
    assert fair.core.out.dials == [(address, False)], "it only hangs up where it was"
    fair.flow()
    assert any("recovery address" in each.reason for each in fair.happened(BadFrame))
    fair.go_on()


@pytest.mark.parametrize(
    ("at", "told", "expected"),
    [
        ("tcp://10.0.0.1:5", ":6", "tcp://10.0.0.1:6"),
        ("tcp://[::1]:5", ":6", "tcp://[::1]:6"),
        ("tcp://Host.example:5", "tcp://host.example.:6", "tcp://host.example.:6"),
        ("tcp://localhost:5", "tcp://127.0.0.1:6", "tcp://127.0.0.1:6"),
        ("ipc:///a", "ipc:///a.recovery", "ipc:///a.recovery"),
        ("inproc://a", "inproc://b", "inproc://b"),
        ("inproc://a", ":6", None),
        ("ipc:///a", "tcp://127.0.0.1:6", None),
        ("tcp://10.0.0.1:5", "tcp://10.0.0.2:6", None),
        ("tcp://10.0.0.1:5", "", ""),
    ],
)
def test_recovery_is_at_the_host_and_transport_of_the_data(at: str, told: str, expected: str | None) -> None:
    assert recovery_address(at, told) == expected


def test_beats_that_go_back_or_leap_confuse_nobody() -> None:
    fair = Fair()
    for offset, number in ((5, 9), (2, 3), (0, 0), (FAR, FAR), (1, 1)):
        fair.lie("data", [wire.Beat(stream_of(fair), offset, number).pack()])
        fair.flow()
    assert evil_stream(fair).seen_beat == FAR
    fair.advance(20.0)
    fair.go_on()


def test_blocks_that_nobody_asked_for_are_dropped_and_their_credit_comes_back() -> None:
    fair = Fair(credit=10)
    epoch = evil_stream(fair).epoch
    for number in range(50):
        say(fair, talk.Block(900 + number, epoch, [1, 2], ["x"], None, 1, "raw", [1, 1], b"ab"))
    assert fair.strange == 0
    assert fair.core.counters["credit_exceeded"] == 0
    fair.go_on()


def test_endless_holes_that_lie_fill_no_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "MAX_ERRORS", 20)
    fair = Fair(durable=True)
    fair.taking = False
    stream = evil_stream(fair)
    for first in range(10, 500):
        say(fair, talk.Hole(stream.task.ask, stream.epoch, first, first, []))
    assert len(fair.waiting) == 20
    assert fair.core.counters["losses_told"] >= 400
    fair.taking = True
    fair.go_on()


@pytest.mark.parametrize("code", ["cursor in use", "publisher", "epoch", "no cursor", "too many feeds", "what?", ""])
def test_refusals_out_of_the_blue_raise_nothing(code: str) -> None:
    fair = Fair(start="earliest")
    for feed in (0, 1, 77, FAR):
        say(fair, talk.Refused(code, "because", feed))
    fair.advance(10.0)
    assert not [each for each in fair.took if isinstance(each.error, CursorInUse)]
    fair.go_on()


def test_too_many_topics_are_told_to_the_subscriber_too() -> None:
    fair = Fair()
    say(fair, talk.Refused("too many topics", "at most 3", 0))
    (event,) = fair.happened(SubscriptionsRefused)
    assert (event.subscriber, event.reason) == (event.peer, "at most 3")
    assert "subscribes too much: at most 3" in str(event)
    fair.go_on()


def test_one_who_is_told_to_leave_comes_back_and_loses_nothing_elsewhere() -> None:
    fair = Fair()
    for _ in range(5):
        say(fair, talk.Leave("go away"))
        fair.advance(1.0)
        fair.go_on()
    assert len(fair.happened(FellBehind)) == 5
    assert evil_stream(fair).state == "live"


@pytest.mark.parametrize("version", [0, 2, FAR])
def test_a_publisher_of_another_version_is_refused_by_name_and_once(version: int) -> None:
    fair = Fair()
    private = fair.core._links[fair.evil.data].private
    for _ in range(3):
        fair.lie("data", [private_topic(private) + pack([version, "whatever"])])
    (event,) = fair.happened(PeerRefused)
    assert event.code == "version"
    assert f"version 1 of publish-subscribe, the other {version}" in event.reason
    fair.go_on()


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"d"], [b"q"], [b"d" + b"x" * 300], [b"dx\0" + b"s" * 8 + b"\xff" * 4], [b"b"], [b"p\0"], [b"x", b"y"],
     [b"d\0"] * 5, [b"d\xff\0" + b"s" * 8 + b"\0\0\0\1\x90"]],
)  # fmt: skip
def test_what_is_no_frame_is_counted_and_told(frames: list[bytes]) -> None:
    fair = Fair()
    before = fair.core.counters["frames_bad"]
    fair.lie("data", frames)
    assert fair.core.counters["frames_bad"] == before + 1
    assert len(fair.happened(BadFrame)) == 1
    fair.go_on()


def test_garbage_without_end_is_shown_the_door() -> None:
    fair = Fair()
    for _ in range(2_000):
        fair.core.receive_message(("d", fair.evil.data), [b"\xc1"], fair.now)
    assert fair.core.counters["links_expelled"] == 1
    assert ("d", fair.evil.data) in fair.core.out.disconnects
    fair.flow()
    fair.go_on()
