"""``zmqkit call`` and ``zmqkit methods``: call a server from a shell, and ask what it offers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from zmqkit import Client
from zmqkit.cli import options, show
from zmqkit.cli.outcome import Code, Failed, command, raise_on_signals
from zmqkit.errors import BadArguments

Address = Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5555.")]
CallTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.001, help="How long the call may take, all retries included.")
]


@command
def call(
    address: Address,
    method: Annotated[str, typer.Argument(metavar="METHOD", show_default=False, help="Its name, see zmqkit methods.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARG", show_default=False,
            help="JSON where it is JSON, else text; NAME=VALUE is a keyword argument. After --, if one begins with -.",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="The method yields: print each item as a line, as it comes.")
    ] = False,
    upload: Annotated[
        bool, typer.Option("--upload", help="The lines of stdin are the last argument, sent as they are read.")
    ] = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="With --upload: each line is JSON; blank lines are skipped.")
    ] = False,
    timeout: CallTimeout = 10.0,
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, show_default=False,
            help="Send it again at most so often, where that is safe. Default: as often as time allows.",
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID", show_default=False,
            help="An id of your own: calling again with it gets the same answer while the server remembers it.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", show_default=False, help="A header; may be repeated.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print text and bytes as they are, not as JSON.")] = False,
    insecure: options.Insecure = False,
) -> int:  # fmt: skip
    """Call a method and print what it returns as JSON.

    Exits with 1 if it raised or was refused, 4 if time ran out before it was sent, 6 if it may have been executed but
    its outcome is unknown.
    """
    if json_lines and not upload:
        raise Failed("--json-lines needs --upload", Code.USAGE)
    positional, named = _arguments(arguments or [])
    if upload:
        positional.append(_lines(json_lines))
    more: dict[str, Any] = {}
    if request_id is not None:
        more["request_id"] = request_id
    if header:
        more["headers"] = dict(_pair(each, "--header") for each in header)
    put = _put_raw if raw else show.print_json
    with (
        raise_on_signals(),
        Client(address, timeout=timeout, retries=retries, insecure=insecure, name="zmqkit call") as client,
    ):
        caller = client.options(**more) if more else client
        try:
            if stream:
                with caller.stream(method, *positional, **named) as items:
                    for item in items:
                        put(item)
            else:
                put(caller.call(method, *positional, **named))
        except BadArguments as error:
            raise Failed(f"{error}; see: zmqkit methods {address}", Code.USAGE) from error
    return Code.OK


@command
def methods(
    address: Address, timeout: CallTimeout = 10.0, insecure: options.Insecure = False, as_json: options.AsJson = False
) -> int:
    """List what a server offers: names, signatures, limits, docstrings."""
    with raise_on_signals(), Client(address, timeout=timeout, insecure=insecure, name="zmqkit methods") as client:
        found = client.methods()
    if as_json:
        show.print_json(found)
    else:
        show.print_table(
            ("method", "kind", "limits", "about"),
            [(each["signature"], each["kind"], _limits(each), each["doc"].partition("\n")[0]) for each in found],
        )
    return Code.OK


def _limits(described: dict[str, Any]) -> str:
    limits = []
    if described["idempotent"]:
        limits.append("idempotent")
    if described["concurrency"] is not None:
        limits.append(f"{described['concurrency']} at once")
    if described["timeout"] is not None:
        limits.append(f"{described['timeout']:g} s")
    return ", ".join(limits)


def _arguments(texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name.isidentifier():
            named[name] = _value(value)
        elif named:
            raise Failed(f"{text!r} comes after a keyword argument: put it before them", Code.USAGE)
        else:
            positional.append(_value(text))
    return positional, named


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Failed(f"{what} is NAME=VALUE, got {text!r}", Code.USAGE)
    return name, value


def _lines(as_json: bool) -> Iterator[Any]:
    for number, line in enumerate(sys.stdin, 1):
        text = line.rstrip("\r\n")
        if not as_json:
            yield text
        elif text.strip():
            try:
                yield json.loads(text)
            except ValueError as error:
                raise Failed(f"stdin, line {number}: not JSON: {error}") from error


def _put_raw(value: Any) -> None:
    show.write_line(show.raw(value))
