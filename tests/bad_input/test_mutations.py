"""Golden frames, each field replaced by each of many wrong values.

What docs/protocol.md calls bad is counted as bad, and what it allows is taken. The tables of what is allowed are
written from that page alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.bad_input.scenes import Scene, bound_puller, bound_pusher, dialling_puller
from tests.bad_input.strangers import (
    DATA,
    DELIVER,
    GOODBYE,
    HELD,
    HELLO,
    LOST,
    NACK,
    PING,
    PONG,
    PRESENT,
    REFUSED,
    REJECT,
    RESUME,
    SETTLE,
    SETTLED,
    STATE,
    TAKEN,
    WELCOME,
    Dealer,
    Router,
    deliver,
    greeting,
    pack,
    unpack,
)

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 255, 65536, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.5, 1.5,
    1e308, math.nan, math.inf, -math.inf, "", "text", "\0", "x" * 33, "x" * 1001, b"", b"bytes", b"8 bytes!",
    b"sixteen bytes!!!", b"x" * 40, [], [1], [0, 0], [1, 2], [2, 1], [-1, 5], ["a", "b"], [1, "text"], [math.nan, 3],
    [1.0, 0], [1.0, 1001], [0.0, 3], [[]], [[1, 2]], {}, {"a": 1}, {1: 2}, {"a": {"b": []}}, {0: "x"}, {-1: 1},
    {0: {"a": "b"}}, {0: {"a": 1}}, {0: [1]}, {9: 9}, {str(n): n for n in range(65)}, {"x": b"x" * 5000},
    list(range(100)), ["x"] * 65,
]  # fmt: skip

CASES_A_CONNECTION = 60
"""Fewer than the bad messages that end a connection."""

Allowed = Callable[[Any], bool]


def number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9


def text(limit: int) -> Allowed:
    return lambda value: type(value) is str and len(value) <= limit


def octets(length: int) -> Allowed:
    return lambda value: type(value) is bytes and len(value) == length


def pair(first: Allowed, second: Allowed) -> Allowed:
    return lambda value: type(value) is list and len(value) >= 2 and first(value[0]) and second(value[1])


def anything(value: Any) -> bool:
    return True


def ranges(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) % 2 == 0
        and all(map(number, value))
        and all(value[at] <= value[at + 1] for at in range(0, len(value), 2))
    )


HELLO_FIELDS: dict[str, Allowed] = {
    "zmqkit": lambda value: type(value) is list and len(value) == 2 and all(map(number, value)),
    "role": text(32),
    "instance": octets(16),
    "session": octets(8),
    "attempt": number,
    "resume": anything,
    "replaces": lambda value: not value or octets(8)(value),
    "heard": lambda value: value == 0 and type(value) is int,
    "sent": lambda value: value == 0 and type(value) is int,
    "credit": pair(number, number),
    "heartbeat": pair(seconds, lambda value: type(value) is int and 1 <= value <= 1000),
    "busy": seconds,
    "frame": number,
    "name": text(1000),
    "host": text(1000),
    "process": pair(number, text(1000)),
    "features": lambda value: type(value) is list and len(value) <= 64 and all(map(text(1000), value)),
    "about": lambda value: type(value) is dict and len(value) <= 64,
}
REQUIRED = {"zmqkit", "role", "instance", "session", "attempt", "credit", "heartbeat"}


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def chunks(cases: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(cases), CASES_A_CONNECTION):
        yield cases[start : start + CASES_A_CONNECTION]


def shown(value: Any) -> str:
    return repr(value)[:60]


Bound = Callable[[], AbstractContextManager[Scene]]
BOUND: dict[str, tuple[Bound, str]] = {"pusher": (bound_pusher, "pull"), "puller": (bound_puller, "push")}


# ---- HELLO and WELCOME -----------------------------------------------------------------------


def hello_cases() -> list[tuple[str, Any, str]]:
    """(field, value, what must come of it)."""
    cases = []
    for field, allowed in HELLO_FIELDS.items():
        for value in VALUES:
            if not allowed(value):
                expected = "bad"
            elif field == "zmqkit":
                expected = "welcome" if value[0] <= 1 <= value[1] else "version"
            elif field == "role":
                expected = "role"
            elif field == "resume" and value is True:
                expected = "lost"
            else:
                expected = "welcome"
            cases.append((field, value, expected))
        cases.append((field, ..., "bad" if field in REQUIRED else "welcome"))
    return cases


@pytest.mark.parametrize("kind", BOUND)
def test_every_field_of_hello_with_every_wrong_value(kind: str) -> None:
    make, role = BOUND[kind]
    wrong = []
    with make() as scene:
        for some in chunks(hello_cases()):
            with Dealer(scene.peer.addresses[0], role) as stranger:
                for field, value, expected in some:
                    said = greeting(role)
                    stranger.session = said["session"]
                    if value is ...:
                        del said[field]
                    else:
                        said[field] = value
                    bad = scene.count("frames_bad")
                    stranger.say(pack([HELLO, said]))
                    outcome = hello_outcome(scene, stranger, bad)
                    if role == "push" and field == "about" and outcome == "welcomebad":
                        outcome = "welcome"  # and then sent away, for it has no epoch
                    if outcome != expected:
                        wrong.append(f"{field}={shown(value)}: {outcome}, not {expected}")
        assert not wrong, "\n".join(wrong)
        scene.finish()


def hello_outcome(scene: Scene, stranger: Dealer, bad: int) -> str:
    """What came of a HELLO: the answer, or that it is counted as bad."""
    probe = b"probing!"
    stranger.say(pack([STATE, probe, 0, 0, 0]))
    outcome = ""
    while True:
        header = unpack(stranger.wait()[0])
        if header[0] == LOST and header[1] == probe:
            break
        if header[0] in (WELCOME, REFUSED, LOST):
            outcome += {WELCOME: "welcome", LOST: "lost"}.get(header[0]) or header[1]
    if scene.count("frames_bad") == bad + 1:
        outcome += "bad"
    return outcome


def test_every_field_of_welcome_with_every_wrong_value() -> None:
    cases = [(field, value) for field, allowed in HELLO_FIELDS.items() for value in VALUES if not allowed(value)]
    # A welcome to a new session in which something was heard is bad; what was sent in it is asked for.
    cases = [(field, value) for field, value in cases if field != "sent" or not number(value)]
    wrong: list[str] = []
    for some in chunks(cases):
        with Router() as router, dialling_puller(router.address) as scene:
            guest = router.guest()
            for count, (field, value) in enumerate(some, start=1):
                guest.welcome("push", **{field: value})
                guest.say(pack([STATE, b"probing!", 0, 0, 0]))
                while router.hear()[1] != [LOST, b"probing!"]:
                    pass
                if scene.count("frames_bad") + len(wrong) != count:
                    wrong.append(f"{field} = {shown(value)} is not bad")
            scene.finish()
            scene.expect(sessions_opened=1)
    assert not wrong, "\n".join(wrong)
    assert len(cases) > 500


# ---- session frames ----------------------------------------------------------------------------


SESSION_FRAMES: dict[int, list[Any]] = {
    DATA: [1, 0],
    STATE: [],
    PING: [1, 0],
    PONG: [0, 0],
    RESUME: [],
    GOODBYE: ["no"],
}


def session_cases() -> Iterator[tuple[int, int, Any]]:
    """(kind, index in the header, value): all of them bad."""
    for kind, more in SESSION_FRAMES.items():
        wanted: list[Allowed] = [octets(8), number, number, number]
        wanted += [text(1000)] if kind == GOODBYE else [number] * len(more)
        for at, allowed in enumerate(wanted, start=1):
            for value in VALUES:
                bad = not allowed(value)
                if at == 2 and number(value) and value > 0:
                    bad = True  # so much was never said
                if at == 5 and kind == GOODBYE and not bad:
                    continue
                if bad:
                    yield kind, at, value
        for length in range(1, 5 + (0 if kind == GOODBYE else len(more))):
            yield kind, length, ...


def test_every_field_of_the_session_frames_with_every_wrong_value() -> None:
    wrong = []
    cases = list(session_cases())
    with bound_pusher() as scene:
        for some in chunks(cases):
            with Dealer(scene.peer.addresses[0], "pull") as stranger:
                stranger.enter()
                stranger.settled()
                for kind, at, value in some:
                    header = [kind, stranger.session, 0, 0, 0, *SESSION_FRAMES[kind]]
                    if value is ...:
                        del header[at:]
                    else:
                        header[at] = value
                    before = scene.count("frames_bad"), scene.count("frames_stray")
                    stranger.say(pack(header))
                    stranger.settled()
                    after = scene.count("frames_bad"), scene.count("frames_stray")
                    stray = at == 1 and value is not ... and octets(8)(value)
                    if (after[0] - before[0], after[1] - before[1]) != ((0, 1) if stray else (1, 0)):
                        wrong.append(f"kind {kind}, field {at} = {shown(value)}: {before} -> {after}")
        assert not wrong, "\n".join(wrong)
        assert len(cases) > 800
        scene.expect(sessions_lost=scene.count("sessions_opened") - 1, credit_exceeded=0, io_core_errors=0)
        scene.finish()


# ---- messages of the pipeline ---------------------------------------------------------------------


def delay(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value < 1e9)


def others(value: Any) -> bool:
    return value == [] and type(value) is list


def pipeline_cases(good: dict[str, tuple[Any, Allowed]]) -> Iterator[tuple[str, list[Any], bool]]:
    """Heads with one field replaced or all from one on cut off, and whether that is bad."""
    fields = list(good)
    head = [value for value, _ in good.values()]
    for at, field in enumerate(fields):
        for value in VALUES:
            changed = head.copy()
            changed[at] = value
            yield f"{field} = {shown(value)}", changed, not good[field][1](value)
        yield f"cut before {field}", head[:at], True


def each_is_judged(
    scene: Scene, stranger: Callable[[], Dealer], cases: list[tuple[str, list[Any], bool]], *blobs: bytes,
    messages: int = 0,
) -> None:  # fmt: skip
    """Say each as a message of a session; the bad ones are counted, the others are not."""
    wrong = []
    for some in chunks(cases):
        with stranger() as dealer:
            dealer.enter()
            for what, head, is_bad in some:
                bad = scene.count("frames_bad")
                dealer.data(head, *blobs, messages=messages)
                dealer.settled()
                if scene.count("frames_bad") - bad != is_bad:
                    wrong.append(f"{what} is {'taken' if is_bad else 'bad'}")
            dealer.say(dealer.header(GOODBYE, "", dealer.sent))
            dealer.settled()
    assert not wrong, "\n".join(wrong)


def test_every_field_of_settle_with_every_wrong_value() -> None:
    with bound_pusher() as scene:
        epoch = scene.peer._core.settings.epoch
        good: dict[str, tuple[Any, Allowed]] = {
            "kind": (SETTLE, lambda value: False),
            "epoch": (epoch, octets(16)),
            "acks": ([7, 9], ranges),
            "others": ([], others),
            "ask": (0, number),
        }
        cases = list(pipeline_cases(good))
        outcome: dict[str, tuple[Any, Allowed]] = {
            "lease": (5, number),
            "outcome": (NACK, lambda value: type(value) is int and 1 <= value <= 4),
            "delay": (None, delay),
            "reason": ("why", text(2000)),
            "traceback": ("", text(20_000)),
        }
        for what, one, is_bad in pipeline_cases(outcome):
            cases.append((f"others: {what}", [SETTLE, epoch, [], [one], 0], is_bad))
        for what, value in (("reason", "x" * 2001), ("traceback", "x" * 20_001)):
            one = [5, REJECT, None, "", ""]
            one[3 if what == "reason" else 4] = value
            cases.append((f"a long {what}", [SETTLE, epoch, [], [one], 0], True))
        cases.append(("65,537 ranges", [SETTLE, epoch, [1, 1] * 65_537, [], 0], True))
        each_is_judged(scene, lambda: Dealer(scene.peer.addresses[0], "pull"), cases)
        scene.finish()


def test_every_field_of_held_with_every_wrong_value() -> None:
    with bound_pusher() as scene:
        epoch = scene.peer._core.settings.epoch
        good: dict[str, tuple[Any, Allowed]] = {
            "kind": (HELD, lambda value: False),
            "epoch": (epoch, octets(16)),
            "up_to": (9, number),
            "leases": ([], ranges),
        }
        cases = list(pipeline_cases(good))
        cases.append(("a pusher's message", deliver()[0], True))
        cases.append(("a pusher's answer", [SETTLED, 1, []], True))
        each_is_judged(scene, lambda: Dealer(scene.peer.addresses[0], "pull"), cases, b"blob")
        scene.finish()


def triples(value: Any) -> bool:
    return type(value) is list and len(value) % 3 == 0 and all(map(number, value)) and ranges(value[1:3])


def test_every_field_of_present_with_every_wrong_value() -> None:
    with bound_pusher() as scene:
        good: dict[str, tuple[Any, Allowed]] = {
            "kind": (PRESENT, lambda value: False),
            "epoch": (b"e" * 16, octets(16)),
            "runs": ([1, 5, 9], triples),
        }
        cases = list(pipeline_cases(good))
        cases.append(("65,537 runs", [PRESENT, b"e" * 16, [1, 1, 1] * 65_537], True))
        cases.append(("a pusher's answer", [TAKEN, b"e" * 16, [], 0], True))
        each_is_judged(scene, lambda: Dealer(scene.peer.addresses[0], "pull"), cases)
        scene.expect(taken=0)
        scene.finish()


def by_index(one: Allowed) -> Allowed:
    """A map from the index of the only message."""
    return lambda value: (
        value is None or (type(value) is dict and all(same(key, 0) and one(value[key]) for key in value))
    )


def all_text(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str and type(each) is str for key, each in value.items())


def more_cases() -> Iterator[tuple[str, dict[Any, Any], bool]]:
    """Values of the last element of DELIVER."""
    allowed: dict[str, Allowed] = {
        "ids": by_index(text(1000)),
        "headers": by_index(all_text),
        "failures": by_index(number),
        "deliveries": by_index(number),
        "alone": anything,
        "unknown": anything,
    }
    for name, rule in allowed.items():
        for value in VALUES:
            yield f"{name} = {shown(value)}", {name: value}, not rule(value)
            yield f"{name}: 0 = {shown(value)}", {name: {0: value}}, not rule({0: value})


def test_every_field_of_deliver_with_every_wrong_value() -> None:
    """Each is said in a session of its own kind: what is taken is a job, and may hold nothing that harms its user."""
    head, blob = deliver(["strange"])
    good: dict[str, tuple[Any, Allowed]] = {
        "kind": (DELIVER, lambda value: same(value, DELIVER)),
        "lease": (1, lambda value: number(value) and value > 0),
        "sequence": (1, number),
        "origin": ("stranger", text(100)),
        "sent_at": (1, lambda value: number(value) and value < 253_402_300_800_000_000),
        "codec": ("msgpack", text(64)),
        "lengths": ([len(blob)], lambda value: value == [len(blob)]),
        "more": ({}, lambda value: type(value) is dict),  # none of the names that it knows
    }
    cases = list(pipeline_cases(good))
    cases += [(f"more: {what}", [*head[:7], value], is_bad) for what, value, is_bad in more_cases()]
    for what, lengths in (
        ("lengths that lie", [len(blob) + 1]),
        ("a length below 0", [len(blob) + 1, -1]),
        ("lengths of two", [len(blob) - 1, 1]),
        ("a huge length", [2**63]),
        ("lengths that go round", [2**64 - 1, len(blob) + 1]),
    ):
        cases.append((what, [*head[:6], lengths, {}], True))
    cases.append(("a puller's message", [SETTLE, b"e" * 16, [], [], 0], True))
    wrong = []
    with bound_puller() as scene:
        taken = 0
        for some in chunks(cases):
            with Dealer(scene.peer.addresses[0], "push") as stranger:
                stranger.enter()
                for what, changed, is_bad in some:
                    if not is_bad and changed[1] != 2**63 - 1:
                        changed[1] = stranger.sent + 1  # leases rise
                    bad = scene.count("frames_bad")
                    stranger.data(changed, blob, messages=1)
                    stranger.settled()
                    if scene.count("frames_bad") - bad != is_bad:
                        wrong.append(f"{what} is {'taken' if is_bad else 'bad'}")
                    if not is_bad:
                        taken += 1
                        job = scene.pull.receive(0)
                        if job is not None:  # else its codec is unknown, and it was rejected
                            str((job.sent_at, job.id, job.headers, job.failures, job.deliveries, job))
                            job.ack()
                        if changed[1] == 2**63 - 1:
                            stranger.enter()
                            stranger.heard = stranger.sent = 0
        assert not wrong, "\n".join(wrong)
        assert taken > 100
        scene.finish()
