"""Bodies to bytes and back: msgpack (the default), json, raw, and what users register.

A body is packed in the caller's thread, when the caller hands it over, so that what cannot travel is reported at
the line that sent it; what arrives comes from a stranger, so its size, its nesting and its claimed lengths are
bounded before anything is built from them. Whole batches go at C speed: a Python walk over a message happens only
after something failed, or where the bytes cannot rule out that it nests too deeply.

What msgpack brings back as it went: None, bool, int (64 bits), float, str, bytes, lists, dicts with any hashable
key, and datetimes with a time zone (in UTC: the same instant, equal, another tzinfo). Tuples come back as lists.

This module knows limits and errors, and nothing of sockets, patterns or the wire.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from zmqkit.errors import DecodeError, EncodeError, UsageError
from zmqkit.options import Limits

ENVELOPE_BYTES = 65536
"""How much of a frame is kept free for what travels around a body."""

# The first byte of every msgpack list or map (the msgpack specification, "Formats"). The same bytes occur inside
# strings and numbers too: a low count proves that a body is shallow, a high one proves nothing.
_CONTAINER_BYTES = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_OTHER_BYTES = bytes(set(range(256)) - set(_CONTAINER_BYTES))
_LEAVES = frozenset({type(None), bool, int, float, str, bytes, bytearray, memoryview, datetime.datetime})
_FULL_CHECK_FROM_BYTES = 2048  # from here on, skimming is cheaper than counting container bytes
_SLICE_BYTES = 65536
_PACKER_BYTES = 4096  # the packer's first buffer; its default of 256 KB costs more than packing a small body

B = TypeVar("B", bytes, memoryview)

_quote = reprlib.Repr()
_quote.maxstring = _quote.maxother = 60


class _Registered(NamedTuple):
    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]


_registered: dict[str, _Registered] = {}


# ---- the public functions --------------------------------------------------------


def register(name: str, encode: Callable[[object], bytes], decode: Callable[[bytes], object]) -> None:
    """Make a codec of your own known by name; both ends must do so.

    What the two functions raise becomes `EncodeError` and `DecodeError`. Nesting is theirs to bound; size is
    bounded for them. Registering the same pair again changes nothing.

    Args:
        name: travels with every batch: 1 to 32 lower-case letters, digits, ``.``, ``_``, ``-``.
        encode: body to bytes.
        decode: bytes to body.

    Raises:
        UsageError: the name cannot be one, or is taken.
    """
    if not re.fullmatch(r"[a-z0-9._-]{1,32}", name):
        raise UsageError(f"a codec's name is 1 to 32 of a-z, 0-9, '.', '_', '-', not {name!r}")
    codec = _Registered(encode, decode)
    if name in ("msgpack", "json", "raw") or _registered.get(name, codec) != codec:
        raise UsageError(f"the codec {name!r} is taken; register yours under another name")
    _registered[name] = codec


def check(codec: str) -> None:
    """Raise `UsageError`, naming the codecs there are, unless `codec` is one of them."""
    if not isinstance(codec, str) or (codec not in ("msgpack", "json", "raw") and codec not in _registered):
        known = ", ".join(["msgpack", "json", "raw", *sorted(_registered)])
        raise UsageError(f"no codec is named {codec!r}; there are {known}, and what zmqkit.codec.register adds")


def encode(body: object, codec: str = "msgpack", *, limits: Limits) -> bytes:
    """One body as bytes.

    Raises:
        EncodeError: it cannot travel; the message names the place, as in ``body["when"]``, and what to do.
        UsageError: no such codec.
    """
    if codec != "msgpack":
        check(codec)
        return _encode_one(body, codec, limits)
    try:
        packer = _idle.pop()
    except IndexError:
        packer = _packer()
    try:
        data: bytes = packer.pack(body)
    except Exception as error:
        raise _refused(body, error, limits) from error
    if len(data) < _FULL_CHECK_FROM_BYTES:
        if not _idle:
            _idle.append(packer)
        if len(data.translate(None, _OTHER_BYTES)) <= limits.nesting:
            return data  # small and shallow, as nearly all are
    if _msgpack_fault(data, 1, limits, body) is not None:
        raise EncodeError(_depth_message(limits))
    _check_size(len(data), limits)
    return data


def encode_many(bodies: Sequence[object], codec: str = "msgpack", *, limits: Limits) -> tuple[list[int], bytes]:
    """Many bodies at once: the length of each encoding, and all of them end to end.

    Raises:
        EncodeError: one cannot travel, and none was kept; ``.index`` says which, the message where in it and why.
        UsageError: no such codec.
    """
    if codec != "msgpack":
        check(codec)
        return _encode_slowly(bodies, codec, limits)
    try:
        parts: list[bytes] = list(map(_packer().pack, bodies))
    except Exception as error:
        _encode_slowly(bodies, codec, limits)  # finds the culprit
        raise EncodeError(f"a body cannot be encoded: {error}") from error
    lengths = list(map(len, parts))
    blob = b"".join(parts)
    if len(blob) > limits.frame_bytes - ENVELOPE_BYTES and max(lengths) > limits.frame_bytes - ENVELOPE_BYTES:
        return _encode_slowly(bodies, codec, limits)
    if _msgpack_fault(blob, len(lengths), limits, bodies) is not None:
        return _encode_slowly(bodies, codec, limits)
    return lengths, blob


def decode(data: bytes, codec: str = "msgpack", *, limits: Limits) -> Any:
    """The body that `encode` made `data` of.

    Raises:
        DecodeError: it is not what it claims to be, nests too deeply, or its codec is not known here.
    """
    if (
        codec == "msgpack"
        and len(data) < _FULL_CHECK_FROM_BYTES
        and type(data) is bytes
        and len(data.translate(None, _OTHER_BYTES)) <= limits.nesting
    ):
        try:  # small and shallow, as nearly all are
            return msgpack.unpackb(data, strict_map_key=False, timestamp=3, ext_hook=_refuse_extension)
        except Exception:
            return _decode_slowly(data, codec, limits)  # it says what is wrong, or takes it
    return _decode_slowly(data, codec, limits)


def decode_many(lengths: Sequence[int], blob: bytes, codec: str = "msgpack", *, limits: Limits) -> list[Any]:
    """What `encode_many` packed. A bad body spoils only itself: a `DecodeError` stands in its place.

    Raises:
        DecodeError: the lengths do not add up to the blob, so that no body can be told from the next.
    """
    if sum(lengths) != len(blob) or (lengths and min(lengths) < 0):
        raise DecodeError(f"the lengths of a batch add up to {sum(lengths)} bytes, but it holds {len(blob)}")
    blob = bytes(blob)
    if codec != "msgpack":
        return [_decode_one(piece, codec, limits) for piece in _pieces(lengths, blob)]
    if _msgpack_fault(blob, len(lengths), limits) is None:
        try:
            if len(blob) >= len(lengths) * _FULL_CHECK_FROM_BYTES:  # large ones are not copied together
                bodies: list[Any] = list(map(_unpack, _pieces(lengths, memoryview(blob))))
            else:
                # As one list, msgpack itself checks that the blob holds exactly so many whole bodies.
                bodies = _unpack(_list_header(len(lengths)) + blob)
        except Exception:
            bodies = []
        if len(bodies) == len(lengths) and (_STACK or not _too_deep(bodies, limits.nesting + 1)):
            return bodies
    # Something is wrong with one of them; one by one, each says so for itself.
    return [_decode_one(piece, codec, limits) for piece in _pieces(lengths, blob)]


# ---- headers ---------------------------------------------------------------------

MAX_HEADERS_BYTES: Final = 8192
RESERVED_HEADERS: Final = "zmqkit-"


def check_headers(headers: Mapping[str, str], instead: str = "the body") -> dict[str, str]:
    """A copy of the user's headers. Raises `EncodeError` for what cannot travel."""
    if not isinstance(headers, Mapping):
        raise EncodeError(f"headers are a mapping from text to text, got {headers!r}")
    found = dict(headers)
    size = 0
    for name, value in found.items():
        if type(name) is not str or type(value) is not str:
            raise EncodeError(f"headers go from text to text, got {name!r}: {value!r}")
        if name.startswith(RESERVED_HEADERS):
            raise EncodeError(f"header names beginning with {RESERVED_HEADERS!r} are reserved, got {name!r}")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError as error:
            raise EncodeError(f"header {name!r} is not text that can be encoded: {error}") from None
    if size > MAX_HEADERS_BYTES:
        raise EncodeError(f"headers of {size} bytes; at most {MAX_HEADERS_BYTES} are allowed: put data into {instead}")
    return found


