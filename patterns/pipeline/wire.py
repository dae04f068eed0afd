"""Frames of the pipeline, inside a session's messages (docs/protocol.md, section 7).

Pure. What a stranger sends is returned checked, or raises `DecodeError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from zmqkit.errors import DecodeError
from zmqkit.protocol import wire
from zmqkit.protocol.core import Frames

DELIVER, SETTLE, SETTLED, HELD, RECALL = range(1, 6)
KNOWN: Final = 8
PRESENT: Final = 9
TAKEN: Final = 10

NACK, REJECT, RELEASE, ISOLATE = range(1, 5)
"""How a job ends that was not acked. ISOLATE is a release whose next delivery is alone in its batch."""

Ranges = list[int]
"""Pairs of first and last lease numbers, flat: [first, last, first, last, ...]."""

MAX_REASON: Final = 2_000
MAX_TRACEBACK: Final = 20_000
MAX_MESSAGES: Final = 1 << 20
MAX_CODEC: Final = 64
MAX_ID: Final = 1_000
MAX_KEY: Final = 200
MOST_PRIORITY: Final = 1 << 31
MAX_RANGES: Final = 1 << 16
"""So many ranges a message, or a few bytes each would keep the other side busy for long."""
MAX_SENT_AT: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deliver:
    """A run of neighbouring messages, leased (7.2). Optional maps go from a message's index to its value."""

    lease: int
    """The first one's lease number; the others follow."""
    sequence: int
    """The first one's sequence; the others follow."""
    origin: str
    """What ids are derived from: the journal and the epoch that wrote the messages."""
    sent_at: int
    """Microseconds since 1970."""
    codec: str
    lengths: list[int]
    blob: bytes
    ids: dict[int, str] = dataclasses.field(default_factory=dict)
    headers: dict[int, dict[str, str]] = dataclasses.field(default_factory=dict)
    failures: dict[int, int] = dataclasses.field(default_factory=dict)
    deliveries: dict[int, int] = dataclasses.field(default_factory=dict)
    alone: bool = False
    keys: dict[int, str] = dataclasses.field(default_factory=dict)
    priority: int = 0
    """Of all of them."""

    def pack(self) -> Frames:
        """The message's frames."""
        more: dict[str, Any] = {}
        for name in ("ids", "headers", "failures", "deliveries", "keys"):
            if value := getattr(self, name):
                more[name] = value
        if self.alone:
            more["alone"] = True
        if self.priority:
            more["priority"] = self.priority
        head = [DELIVER, self.lease, self.sequence, self.origin, self.sent_at, self.codec, self.lengths, more]
        return [wire.pack(head), self.blob]


class Unsettled(NamedTuple):
    """One job that ended otherwise than by an ack (7.3)."""

    lease: int
    kind: int
    delay: float | None = None
    reason: str = ""
    traceback: str = ""
    doubt: bool = False
    """Its effect may be in the puller's inbox, or not."""


class Settle(NamedTuple):
    """What a puller made of its jobs (7.3)."""

    epoch: bytes
    acks: Ranges
    others: list[Unsettled]
    ask: int
    """Not 0: answer with SETTLED and this number once it is stored."""
    commits: int = 0
    """How many commits the puller's inbox has; 0: it has none to tell of."""
    started: int = 0
    """The highest lease that the user has started; 0: not told (7.14)."""

    def pack(self) -> Frames:
        """The message's frames."""
        others = [list(each if each.doubt else each[:5]) for each in self.others]
        head: list[Any] = [SETTLE, self.epoch, self.acks, others, self.ask]
        if self.commits or self.started:
            head.append(self.commits)
        if self.started:
            head.append(self.started)
        return [wire.pack(head)]


class Settled(NamedTuple):
    """The answer to a SETTLE: what of it changed nothing (7.4)."""

    ask: int
    stale: Ranges

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([SETTLED, self.ask, self.stale])]


class Held(NamedTuple):
    """What a puller holds of all leases up to a number (7.5)."""

    epoch: bytes
    up_to: int
    leases: Ranges

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([HELD, self.epoch, self.up_to, self.leases])]


class Recall(NamedTuple):
    """What a puller has not started is wanted elsewhere (7.12): so many jobs at most."""

    most: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([RECALL, self.most])]


class Known(NamedTuple):
    """How many commits the pusher knows of an inbox: more than the puller said (7.13)."""

    inbox: bytes
    commits: int

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([KNOWN, self.inbox, self.commits])]


