"""Bodies become packs, in the caller's thread: runs of messages of one priority, one delay and one time to live.

Pure. Knows codecs and what messages may ask for; no core, no journal.

A pack becomes a row of the journal and a frame, so neighbours that differ would cost one each. Messages are put in such
an order that those alike are neighbours, as far as nobody can tell (docs/protocol.md, 7.7). Of two that are sent
together the second may go before the first only where they differ in priority or in delay, and have neither key nor id
in common: then it is these that say which one comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from zmqkit import codec as codecs
from zmqkit.options import Limits
from zmqkit.patterns.pipeline.outgoing import NOTHING, Outgoing, Wanted, plan_of, wanted_of
from zmqkit.patterns.pipeline.rows import Pack

CHUNK_MESSAGES: Final = 256
CHUNK_BYTES: Final = 1 << 20
"""Bodies are packed, journalled and sent in runs of at most so many messages or bytes; a larger body goes alone."""

CHUNK_PACKS: Final = 16
"""So many full packs are made of bodies of as many kinds at most, before they are handed over."""


def pack_many(
    bodies: list[Any], codec: str, limits: Limits, sent_at: int, ids: Sequence[str] | None = None
) -> list[Pack]:
    """Encode bodies, `Outgoing` ones among them, into packs that keep to the limits of a chunk.

    Args:
        bodies: what is sent; changed.
        sent_at: microseconds since 1970.
        ids: of all of them, where they have none of their own; then none is looked for among those sent before.

    Raises:
        EncodeError: one cannot travel.
        TypeError, ValueError: it asks for what cannot be.
    """
    found: list[Wanted] = []
    if Outgoing in set(map(type, bodies)):
        for at, each in enumerate(bodies):
            if type(each) is Outgoing:
                bodies[at] = each.body
                found.append(wanted_of(each))
            else:
                found.append(NOTHING)
    lengths, blob = codecs.encode_many(bodies, codec, limits=limits)
    if not found:
        if len(blob) <= CHUNK_BYTES and len(lengths) <= CHUNK_MESSAGES:
            return [Pack(codec, sent_at, lengths, blob, dict(enumerate(ids)) if ids else {}, {})]
        found = [NOTHING] * len(lengths)
    groups = arrange(found)
    if len(groups) > 1:
        order = list(itertools.chain.from_iterable(groups))
        ends = list(itertools.accumulate(lengths, initial=0))
        blob = b"".join([blob[ends[at] : ends[at + 1]] for at in order])
        lengths = [lengths[at] for at in order]
        found = [found[at] for at in order]
        ids = [ids[at] for at in order] if ids else None
    packs, start, offset = [], 0, 0
    for count, size in _cut(groups, lengths):
        end = start + count
        named = ids[start:end] if ids else None
        packs.append(_pack(codec, sent_at, lengths[start:end], blob[offset : offset + size], found[start:end], named))
        start, offset = end, offset + size
    return packs


def arrange(found: Sequence[Wanted]) -> list[list[int]]:
    """Groups of messages that are alike, by index, in the order in which they are to be sent."""
    kinds = [each.times for each in found]
    if kinds.count(kinds[0]) == len(kinds):
        return [list(range(len(kinds)))]
    groups: list[list[int]] = []
    open_groups: dict[tuple[int, float, float], int] = {}
    """By priority, delay and time to live."""
    newest: dict[object, int] = {}
    """By priority and delay, by key, by id: the last group with such a message."""
    for at, (each, alike) in enumerate(zip(found, kinds, strict=True)):
        lane = alike[:2]
        group = open_groups.get(alike, -1)
        after = newest.get(lane, 0)
        if each.key is not None:
            after = max(after, newest.get(each.key, 0))
        if each.id is not None:
            after = max(after, newest.get((each.id,), 0))
        if group < after or group < 0:
            group = open_groups[alike] = len(groups)
            groups.append([])
        groups[group].append(at)
        newest[lane] = group
        if each.key is not None:
            newest[each.key] = group
        if each.id is not None:
            newest[each.id,] = group
    return groups


def _cut(groups: Iterable[Sequence[int]], lengths: Sequence[int]) -> Iterable[tuple[int, int]]:
    """How many messages and bytes each pack has."""
    at = 0
    for group in groups:
        count = size = 0
        for length in lengths[at : at + len(group)]:
            if count == CHUNK_MESSAGES or (count and size + length > CHUNK_BYTES):
                yield count, size
                count = size = 0
            count, size = count + 1, size + length
        yield count, size
        at += len(group)


def _pack(
    codec: str, sent_at: int, lengths: list[int], blob: bytes, found: Sequence[Wanted], ids: Sequence[str] | None
) -> Pack:
    named: dict[int, str] = dict(enumerate(ids)) if ids else {}
    keys: dict[int, str] = {}
    headers: dict[int, dict[str, str]] = {}
    own = False
    for at, each in enumerate(found):
        if each is NOTHING:
            continue
        if each.id is not None:
            named[at] = each.id
            own = True
        if each.key is not None:
            keys[at] = each.key
        if each.headers:
            headers[at] = each.headers
    return Pack(codec, sent_at, lengths, blob, named, headers, False, plan_of(keys, found[0], own and not ids))
