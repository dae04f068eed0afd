"""Frames of the session layer: bytes in, checked values out, and back (docs/protocol.md, sections 2 and 3).

Pure. Whatever a stranger sends, `unpack` returns checked values or raises `DecodeError`; nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from zmqkit.errors import DecodeError

VERSION = 1
"""The version of the protocol that this module speaks."""

MAX_HEADER_BYTES = 1 << 22
"""The largest head of a pattern's message; what is larger is not one of ours."""

MAX_SESSION_HEADER_BYTES = 1 << 16
"""The largest header of a session's frame. What HELLO says is kept as long as the session, so it must be small."""

MAX_CONTAINERS = 1 << 16
"""How many lists and maps a large head may hold: an empty map takes one byte on the wire and 64 in memory."""

MAX_BOUND_SECONDS = 3600.0
"""Longer silence is death, whatever a peer announced: a stranger must not be immortal."""

MAX_NUMBER = 1 << 63

MAX_CONNECTIONS = 256
"""So many connections to one address at most, however many MORE tells."""

# The kinds of frames (docs/protocol.md, section 2.2).
HELLO, WELCOME, REFUSED, LOST, DATA, STATE, PING, PONG, RESUME, GOODBYE, GONE, LISTEN, MORE = range(1, 14)
NAMES = {
    HELLO: "HELLO",
    WELCOME: "WELCOME",
    REFUSED: "REFUSED",
    LOST: "LOST",
    DATA: "DATA",
    STATE: "STATE",
    PING: "PING",
    PONG: "PONG",
    RESUME: "RESUME",
    GOODBYE: "GOODBYE",
    GONE: "GONE",
    LISTEN: "LISTEN",
    MORE: "MORE",
}

_PLAIN = frozenset({bytes, str, int, float, bool, type(None)})

# The first byte of every msgpack list or map; the same bytes occur in texts and numbers, too.
_NO_CONTAINERS = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})

pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
"""msgpack of a header. Only plain values come here, so it cannot fail, and runs no code of others."""


_unpackb = msgpack.unpackb


def unpack(data: bytes) -> Any:
    """A header's value. Raises `DecodeError` for whatever is not msgpack, too large or too deep."""
    hooks: dict[str, Callable[[Any], Any]] | None = None
    if len(data) > MAX_CONTAINERS:
        if len(data) > MAX_HEADER_BYTES:
            raise DecodeError(f"a header of {len(data)} bytes; at most {MAX_HEADER_BYTES} are allowed")
        if len(data.translate(None, _NO_CONTAINERS)) > MAX_CONTAINERS:
            hooks = _counting_hooks()
    try:
        if hooks is None:  # nearly always; an empty ``**hooks`` costs more than to unpack a header
            return _unpackb(data, strict_map_key=False, max_ext_len=0)
        return _unpackb(data, strict_map_key=False, max_ext_len=0, **hooks)
    except Exception as error:  # msgpack raises many kinds; on a stranger's bytes all mean the same
        raise DecodeError(f"not a header: {type(error).__name__}: {str(error)[:200]}") from None


def _counting_hooks() -> dict[str, Callable[[Any], Any]]:
    left = MAX_CONTAINERS

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise DecodeError(f"more than {MAX_CONTAINERS} lists and maps")
        return container

    return {"list_hook": count, "object_hook": count}