# ---- batches ---------------------------------------------------------------------


def _pieces(lengths: Iterable[int], blob: B) -> Iterator[B]:
    start = 0
    for length in lengths:
        yield blob[start : start + length]
        start += length


def _encode_slowly(bodies: Sequence[object], codec: str, limits: Limits) -> tuple[list[int], bytes]:
    parts = []
    for index, body in enumerate(bodies):
        try:
            parts.append(_encode_one(body, codec, limits))
        except EncodeError as error:
            raise _indexed(error, index) from error.__cause__
    return [len(part) for part in parts], b"".join(parts)


def _indexed(error: EncodeError, index: int) -> EncodeError:
    error.index = index
    return error


# ---- one body --------------------------------------------------------------------


def _encode_one(body: object, codec: str, limits: Limits) -> bytes:
    if codec == "msgpack":
        return encode(body, limits=limits)
    if codec == "json":
        _check_json(body, "body", 0, limits)
        try:
            data = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except Exception as error:
            raise EncodeError(f"the body cannot travel as JSON: {error}") from error
    elif codec == "raw":
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise EncodeError(f'the codec "raw" takes bytes, but body is {_kind(body)}; encode it yourself')
        data = bytes(body)
    else:
        try:
            data = bytes(_registered[codec].encode(body))
        except Exception as error:
            raise EncodeError(f"the codec {codec!r} cannot encode body ({_kind(body)}): {error}") from error
    _check_size(len(data), limits)
    return data


