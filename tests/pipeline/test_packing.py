"""How bodies become packs: those alike together, as far as nobody can tell, and all within the limits of a pack."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from zmqkit import EncodeError, Limits, Outgoing, Pusher, UsageError, codec
from zmqkit.patterns.pipeline.bulk import chunk_size
from zmqkit.patterns.pipeline.outgoing import Wanted, wanted_of
from zmqkit.patterns.pipeline.packing import CHUNK_BYTES, CHUNK_MESSAGES, CHUNK_PACKS, arrange, pack_many
from zmqkit.patterns.pipeline.rows import Pack

LIMITS = Limits()


def packed(*bodies: object, ids: list[str] | None = None) -> list[Pack]:
    return pack_many(list(bodies), "msgpack", LIMITS, 7, ids)


def unpacked(pack: Pack) -> list[Any]:
    ends = list(itertools.accumulate(pack.lengths, initial=0))
    assert ends[-1] == len(pack.blob)
    return [codec.decode(pack.blob[a:b], "msgpack", limits=LIMITS) for a, b in itertools.pairwise(ends)]


def test_alternating_priorities_become_a_pack_each_in_the_order_in_which_they_were_sent() -> None:
    packs = packed(*(Outgoing(n, priority=n % 3) for n in range(12)))
    assert [unpacked(each) for each in packs] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert [each.plan and each.plan.priority for each in packs] == [None, 1, 2]


def test_what_belongs_to_a_body_goes_with_it() -> None:
    sent = [
        Outgoing("a", priority=1, headers={"h": "a"}), "b", Outgoing("c", priority=1, key="k"), Outgoing("d", id="d"),
        Outgoing("e", priority=1, id="e"),
    ]  # fmt: skip
    first, second = packed(*sent)
    assert unpacked(first) == ["a", "c", "e"]
    assert (first.headers, first.ids) == ({0: {"h": "a"}}, {2: "e"})
    assert first.plan is not None
    assert (first.plan.keys, first.plan.priority, first.plan.once) == ({1: "k"}, 1, True)
    assert unpacked(second) == ["b", "d"]
    assert second.ids == {1: "d"}
    assert second.sent_at == 7


def test_ids_of_a_workers_outputs_go_with_them_and_are_not_looked_for() -> None:
    sent = [Outgoing(n, priority=n % 2, id="own" if n == 3 else None) for n in range(5)]
    packs = packed(*sent, ids=[f"input/{n}" for n in range(5)])
    assert [each.ids for each in packs] == [{0: "input/0", 1: "input/2", 2: "input/4"}, {0: "input/1", 1: "own"}]
    assert [each.plan is not None and each.plan.once for each in packs] == [False, False]


def test_a_body_that_cannot_travel_is_named_by_its_place_among_those_that_were_sent() -> None:
    with pytest.raises(EncodeError) as caught:
        packed(Outgoing(0, priority=1), 1, Outgoing(2, priority=1), Outgoing(object(), priority=1))
    assert caught.value.index == 3


def test_no_pack_is_larger_than_allowed() -> None:
    packs = packed(*(Outgoing(n, priority=n % 2) for n in range(3 * CHUNK_MESSAGES)))
    assert [len(each) for each in packs] == [CHUNK_MESSAGES, CHUNK_MESSAGES // 2] * 2
    packs = packed(*(Outgoing(b"x" * (CHUNK_BYTES // 3), priority=n % 2) for n in range(12)))
    assert [len(each) for each in packs] == [2, 2, 2] * 2
    packs = packed("x", b"x" * (CHUNK_BYTES + 1), "y")
    assert [len(each) for each in packs] == [1, 1, 1]


@pytest.mark.parametrize(
    ("sent", "groups"),
    [
        pytest.param([{"key": "k"}, {"key": "k", "priority": 1}, {}], [[0, 2], [1]], id="keyless go before"),
        pytest.param([{"key": "k"}, {"key": "k", "priority": 1}, {"key": "k"}], [[0], [1], [2]], id="a key never"),
        pytest.param([{"id": "i"}, {"id": "i", "priority": 1}, {"id": "i"}], [[0], [1], [2]], id="an id never"),
        pytest.param([{"key": "i"}, {"id": "i", "priority": 1}, {"key": "i"}], [[0, 2], [1]], id="a key is no id"),
        pytest.param([{"ttl": 1}, {"ttl": 2}, {"ttl": 1}], [[0], [1], [2]], id="times to live give no order"),
        pytest.param([{"ttl": 1}, {"ttl": 1, "priority": 1}, {"ttl": 1}], [[0, 2], [1]], id="but do not hinder"),
        pytest.param([{"delay": 1}, {"delay": 2}, {"delay": 1}, {}], [[0, 2], [1], [3]], id="delays give one"),
        pytest.param([{"priority": 1, "ttl": 1}, {}, {"priority": 1}, {"priority": 1, "ttl": 1}], [[0], [1], [2], [3]]),
    ],
)
def test_a_message_goes_before_another_only_where_priority_or_delay_say_who_is_first(
    sent: list[dict[str, Any]], groups: list[list[int]]
) -> None:
    assert arrange([wanted_of(Outgoing(None, **each)) for each in sent]) == groups


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_keeps_the_order_within_each_key_and_each_priority(seed: int) -> None:
    draw = random.Random(seed)

    def wanted() -> Wanted:
        key, id = draw.choice(["", "", "a", "b"]), draw.choice(["", "", "x", "y"])
        times = draw.choice([0.0, 1.0]), draw.choice([0.0, 2.0])
        return Wanted(id or None, key or None, draw.randrange(3), *times, {})

    found = [wanted() for _ in range(100)]
    groups = arrange(found)
    place = {each: at for at, each in enumerate(itertools.chain.from_iterable(groups))}
    assert sorted(place) == list(range(100))
    for group in groups:
        assert len({found[each].times for each in group}) == 1
    for a, b in itertools.combinations(range(100), 2):
        one, other = found[a], found[b]
        if (
            (one.priority, one.delay) == (other.priority, other.delay)
            or (one.key is not None and one.key == other.key)
            or (one.id is not None and one.id == other.id)
        ):
            assert place[a] < place[b], f"{a} and {b}"


def test_chunks_grow_where_a_few_kinds_alternate_and_nobody_waits_for_room() -> None:
    def of(kinds: int, each: int) -> list[Pack]:
        return [Pack("raw", 0, [1] * each, b"x" * each) for _ in range(kinds)]

    assert chunk_size(10_000, of(1, 256)) == CHUNK_MESSAGES
    assert chunk_size(10_000, of(3, 80)) == 3 * CHUNK_MESSAGES
    assert chunk_size(10_000, of(3, 80), bounded=True) == CHUNK_MESSAGES
    assert chunk_size(10_000, of(100, 80)) == CHUNK_PACKS * CHUNK_MESSAGES
    assert chunk_size(10_000, of(256, 1)) == CHUNK_MESSAGES
    assert chunk_size(16, of(3, 5)) == 64


def test_bodies_for_plain_pullers_share_packs_unless_one_of_them_is_of_several_frames() -> None:
    push = Pusher("tcp://127.0.0.1:*", plain=True, codec="raw")
    alone = push._pack_many([b"a", Outgoing(b"b", priority=1), b"c"])
    assert [(each.blob, each.lengths) for each in alone] == [(b"ac", [1, 1]), (b"b", [1])]
    several = push._pack_many([b"a", [b"b", b"c"], Outgoing(b"d", priority=1)])
    assert [len(each) for each in several] == [1, 1, 1]
    assert several[1].headers
    with pytest.raises(UsageError, match="leave key= out"):
        push._pack_many([b"a", Outgoing(b"b", key="k")])