def shown(value: object) -> str:
    """A stranger's value, short, for a message. Cheap, however large the value is."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def gone() -> bytes:
    """GONE: this connection leads nowhere any more (docs/protocol.md, section 15)."""
    return pack([GONE])


def listen() -> bytes:
    """LISTEN: say no HELLO here, others will."""
    return pack([LISTEN])


def more(total: int) -> bytes:
    """MORE: have so many connections to this address, from 1 to `MAX_CONNECTIONS`."""
    assert 1 <= total <= MAX_CONNECTIONS
    return pack([MORE, total])


def read_more(header: list[Any]) -> int:
    """The total of a MORE, too large a one taken for `MAX_CONNECTIONS`. Raises `DecodeError`."""
    total = number(header[1] if len(header) > 1 else None, "a number of connections")
    if not total:
        raise DecodeError("MORE of no connection at all")
    return min(total, MAX_CONNECTIONS)


def number(value: object, what: str) -> int:
    """`value` if it is a whole number from 0 to 2**63; else `DecodeError`."""
    if type(value) is int and 0 <= value < MAX_NUMBER:
        return value
    raise DecodeError(f"{what} must be a whole number, got {shown(value)}")


def text(value: object, what: str, limit: int = 1000) -> str:
    """`value` if it is text of at most `limit` characters; else `DecodeError`."""
    if type(value) is str and len(value) <= limit:
        return value
    raise DecodeError(f"{what} must be text of at most {limit} characters, got {shown(value)}")


def octets(value: object, what: str, length: int) -> bytes:
    """`value` if it is exactly `length` bytes; else `DecodeError`."""
    if type(value) is bytes and len(value) == length:
        return value
    raise DecodeError(f"{what} must be {length} bytes, got {shown(value)}")


def seconds(value: object, what: str) -> float:
    """`value` if it is a positive, finite number; else `DecodeError`."""
    if type(value) in (int, float) and 0 < value < 1e9:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise DecodeError(f"{what} must be a positive number of seconds, got {shown(value)}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What an instance says of itself in HELLO and WELCOME (docs/protocol.md, section 3.1).

    Attributes:
        role: the pattern's side, such as "push" or "pull".
        instance: the fresh random id of the live peer object, 16 bytes.
        session: the id of the session, 8 bytes, chosen by the connecting side.
        attempt: rises with each HELLO that an instance says; a WELCOME repeats the one that it answers.
        resume: this session was welcomed before; create no new one.
        replaces: a session that the connecting side has given up, or empty.
        heard: the newest number heard in this session.
        sent: the newest number sent in this session.
        credit_messages: the absolute limit of messages that the other side may send.
        credit_bytes: the same in bytes.
        interval: seconds between heartbeats.
        liveness: intervals of silence that are death.
        busy_bound: seconds that a silent peer with a standing connection is taken for busy.
        frame_bytes: the largest frame taken.
        name: of the peer object, for people.
        host: the id of the host and its process namespace, for the proof of death.
        pid: of the process.
        started: when that process started, as its host tells it.
        features: optional abilities, for later versions.
        about: what the pattern above adds; plain values, what else is said there is skipped.
    """

    role: str
    instance: bytes
    session: bytes
    attempt: int = 1
    resume: bool = False
    replaces: bytes = b""
    heard: int = 0
    sent: int = 0
    credit_messages: int = 0
    credit_bytes: int = 0
    interval: float = 1.0
    liveness: int = 3
    busy_bound: float = 3600.0
    frame_bytes: int = 64 * 1024 * 1024
    name: str = ""
    host: str = ""
    pid: int = 0
    started: str = ""
    features: tuple[str, ...] = ()
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: tuple[int, int] = (VERSION, VERSION)

    @property
    def bound(self) -> float:
        """Seconds of silence that are death."""
        return min(self.interval * self.liveness, MAX_BOUND_SECONDS)

    def pack(self, kind: int) -> bytes:
        """The frame."""
        return pack(
            [
                kind,
                {
                    "zmqkit": list(self.versions),
                    "role": self.role,
                    "instance": self.instance,
                    "session": self.session,
                    "attempt": self.attempt,
                    "resume": self.resume,
                    "replaces": self.replaces,
                    "heard": self.heard,
                    "sent": self.sent,
                    "credit": [self.credit_messages, self.credit_bytes],
                    "heartbeat": [self.interval, self.liveness],
                    "busy": self.busy_bound,
                    "frame": self.frame_bytes,
                    "name": self.name,
                    "host": self.host,
                    "process": [self.pid, self.started],
                    "features": list(self.features),
                    "about": dict(self.about),
                },
            ]
        )


def versions(fields: object) -> tuple[int, int]:
    """The range of versions in the map of a HELLO, read before all else. Raises `DecodeError`."""
    if type(fields) is not dict:
        raise DecodeError("HELLO without a map")
    span = fields.get("zmqkit")
    if type(span) is not list or len(span) != 2:
        raise DecodeError("HELLO without a range of versions")
    return number(span[0], "version"), number(span[1], "version")


def read_hello(fields: object) -> Hello:
    """Check the map of a HELLO or WELCOME. Unknown keys are skipped. Raises `DecodeError`."""
    span = versions(fields)
    assert type(fields) is dict
    credit, heartbeat, process = fields.get("credit"), fields.get("heartbeat"), fields.get("process", [0, ""])
    for name, pair in (("credit", credit), ("heartbeat", heartbeat), ("process", process)):
        if type(pair) is not list or len(pair) < 2:
            raise DecodeError(f"HELLO: {name} must be a pair")
    assert type(credit) is list
    assert type(heartbeat) is list
    about, features = fields.get("about", {}), fields.get("features", [])
    if type(about) is not dict or len(about) > 64:
        raise DecodeError("HELLO: about must be a small map")
    # Kept as long as the session. A list of empty maps takes a byte each on the wire, and 64 in memory.
    about = {name: value for name, value in about.items() if type(name) is str and type(value) in _PLAIN}
    if type(features) is not list or len(features) > 64:
        raise DecodeError("HELLO: features must be a short list")
    replaces = fields.get("replaces", b"")
    liveness = number(heartbeat[1], "liveness")
    if not 1 <= liveness <= 1000:
        raise DecodeError("HELLO: liveness must be from 1 to 1000")
    return Hello(
        versions=span,
        role=text(fields.get("role"), "role", 32),
        instance=octets(fields.get("instance"), "instance", 16),
        session=octets(fields.get("session"), "session", 8),
        attempt=number(fields.get("attempt"), "attempt"),
        resume=fields.get("resume") is True,
        replaces=octets(replaces, "replaces", 8) if replaces else b"",
        heard=number(fields.get("heard", 0), "heard"),
        sent=number(fields.get("sent", 0), "sent"),
        credit_messages=number(credit[0], "credit"),
        credit_bytes=number(credit[1], "credit"),
        interval=min(max(0.01, seconds(heartbeat[0], "interval")), MAX_BOUND_SECONDS),
        liveness=liveness,
        busy_bound=seconds(fields.get("busy", 3600.0), "busy"),
        frame_bytes=number(fields.get("frame", 1 << 26), "frame"),
        name=text(fields.get("name", ""), "name"),
        host=text(fields.get("host", ""), "host"),
        pid=number(process[0], "pid"),
        started=text(process[1], "started"),
        features=tuple(text(each, "feature") for each in features),
        about=about,
    )