def _decode_slowly(data: bytes, codec: str, limits: Limits) -> Any:
    body = _decode_one(bytes(data), codec, limits)
    if isinstance(body, DecodeError):
        raise body
    return body


def _decode_one(data: bytes, codec: str, limits: Limits) -> Any:
    """The body, or the DecodeError that says why not."""
    try:
        if codec == "msgpack":
            return _decode_msgpack(data, limits)
        if codec == "json":
            return _decode_json(data, limits)
        if codec == "raw":
            return data
        if codec in _registered:
            return _registered[codec].decode(data)
    except DecodeError as error:
        return error
    except Exception as error:
        failure = DecodeError(f"{len(data)} bytes are not {codec}: {type(error).__name__}: {error}"[:300])
        failure.__cause__ = error
        return failure
    return DecodeError(f"the sender used the codec {codec[:40]!r}, which is not known here: register it first")


def _check_size(size_bytes: int, limits: Limits) -> None:
    if size_bytes > limits.frame_bytes - ENVELOPE_BYTES:
        raise EncodeError(
            f"the body takes {size_bytes} bytes, more than the {limits.frame_bytes - ENVELOPE_BYTES} that fit into a "
            f"frame: send it in parts, or raise Limits(frame_bytes=) at both ends"
        )


def _depth_message(limits: Limits, place: str = "body") -> str:
    return f"{place} nests deeper than {limits.nesting}: flatten it, or raise Limits(nesting=) at both ends"


# ---- msgpack ---------------------------------------------------------------------


_idle: list[msgpack.Packer] = []
"""A packer that nobody uses; whoever takes it out has it alone. One that failed, or grew large, does not come back."""


def _packer() -> msgpack.Packer:
    # Never one that is in use: packing may run a dict subclass's code, and with it another thread.
    return msgpack.Packer(datetime=True, buf_size=_PACKER_BYTES)


def _refuse_extension(code: int, data: bytes) -> object:
    raise DecodeError(f"a msgpack extension of type {code}: none is known here")


def _unpack(data: bytes | memoryview, pairs_hook: Callable[[Any], Any] | None = None) -> Any:
    # Without max_*_len given, unpackb bounds each by the length of the data.
    return msgpack.unpackb(
        data, strict_map_key=False, timestamp=3, ext_hook=_refuse_extension, object_pairs_hook=pairs_hook
    )


def _list_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def _decode_msgpack(data: bytes, limits: Limits) -> Any:
    fault = _msgpack_fault(data, 1, limits)
    if fault is not None:
        raise fault
    try:
        body = _unpack(data)
    except TypeError:  # a tuple as a key arrives as a list, which cannot be one
        body = _unpack(data, _with_tuple_keys)
    if not _STACK and _too_deep(body, limits.nesting):
        raise DecodeError(f"the body nests deeper than {limits.nesting}")
    return body


