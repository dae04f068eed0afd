"""Random mutations of valid frames, into both cores: neither ever raises, and who is honest is served."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.bad_input.pubsub import Fair, Mutator
from tests.pubsub.listening import DATA, EPOCH, PUBLISHER, Scene
from zmqkit.events import BadFrame
from zmqkit.patterns.pubsub import talk, wire
from zmqkit.patterns.pubsub.topics import private_topic, wire_topic


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_publisher_says_a_subscriber_goes_on_with_the_honest_one(seed: int) -> None:
    dice = random.Random(f"evil publisher {seed}")
    mutator = Mutator(dice)
    fair = Fair(
        start=dice.choice([None, "earliest"]), durable=dice.random() < 0.2, on_gap=dice.choice(["recover", "raise"])
    )
    fair.go_on()
    for _ in range(25):
        if fair.evil.core is not None:
            fair.post(fair.evil, *(dice.choice(["a", "b", "x.y"]) for _ in range(dice.choice([1, 3, 10]))))
        fair.turn()
        for _ in range(8):
            way = dice.choice(["data", "data", "down", "up", "subs"])
            queue = fair.evil.ways[way]
            if queue and way in ("data", "down") and dice.random() < 0.5:
                queue[0] = mutator.message(queue[0])
            fair.step(fair.evil, way)
        match dice.randrange(8):
            case 0:
                fair.cut(fair.evil, dice.choice(["data", "recovery"]))
                fair.connect(fair.evil)
            case 1:
                fair.advance(dice.choice([0.1, 1.0, 5.0]))
            case _:
                fair.connect(fair.evil)
        fair.go_on()
    assert fair.core.counters["frames_bad"] > 0
    assert fair.happened(BadFrame)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_subscriber_says_a_publisher_goes_on_with_the_honest_one(seed: int) -> None:
    dice = random.Random(f"evil subscriber {seed}")
    mutator = Mutator(dice)
    scene = Scene(history=50, last_value=True, about={"cursor": "audit"} if dice.random() < 0.5 else {}, credit=100)
    honest = scene.second({})
    honest.core.say(talk.Topics(True, ["a"], [], True), scene.now)
    honest.core.say(talk.Feed(1, "", "", 0, None, "earliest"), scene.now)
    scene.flow_second(honest)
    good: list[Any] = [
        talk.Topics(True, ["a", "b.#", "*.c"], [], True), talk.Topics(False, ["c"], ["a"], False), talk.Joined(1, 3),
        talk.Left(), talk.Seen(1), talk.Feed(1, PUBLISHER, EPOCH, 1, None, "after"), talk.Feed(2, "", "", 0, 9, "time"),
        talk.Feed(3, "", "", 0, 5, "earliest"), talk.Feed(4, "", "", 0, None, "resume"), talk.Stop(1),
        talk.Commit(EPOCH, 2, 7), talk.Check(5, 0, 8, 3, 20), talk.Values(6, 100),
    ]  # fmt: skip
    subscriptions = [wire_topic("a"), b"d", b"b", private_topic(wire.private_name(b"i" * 16, 1, ":70"))]
    sent = 0
    for _ in range(60):
        core, session = scene.c.core, scene.c.core.session
        assert session is not None
        frames = dice.choice(good).pack()
        if dice.random() < 0.8:
            frames = mutator.message(frames)
        if not session.ended:
            core.sessions.send(session, frames, dice.choice([0, 0, 0, 1]), scene.now)
        prefix = mutator.message([wire.subscription(dice.choice(subscriptions), dice.random() < 0.7)])
        scene.b.core.receive_message(DATA, [prefix[0], dice.choice([b"", b"token", b"other"])], scene.now)
        scene.publish(("a", b"x"), ("b.c", b"y"), ("x.c", b"z"))
        sent += 1
        if dice.random() < 0.2:
            scene.advance(dice.choice([0.1, 1.5]))
        scene.flow_second(honest)
    assert scene.b.core.counters["frames_bad"] > 0
    got = [offset for each in honest.core.got if isinstance(each, talk.Block) for offset in each.offsets]
    assert got == list(range(1, 3 * sent, 3))
