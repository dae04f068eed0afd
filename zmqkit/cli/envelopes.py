"""What a message of `push` has besides its body: of options, and of lines that bring it along. Knows no peer."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from zmqkit.cli.outcome import Code, Failed
from zmqkit.patterns.pipeline.outgoing import NOTHING, Outgoing, Wanted, wanted

FIELDS: Final = ("body", "id", "key", "priority", "delay", "ttl", "headers", "due", "expires")

AT_LEAST_S: Final = 0.001
"""The time to live of what has expired already: it is sent, and told to be expired, as if it had waited here."""

DEEPEST: Final = 100
"""Deeper bodies are refused when they are sent."""

TOLD_BY_EXPORT: Final = frozenset({"state", "failures", "sent_at", "reason", "traceback", "died_at"})
"""What `zmqkit journal export` says of a message and nobody can ask for; passed over."""


class NotAnEnvelope(ValueError):
    """A line is JSON, and not what was asked for."""


class Options(NamedTuple):
    """What the command line asks for all messages."""

    id: str | None = None
    key: str | None = None
    priority: int | None = None
    delay: float | None = None
    ttl: float | None = None
    headers: Mapping[str, str] | None = None


def headers_of(given: Sequence[str]) -> dict[str, str] | None:
    """``NAME=VALUE`` each, as a map. Raises `Failed`."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise Failed(f"--header takes NAME=VALUE, got {each!r:.100}", Code.USAGE)
        found[name] = value
    return found or None


def checked(options: Options) -> Wanted:
    """The same, if it can be asked for. Raises `Failed`."""
    try:
        return _wanted(**options._asdict())
    except (TypeError, ValueError) as error:  # EncodeError is a TypeError
        raise Failed(str(error), Code.USAGE) from error


def with_options(parse: Callable[[bytes], Any], options: Options) -> Callable[[bytes], Any]:
    """A parser of lines that gives each body what the options ask for."""
    if checked(options) == NOTHING:
        return parse
    more: dict[str, Any] = {name: value for name, value in options._asdict().items() if value is not None}
    return lambda line: Outgoing(parse(line), **more)


def envelope_line(options: Options, clock: Callable[[], float] = time.time) -> Callable[[bytes], Outgoing[Any]]:
    """A parser of lines that are JSON objects: ``body``, and what the message has besides; that goes before options.

    ``due`` and ``expires`` are times, in place of ``delay`` and ``ttl``; in a body ``{"$base64": ...}`` is bytes.
    """
    checked(options)
    usual = {name: value for name, value in options._asdict().items() if value is not None}

    def parse(line: bytes) -> Outgoing[Any]:
        found = json.loads(line)
        if type(found) is not dict or "body" not in found:
            raise NotAnEnvelope('not a JSON object with a "body"')
        unknown = sorted(found.keys() - FIELDS - TOLD_BY_EXPORT)
        if unknown:
            raise NotAnEnvelope(f"{unknown[0]!r:.100} is none of the fields {', '.join(FIELDS)}")
        own = {name: found[name] for name in FIELDS if found.get(name) is not None and name != "body"}
        for name, seconds, least in (("due", "delay", 0.0), ("expires", "ttl", AT_LEAST_S)):
            if name in own:
                own.setdefault(seconds, max(least, _moment(name, own.pop(name)) - clock()))
        given: dict[str, Any] = usual | own
        if "headers" in given and type(given["headers"]) is not dict:
            raise NotAnEnvelope(f"headers must be an object of texts, got {given['headers']!r:.100}")
        given["headers"] = {**usual.get("headers", {}), **given.get("headers", {})} or None
        try:
            _wanted(**given)
        except (TypeError, ValueError) as error:
            raise NotAnEnvelope(str(error)) from None
        return Outgoing(_restored(found["body"]), **given)

    return parse


def _moment(name: str, value: object) -> float:
    """Seconds since 1970."""
    try:
        if not isinstance(value, str):
            raise ValueError
        return datetime.datetime.fromisoformat(value).timestamp()  # of this host's zone, unless it names one
    except (ValueError, OverflowError):
        raise NotAnEnvelope(f"{name} must be a time, as in 2026-07-14T12:00:00+00:00, got {value!r:.100}") from None


def _restored(body: Any, depth: int = 0) -> Any:
    """With bytes where JSON has ``{"$base64": ...}`` for them."""
    if depth > DEEPEST:
        return body
    if type(body) is list:
        return [_restored(each, depth + 1) for each in body]
    if type(body) is not dict:
        return body
    if body.keys() == {"$base64"}:
        try:
            return base64.b64decode(body["$base64"], validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise NotAnEnvelope(f"$base64 must be bytes as base64, got {body['$base64']!r:.100}") from None
    return {key: _restored(value, depth + 1) for key, value in body.items()}


def _wanted(
    id: Any = None, key: Any = None, priority: Any = None, delay: Any = None, ttl: Any = None, headers: Any = None
) -> Wanted:
    return wanted(id, key, 0 if priority is None else priority, delay, ttl, headers)