class Present(NamedTuple):
    """What a puller still has in hand of an opening of before (7.15)."""

    epoch: bytes
    runs: list[int]
    """Flat: (delivery, first, last) of each run."""

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([PRESENT, self.epoch, self.runs])]


class Taken(NamedTuple):
    """What of that is leased to it from now on (7.15)."""

    epoch: bytes
    runs: list[int]
    """Flat: (delivery, first, last, lease of the first) of each run."""
    more: bool
    """A further one follows."""

    def pack(self) -> Frames:
        """The message's frames."""
        return [wire.pack([TAKEN, self.epoch, self.runs, int(self.more)])]


Message = Deliver | Settle | Settled | Held | Recall | Known | Present | Taken


def read(frames: Frames) -> Message:
    """Decode one message of the pipeline. Raises `DecodeError`."""
    head = wire.unpack(frames[0]) if frames else None
    if type(head) is not list or not head:
        raise DecodeError("a pipeline message without a head")
    kind = head[0]
    reader = _READERS.get(kind) if type(kind) is int else None
    if reader is None:
        raise DecodeError(f"a pipeline message of kind {wire.shown(kind)}")
    name, fields, frames_wanted, read_it = reader
    if len(head) < fields or len(frames) < frames_wanted:
        raise DecodeError(f"{name} with parts missing")
    return read_it(head, frames)


def _read_deliver(head: list[Any], frames: Frames) -> Deliver:
    lengths, more, blob = head[6], head[7], frames[1]
    if type(lengths) is not list or not 0 < len(lengths) <= MAX_MESSAGES:
        raise DecodeError("DELIVER without lengths")
    if not all(type(each) is int and each >= 0 for each in lengths) or sum(lengths) != len(blob):
        raise DecodeError("DELIVER whose lengths are not those of its bodies")
    if type(more) is not dict:
        raise DecodeError("DELIVER without its map")
    count = len(lengths)
    headers = _by_index(more, "headers", count)
    for each in headers.values():
        if type(each) is not dict or not all(type(k) is str and type(v) is str for k, v in each.items()):
            raise DecodeError("headers must be a map from text to text")
    return Deliver(
        lease=wire.number(head[1], "lease"),
        sequence=wire.number(head[2], "sequence"),
        origin=wire.text(head[3], "origin", 100),
        sent_at=_time(head[4]),
        codec=wire.text(head[5], "codec", MAX_CODEC),
        lengths=lengths,
        blob=blob,
        ids={i: wire.text(each, "id", MAX_ID) for i, each in _by_index(more, "ids", count).items()},
        headers=headers,
        failures={i: wire.number(n, "failures") for i, n in _by_index(more, "failures", count).items()},
        deliveries={i: wire.number(n, "deliveries") for i, n in _by_index(more, "deliveries", count).items()},
        alone=more.get("alone") is True,
        keys={i: wire.text(each, "key", MAX_KEY) for i, each in _by_index(more, "keys", count).items()},
        priority=_priority(more.get("priority", 0)),
    )


def _priority(value: object) -> int:
    if type(value) is not int or not -MOST_PRIORITY <= value <= MOST_PRIORITY:
        raise DecodeError("a priority must be a whole number from -2**31 to 2**31")
    return value


def _time(value: object) -> int:
    sent_at = wire.number(value, "sent_at")
    if sent_at > MAX_SENT_AT:
        raise DecodeError("sent_at is no time that a calendar has")
    return sent_at


def _by_index(more: dict[Any, Any], name: str, count: int) -> dict[int, Any]:
    found = more.get(name)
    if found is None:
        return {}
    if type(found) is not dict or not all(type(i) is int and 0 <= i < count for i in found):
        raise DecodeError(f"{name} must be a map from the messages' indexes")
    return found


def _read_settle(head: list[Any], frames: Frames) -> Settle:
    others = head[3]
    if type(others) is not list:
        raise DecodeError("SETTLE without a list")
    return Settle(
        wire.octets(head[1], "epoch", 16), ranges(head[2]), [_other(each) for each in others],
        wire.number(head[4], "ask"), _optional(head[5]) if len(head) > 5 else 0,
        _optional(head[6]) if len(head) > 6 else 0,
    )  # fmt: skip


def _optional(value: Any) -> int:
    """Optional: what an older version put there, or a later one, is none."""
    return value if type(value) is int and 0 <= value < 1 << 63 else 0


