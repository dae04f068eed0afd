"""Bodies that cannot be read, from a peer that keeps to the protocol otherwise: each spoils only itself."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest

import zmqkit
from tests.bad_input.scenes import BEAT, LOCAL, bound_puller, until
from tests.bad_input.strangers import DATA, PATIENCE_S, REJECT, SETTLE, Dealer, deliver, pack, unpack
from zmqkit import EncodeError, Limits
from zmqkit.codec import register
from zmqkit.events import JobDead

BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "nests too deeply": (b"\x91" * 33 + b"\x01", "nests deeper than 32"),
    "nests in maps": (b"\x81\x01" * 40 + b"\x01", "nests deeper than 32"),
    "nests deeper than C": (b"\x91" * 100_000 + b"\x01", "nests deeper than 32"),
    "claims a list of 4 G": (b"\xdd\xff\xff\xff\xff", "not msgpack|too soon"),
    "claims a map of 4 G": (b"\xdf\xff\xff\xff\xff" + b"\x01" * 99, "not msgpack|too soon"),
    "claims bytes of 4 G": (b"\xc6\xff\xff\xff\xff" + b"\x01" * 99, "not msgpack|too soon"),
    "claims text of 4 G": (b"\xdb\xff\xff\xff\xff" + b"\x01" * 99, "not msgpack|too soon"),
    "claims an ext of 4 G": (b"\xc9\xff\xff\xff\xff\x05" + b"\x01" * 99, "not msgpack|too soon"),
    "an ext type": (msgpack.packb(msgpack.ExtType(42, b"data")), "extension of type 42"),
    "a timestamp that no calendar has": (b"\xc7\x0c\xff" + b"\xff" * 12, "not msgpack"),
    "is cut": (pack({"a": [1, 2, 3]})[:-1], "not msgpack|too soon"),
    "is two": (pack(1) + pack(2), "not msgpack|more than"),
    "is nothing": (b"", "not msgpack|too soon"),
    "a byte that msgpack does not have": (b"\xc1", "not msgpack"),
    "text that is not UTF-8": (b"\xa2\xff\xfe", "not msgpack"),
    "a list as a key": (b"\x81\x91\x91\xc0\x01", ""),
    "a map as a key": (b"\x81\x80\x01", "not msgpack"),
}


def take(scene: Any, count: int) -> list[Any]:
    """So many bodies, acked."""
    bodies = []
    for _ in range(count):
        job = scene.pull.receive(PATIENCE_S)
        assert job is not None
        bodies.append(job.body)
        job.ack()
    return bodies


def reject(scene: Any, count: int) -> None:
    """Look for jobs until so many were rejected; none is handed out."""
    while scene.count("rejected") < count:
        assert scene.pull.receive(0.01) is None


def verdicts(stranger: Dealer, count: int) -> dict[int, str]:
    """Reasons of the jobs that were rejected or acked, by lease, once there are so many."""
    found: dict[int, str] = {}
    while len(found) < count:
        _, (head,) = stranger.message(DATA)
        kind, _, acks, others, _ = unpack(head)[:5]
        assert kind == SETTLE
        for at in range(0, len(acks), 2):
            found.update((lease, "") for lease in range(acks[at], acks[at + 1] + 1))
        for lease, outcome, _, reason, _ in others:
            assert outcome == REJECT
            found[lease] = reason
    return found


def test_each_body_that_cannot_be_read_is_rejected_alone_with_its_reason() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        bad = [(body, why) for body, why in BAD_BODIES.values() if why]
        bodies = [piece for body, _ in bad for piece in (pack("good"), body)] + [pack("good")]
        head, _ = deliver(["x"], lengths=[len(each) for each in bodies])
        stranger.data(head, b"".join(bodies), messages=len(bodies))
        assert take(scene, len(bad) + 1) == ["good"] * (len(bad) + 1)
        scene.expect(rejected=len(bad), frames_bad=0)
        found = verdicts(stranger, len(bodies))
        for at, (_, why) in enumerate(bad):
            reason = found[2 + 2 * at]
            assert reason.startswith("DecodeError: "), reason
            assert any(each in reason for each in why.split("|")), (why, reason)
        assert [found[lease] for lease in range(1, len(bodies) + 1, 2)] == [""] * (len(bad) + 1)
        scene.finish()


def test_batches_and_single_jobs_alike_leave_out_what_cannot_be_read() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        bodies = [pack(1), b"\xc1", pack(3)]
        head, _ = deliver(["x"], lengths=[1, 1, 1])
        stranger.data(head, b"".join(bodies), messages=3)
        for batch in scene.pull.batches(10, 0):
            assert batch.bodies == [1, 3]
            batch.ack()
            break
        assert verdicts(stranger, 3)[2].startswith("DecodeError")
        scene.finish()


@pytest.mark.parametrize("codec", ["unknown", "", "x" * 64, "msgpack ", "MSGPACK", "\x00"])
def test_a_codec_that_is_not_known_here_is_named_in_the_dead_letter(codec: str) -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        stranger.data(*deliver(["a", "b"], codec=codec), messages=2)
        reject(scene, 2)
        reason = f"DecodeError: the sender used the codec {codec[:40]!r}, which is not known here: register it first"
        assert verdicts(stranger, 2) == {1: reason, 2: reason}
        scene.finish()


@pytest.mark.parametrize(
    ("codec", "body", "why"),
    [
        ("json", b"[" * 33 + b"]" * 33, "nests deeper than 32"),
        ("json", b"[" * 200_000, "not json"),
        ("json", b"NaN", "NaN is not JSON"),
        ("json", b"{", "not json"),
        ("json", b"\xff\xfe", "not json"),
        ("json", b"1" * 5000, "not json"),
        ("msgpack", b"\x92\xc0", "not msgpack"),
    ],
)
def test_other_codecs_are_bounded_alike(codec: str, body: bytes, why: str) -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        head, _ = deliver(["x"], codec=codec, lengths=[len(body)])
        stranger.data(head, body, messages=1)
        reject(scene, 1)
        assert why in verdicts(stranger, 1)[1]
        scene.finish()


def test_a_decoder_of_ones_own_that_raises_rejects_its_job() -> None:
    def explode(data: bytes) -> object:
        raise RuntimeError("boom")

    register("explodes", lambda body: b"x", explode)
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        stranger.data(*deliver(["a"], codec="explodes"), messages=1)
        reject(scene, 1)
        assert "RuntimeError: boom" in verdicts(stranger, 1)[1]
        scene.finish()


def test_deeply_nested_heads_are_bad_frames() -> None:
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        bombs = [
            b"\x91" * 100_000,
            b"\x98\x01\x01\x01\xa1o\x01\xa1c\x91\x01" + b"\x81\xa7headers\x81\x00" + b"\x81\xa1a" * 1000 + b"\xc0",
            b"\xdd\x00\x3d\x09\x00" + b"\x80" * 4_000_000,
            b"\xdd\xff\xff\xff\xff" + b"\x90" * 100,
            b"\x98\x01\xc6\xff\xff\xff\xff",
            b"." * 5_000_000,
        ]
        for bomb in bombs:
            stranger.data(bomb, b"\x01", messages=1)
        stranger.settled()
        scene.expect(frames_bad=len(bombs), received=0, sessions_lost=0)
        scene.finish()


def test_what_only_the_sender_may_nest_becomes_a_dead_letter_at_an_honest_pusher(tmp_path: Path) -> None:
    nested: Any = "core"
    for _ in range(50):
        nested = [nested]
    with (
        zmqkit.Pusher(LOCAL, journal=tmp_path / "jobs.db", limits=Limits(nesting=100), heartbeat=BEAT) as push,
        zmqkit.Puller[Any](push.addresses[0], heartbeat=BEAT) as pull,
    ):
        told: list[JobDead] = []
        push.on(JobDead, told.append)
        receipt = push.send(nested)
        push.send_many(["before", nested, "after"])
        got = []
        for _ in range(2):
            job = pull.receive(PATIENCE_S)
            assert job is not None
            got.append(job.body)
            job.ack()
        assert pull.receive(0) is None
        assert got == ["before", "after"]
        settled = push.flush(PATIENCE_S)
        assert (settled.acked, settled.dead) == (2, 2)
        assert receipt.wait().dead == 2
        assert receipt.outcome == "dead"
        until(lambda: len(told) == 2)
        assert {event.reason for event in told} == {"DecodeError: the body nests deeper than 32"}
        assert pull.stats()["rejected"] == 2


def test_what_nests_too_deeply_is_refused_where_it_is_sent() -> None:
    nested: Any = 1
    for _ in range(33):
        nested = {"in": nested}
    with zmqkit.Pusher(LOCAL, linger=0) as push:
        with pytest.raises(EncodeError, match="nests deeper than 32"):
            push.send(nested)
        with pytest.raises(zmqkit.PartlySent) as caught:
            push.send_many([1, nested])
        assert isinstance(caught.value.__cause__, EncodeError)
        assert push.stats()["sent"] == 0


def test_what_is_good_comes_as_it_went_beside_all_that() -> None:
    bodies = [None, 2**64 - 1, {(1, 2): b"x", 3: [None]}, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "\0", b""]
    with bound_puller() as scene, Dealer(scene.pull.addresses[0], "push") as stranger:
        stranger.enter()
        stranger.data(*deliver([], lengths=[1]), b"\xc1", messages=1)
        scene.push.send_many(bodies)
        assert take(scene, len(bodies)) == bodies
        scene.finish()