def _msgpack_fault(data: bytes, count: int, limits: Limits, packed: object = None) -> DecodeError | None:
    """What forbids to unpack `data`, which claims to hold `count` bodies end to end.

    Nothing nests deeper than the limit, and every list is as long as it claims: that is known before anything is
    allocated for them. msgpack's own bound on nesting is used for it: skipping over the data with so many lists
    around it that just the limit is left.

    Args:
        data: to be looked at.
        count: of bodies in it.
        limits: how deep they may nest.
        packed: what was packed, at the sender; None at the receiver.
    """
    if len(data) < _FULL_CHECK_FROM_BYTES and len(data.translate(None, _OTHER_BYTES)) <= limits.nesting:
        return None
    if len(data) >= count * _FULL_CHECK_FROM_BYTES and _is_few(data, count, limits.nesting):
        return None
    too_deep = DecodeError(f"the body nests deeper than {limits.nesting}")
    if not _STACK:  # pure Python: what is received is looked at when it is unpacked
        return too_deep if _too_deep([packed] if count == 1 else packed, limits.nesting + 1) else None
    skimmer = msgpack.Unpacker(max_buffer_size=len(data) + _STACK + _SLICE_BYTES)
    skimmer.feed(b"\x91" * (_STACK - limits.nesting - 1) + _list_header(count))
    view = memoryview(data)
    for start in range(0, len(data), _SLICE_BYTES):
        skimmer.feed(view[start : start + _SLICE_BYTES])
        try:
            skimmer.skip()
        except msgpack.OutOfData:
            continue
        except msgpack.StackError:
            return too_deep
        except Exception as error:
            return DecodeError(f"{len(data)} bytes are not msgpack: {error}")
        if start + _SLICE_BYTES < len(data):
            return DecodeError(f"{len(data)} bytes hold more than they should")
        return None
    return DecodeError(f"{len(data)} bytes of msgpack end too soon")


def _is_few(data: bytes, count: int, nesting: int) -> bool:
    """Whether it is sound, and a few values only: large texts and bytes are stepped over, where skimming copies them.

    False says nothing. Returns after a few steps, whatever the data is.
    """
    at, end = 0, len(data)
    missing = [count]
    """How many values are still to come, in the lists and maps around the place that is looked at."""
    for _ in range(_FEW):
        while not missing[-1]:
            missing.pop()
            if not missing:
                return at == end
        if at >= end:
            return False
        missing[-1] -= 1
        first = data[at]
        at += 1
        if first < 0x80 or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
            continue
        if first in _WIDTHS:
            at += _WIDTHS[first]
        elif first in _LENGTHS:
            width = _LENGTHS[first]
            at += width + int.from_bytes(data[at : at + width], "big")
        elif 0xA0 <= first < 0xC0:
            at += first & 31
        elif 0x80 <= first < 0xA0 and len(missing) <= nesting:
            missing.append((first & 15) * (2 if first < 0x90 else 1))
        else:
            return False
    return False