def _other(value: Any) -> Unsettled:
    if type(value) is not list or len(value) < 5 or type(value[1]) is not int or not NACK <= value[1] <= ISOLATE:
        raise DecodeError("SETTLE with an outcome that does not exist")
    delay = value[2]
    if delay is not None and not (type(delay) in (int, float) and 0 <= delay < 1e9):
        raise DecodeError("a delay must be 0 or more seconds")
    return Unsettled(
        wire.number(value[0], "lease"),
        value[1],
        delay,
        wire.text(value[3], "reason", MAX_REASON),
        wire.text(value[4], "traceback", MAX_TRACEBACK),
        len(value) > 5 and value[5] is True,
    )


def _read_settled(head: list[Any], frames: Frames) -> Settled:
    return Settled(wire.number(head[1], "ask"), ranges(head[2]))


def _read_held(head: list[Any], frames: Frames) -> Held:
    return Held(wire.octets(head[1], "epoch", 16), wire.number(head[2], "lease"), ranges(head[3]))


def _read_recall(head: list[Any], frames: Frames) -> Recall:
    return Recall(wire.number(head[1], "count"))


def _read_known(head: list[Any], frames: Frames) -> Known:
    return Known(wire.octets(head[1], "inbox", 16), wire.number(head[2], "commits"))


def _read_present(head: list[Any], frames: Frames) -> Present:
    return Present(wire.octets(head[1], "epoch", 16), _runs(head[2], 3))


def _read_taken(head: list[Any], frames: Frames) -> Taken:
    return Taken(wire.octets(head[1], "epoch", 16), _runs(head[2], 4), wire.number(head[3], "more") > 0)


def _runs(value: Any, width: int) -> list[int]:
    if type(value) is not list or len(value) % width or len(value) > width * MAX_RANGES:
        raise DecodeError(f"runs of {width} numbers each, at most {MAX_RANGES}")
    for at in range(0, len(value), width):
        numbers = [wire.number(each, "run") for each in value[at : at + width]]
        if numbers[1] > numbers[2]:
            raise DecodeError("a run that ends before it begins")
    return value


_Reader = Callable[[list[Any], Frames], Message]
_READERS: Final[dict[int, tuple[str, int, int, _Reader]]] = {
    DELIVER: ("DELIVER", 8, 2, _read_deliver),
    SETTLE: ("SETTLE", 5, 1, _read_settle),
    SETTLED: ("SETTLED", 3, 1, _read_settled),
    HELD: ("HELD", 4, 1, _read_held),
    RECALL: ("RECALL", 2, 1, _read_recall),
    KNOWN: ("KNOWN", 3, 1, _read_known),
    PRESENT: ("PRESENT", 3, 1, _read_present),
    TAKEN: ("TAKEN", 4, 1, _read_taken),
}


def ranges(value: Any) -> Ranges:
    """`value` if it is pairs of numbers, each pair in order; else `DecodeError`."""
    if type(value) is not list or len(value) % 2:
        raise DecodeError("ranges must come in pairs")
    if len(value) > 2 * MAX_RANGES:
        raise DecodeError(f"{len(value) // 2} ranges; at most {MAX_RANGES} are allowed")
    for i in range(0, len(value), 2):
        first, last = wire.number(value[i], "lease"), wire.number(value[i + 1], "lease")
        if first > last:
            raise DecodeError("a range that ends before it begins")
    return value


def merged(value: Ranges) -> list[tuple[int, int]]:
    """Ranges in order, those that meet or overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(zip(value[::2], value[1::2], strict=True)):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def to_ranges(numbers: Sequence[int]) -> Ranges:
    """Rising numbers as ranges."""
    found: Ranges = []
    if not numbers:
        return found
    first = last = numbers[0]
    for each in numbers:
        if each > last + 1:
            found += (first, last)
            first = each
        last = each
    found += (first, last)
    return found


Outcome = Literal["acked", "dead", "expired"]
"""How a message settles."""


def gaps(first: int, last: int, ended: Ranges) -> Ranges:
    """What of a range is not in the rising ranges `ended`."""
    found: Ranges = []
    for at in range(0, len(ended), 2):
        if first < ended[at]:
            found += (first, ended[at] - 1)
        first = ended[at + 1] + 1
    if first <= last:
        found += (first, last)
    return found


def sendable(text: str) -> str:
    """What an exception says may hold halves of surrogate pairs, of a file's name say, which no frame carries."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
