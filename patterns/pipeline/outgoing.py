"""What a message may have besides its body, checked where the sender can see it. Knows rows, and no core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, NamedTuple

from typing_extensions import TypeVar

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import UsageError
from zmqkit.patterns.pipeline.rows import NO_KEYS, Plan
from zmqkit.patterns.pipeline.wire import MAX_ID, MAX_KEY, MOST_PRIORITY

T = TypeVar("T", default=Any)

Headers = Mapping[str, str]


class Outgoing(Generic[T]):
    """A body with more than a body: for `send_many`, and as a result of a worker's handler.

    Args:
        body: what is sent.
        id: its own id, 1 to 1,000 characters. Of a worker's output: instead of the one that derives from the input;
            it is not looked for in the window of ``dedupe``.
        key: 1 to 200 characters. Messages of one key go one after another, in the order in which they were sent.
        priority: the higher ones first, -2**31 to 2**31.
        delay: seconds before which it is not delivered.
        ttl: seconds after which it is not delivered any more, but expires.
        headers: text to text, for the receiver; names beginning with ``zmqkit-`` are reserved.
    """

    __slots__ = ("body", "delay", "headers", "id", "key", "priority", "ttl")

    def __init__(
        self,
        body: T,
        *,
        id: str | None = None,
        key: str | None = None,
        priority: int = 0,
        delay: float | None = None,
        ttl: float | None = None,
        headers: Headers | None = None,
    ) -> None:
        self.body = body
        self.id = id
        self.key = key
        self.priority = priority
        self.delay = delay
        self.ttl = ttl
        self.headers = headers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outgoing):
            return NotImplemented
        names = ("body", "id", "key", "priority", "delay", "ttl")
        return all(getattr(self, name) == getattr(other, name) for name in names) and bool(
            dict(self.headers or {}) == dict(other.headers or {})
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = {"id": None, "key": None, "priority": 0, "delay": None, "ttl": None}
        given = [f"{name}={value!r}" for name in shown if (value := getattr(self, name)) != shown[name]]
        return f"Outgoing({', '.join([repr(self.body), *given, f'headers={self.headers!r}'])})"


class Wanted(NamedTuple):
    """What is asked for one message, checked."""

    id: str | None
    key: str | None
    priority: int
    delay: float
    ttl: float
    headers: dict[str, str]

    @property
    def times(self) -> tuple[int, float, float]:
        """What neighbours must have in common to be handed over together."""
        return self.priority, self.delay, self.ttl


NOTHING: Final = Wanted(None, None, 0, 0.0, 0.0, {})


def wanted(
    id: str | None, key: str | None, priority: int, delay: float | None, ttl: float | None, headers: Headers | None
) -> Wanted:
    """What is asked for one message. Raises `TypeError`, `ValueError` and `EncodeError`."""
    return Wanted(
        None if id is None else _name("id", id, MAX_ID),
        None if key is None else _name("key", key, MAX_KEY),
        _priority(priority),
        0.0 if delay is None else checks.delay(delay),
        0.0 if ttl is None else _ttl(ttl),
        {} if headers is None else codecs.check_headers(headers),
    )


def asked(
    id: str | None, key: str | None, priority: int, delay: float | None, ttl: float | None, headers: Headers | None
) -> Wanted:
    """The same, fast where nothing is asked for."""
    if id is None and key is None and priority == 0 and delay is None and ttl is None and headers is None:
        return NOTHING if type(priority) is int else wanted(id, key, priority, delay, ttl, headers)
    return wanted(id, key, priority, delay, ttl, headers)


def wanted_of(outgoing: Outgoing[Any]) -> Wanted:
    """See `asked`."""
    return asked(
        outgoing.id, outgoing.key, outgoing.priority, outgoing.delay, outgoing.ttl, outgoing.headers
    )  # fmt: skip


def plan_of(keys: Mapping[int, str], first: Wanted, ids: bool) -> Plan | None:
    """What the core is told of neighbours; None: they want nothing but their turn."""
    if keys or ids or first.times != NOTHING.times:
        return Plan(keys or NO_KEYS, first.priority, first.delay, first.ttl, ids)
    return None


def check_plain(found: Wanted) -> None:
    """For plain pullers. Raises `UsageError`."""
    if found.headers:
        raise UsageError("plain=True sends the body, and nothing else: leave headers= out")
    if found.key is not None:
        raise UsageError("plain=True keeps no order by key, since nobody tells when a job is done: leave key= out")


def _name(name: str, value: Any, most: int) -> str:
    if type(value) is not str:
        raise TypeError(f"{name} must be text, got {value!r:.100}")
    if not 1 <= len(value) <= most:
        raise ValueError(f"{name} must have 1 to {most} characters, got {len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that can be written in UTF-8, got {value!r:.100}") from None
    return value


def _priority(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"priority must be a whole number, got {value!r:.100}")
    if not -MOST_PRIORITY <= value <= MOST_PRIORITY:
        raise ValueError(f"priority must be from -2**31 to 2**31, got {value!r:.100}")
    return value


def _ttl(value: Any) -> float:
    allowed = "more than 0 seconds, below 1e9"
    found = checks.number("ttl", value, allowed)
    if not 0 < found < 1e9:
        raise ValueError(f"ttl must be {allowed}, got {value!r:.100}")
    return found