_FEW: Final = 64
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Texts and bytes by their first byte: how many bytes tell the length."""
_WIDTHS: Final = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
"""Numbers: how many bytes follow."""


def _msgpack_stack() -> int:
    """How many lists msgpack can skip inside each other; 0 for its pure Python version, which has no fixed bound."""
    fits, fails = 1, 65536
    while fails - fits > 1:
        depth = (fits + fails) // 2
        skimmer = msgpack.Unpacker(max_buffer_size=2 * 65536)
        skimmer.feed(b"\x91" * depth + b"\x01")
        try:
            skimmer.skip()
            fits = depth
        except msgpack.StackError:
            fails = depth
    return fits if fits > 502 and msgpack.Unpacker.__module__ == "msgpack._cmsgpack" else 0


_STACK = _msgpack_stack()


def _with_tuple_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_frozen(key): value for key, value in pairs}


def _frozen(key: Any) -> Any:
    return tuple(map(_frozen, key)) if isinstance(key, list) else key


def _too_deep(body: object, nesting: int) -> bool:
    """Whether lists and maps nest deeper than `nesting`; looks at one level after the other."""
    level = [body] if isinstance(body, (dict, list, tuple)) else []
    for _ in range(nesting):
        below: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                if not _LEAVES.issuperset(map(type, container)):
                    below += [key for key in container if isinstance(key, tuple)]
                items: Iterable[Any] = dict.values(container)
            else:
                items = container
            if not _LEAVES.issuperset(map(type, items)):
                below += [item for item in items if isinstance(item, (dict, list, tuple))]
        if not below:
            return False
        level = below
    return True


# ---- json ------------------------------------------------------------------------


def _check_json(body: object, place: str, depth: int, limits: Limits) -> None:
    """JSON would turn keys into strings, silently; so refuse what would not come back."""
    if isinstance(body, (dict, list, tuple)):
        if depth >= limits.nesting:
            raise EncodeError(_depth_message(limits, _shortened(place)))
        if isinstance(body, dict):
            for key, value in body.items():
                if not isinstance(key, str):
                    raise EncodeError(
                        f"{_shortened(place)} has the key {_quote.repr(key)}, but JSON has only strings as keys: "
                        f'use str(key), or the codec "msgpack"'
                    )
                _check_json(value, f"{place}[{_quote_key(key)}]", depth + 1, limits)
        else:
            for index, value in enumerate(body):
                _check_json(value, f"{place}[{index}]", depth + 1, limits)
    elif isinstance(body, float):
        if body != body or body in (float("inf"), float("-inf")):
            raise EncodeError(f'{_shortened(place)} is {body}, which JSON does not have; the codec "msgpack" does')
    elif not (body is None or isinstance(body, (bool, int, str))):
        raise EncodeError(f"{_shortened(place)} is {_kind(body)}, which JSON cannot carry{_advice(body)}")


def _decode_json(data: bytes, limits: Limits) -> Any:
    body = json.loads(data, parse_constant=_refuse_constant)
    if data.count(b"[") + data.count(b"{") > limits.nesting and _too_deep(body, limits.nesting):
        raise DecodeError(f"the body nests deeper than {limits.nesting}")
    return body


def _refuse_constant(name: str) -> object:
    raise DecodeError(f"{name} is not JSON")


# ---- what is wrong, and where ----------------------------------------------------


def _refused(body: object, error: Exception, limits: Limits) -> EncodeError:
    """Find the place that msgpack could not pack, and say what to do about it."""
    place, value, depth = "body", body, 0
    while True:
        inner = _first_bad(value)
        if inner is None:
            break
        if depth == limits.nesting:
            return EncodeError(_depth_message(limits, _shortened(place)))
        step, value = inner
        place, depth = place + step, depth + 1
    reason = _packing_error(value) or error
    if isinstance(value, (dict, list, tuple)):
        return EncodeError(f"{_shortened(place)} cannot be packed: {type(reason).__name__}: {reason}")
    return EncodeError(f"{_shortened(place)} is {_kind(value)}, which msgpack cannot carry{_advice(value)}")


def _first_bad(value: object) -> tuple[str, object] | None:
    """The first part of `value` that cannot be packed alone, and how to write its place."""
    if isinstance(value, dict):
        for key, item in dict.items(value):  # not a subclass's own, which may be what fails
            if _packing_error(key) is not None:
                return f" (the key {_quote.repr(key)})", key
            if _packing_error(item) is not None:
                return f"[{_quote_key(key)}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if _packing_error(item) is not None:
                return f"[{index}]", item
    return None


def _packing_error(value: object) -> Exception | None:
    try:
        _packer().pack(value)
    except Exception as error:
        return error
    return None


def _quote_key(key: object) -> str:
    return json.dumps(key[:60], ensure_ascii=False) if isinstance(key, str) else _quote.repr(key)


def _shortened(place: str) -> str:
    return place if len(place) <= 300 else f"{place[:200]}...{place[-80:]}"


def _kind(value: object) -> str:
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return "a datetime without a time zone"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return "an int of more than 64 bits"
    if isinstance(value, str):
        return "a str with half of a surrogate pair"
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"of type {name}"


def _advice(value: object) -> str:
    """What to send instead, where it can be told."""
    advice = "send None, bool, int, float, str, bytes, lists, dicts, or datetimes with a time zone"
    if isinstance(value, enum.Enum):
        advice = "send its .value"
    elif isinstance(value, datetime.datetime):
        advice = "give it one, as in datetime.now(timezone.utc)"
    elif isinstance(value, (datetime.date, datetime.time)):
        advice = "send its .isoformat()"
    elif isinstance(value, (set, frozenset)):
        advice = "send a list"
    elif isinstance(value, str):
        advice = 'send str.encode("utf-8", "surrogateescape")'
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        advice = "send dataclasses.asdict(it)"
    elif type(value).__name__ == "Outgoing":
        advice = "it is for send_many() and for what a worker returns; to send() say key=, delay=... beside the body"
    elif hasattr(value, "tolist"):
        advice = "send its .tolist()"
    elif isinstance(value, int) or type(value).__name__ in ("UUID", "Decimal", "Fraction", "PosixPath"):
        advice = "send str(it)"
    return f": {advice}"
