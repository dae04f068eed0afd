"""``zmqkit serve``, ``call`` and ``methods``, as scripts use them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.cli.terminal import ANYWHERE, Command

CALC = '''
import datetime, os, threading, time
import zmqkit

server = zmqkit.Server("tcp://127.0.0.1:*")

@server.method
def add(a: int, b: int = 1) -> int:
    """The sum of two numbers.

    More of it.
    """
    return a + b

@server.method(idempotent=True, concurrency=2, timeout=5)
def rows(n: int):
    yield from range(n)

@server.method
def fail(): raise ValueError("not today")

@server.method
def refuse(): raise zmqkit.ServiceError("stock.empty", "nothing is left", {"sku": 7})

@server.method
def total(lines):
    return sum(map(int, lines))

@server.method
def header(request: zmqkit.Request): return request.headers["who"]

@server.method
def text(): return "plain"

@server.method
def wait(): time.sleep(60)

@server.method
def die(): os._exit(1)

def make(): return zmqkit.Server("tcp://127.0.0.1:*")

class Greeter:
    @zmqkit.method
    def greet(self, name): return f"hello {name}"

async_server = zmqkit.aio.Server("tcp://127.0.0.1:*")

@async_server.method
async def ping(): return "pong"

nothing = object()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calc.py").write_text(CALC)
    return tmp_path


@pytest.fixture
def server(zmqkit: Start, folder: Path) -> Command:
    return zmqkit("serve", "calc:server")


def test_a_call_prints_what_the_method_returns(zmqkit: Start, server: Command) -> None:
    assert zmqkit("call", server.address, "add", "2", "3").finish() == "5\n"
    assert zmqkit("call", server.address, "add", "2", "b=40").finish() == "42\n"
    assert zmqkit("call", server.address, "add", "--", "-2").finish() == "-1\n"
    assert zmqkit("call", server.address, "text").finish() == '"plain"\n'
    assert zmqkit("call", server.address, "text", "--raw").finish() == "plain\n"
    server.signal(signal.SIGTERM)
    server.finish()


def test_a_stream_is_printed_item_by_item(zmqkit: Start, server: Command) -> None:
    assert zmqkit("call", server.address, "rows", "3", "--stream").finish_lines() == [0, 1, 2]


def test_stdin_is_uploaded_as_it_is_read(zmqkit: Start, server: Command) -> None:
    assert zmqkit("call", server.address, "total", "--upload", stdin="1\n2\n3\n").finish_json() == 6
    lines = zmqkit("call", server.address, "total", "--upload", "--json-lines", stdin="1\n\n2\n")
    assert lines.finish_json() == 3


def test_headers_travel(zmqkit: Start, server: Command) -> None:
    assert zmqkit("call", server.address, "header", "--header", "who=me").finish_json() == "me"


def test_what_a_server_offers_is_listed(zmqkit: Start, server: Command) -> None:
    found = {each["name"]: each for each in zmqkit("methods", server.address, "--json").finish_json()}
    assert found["add"]["signature"] == "add(a: int, b: int = 1) -> int"
    assert found["add"]["kind"] == "call"
    assert found["rows"]["kind"] == "stream"
    assert (found["rows"]["idempotent"], found["rows"]["concurrency"], found["rows"]["timeout"]) == (True, 2, 5)
    table = zmqkit("methods", server.address).finish()
    assert "idempotent, 2 at once, 5 s" in table
    assert "The sum of two numbers." in table
    assert "More of it" not in table


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("fail",), 1, "not today"),
        (("refuse",), 1, "nothing is left"),
        (("nothing",), 1, "nothing"),
        (("add",), 2, "zmqkit methods"),
        (("add", "1", "2", "3"), 2, "zmqkit methods"),
        (("add", "b=1", "2"), 2, "before them"),
        (("rows", "3"), 2, "stream"),
        (("header", "--header", "who"), 2, "NAME=VALUE"),
        (("text", "--json-lines"), 2, "--upload"),
    ],
)
def test_a_call_that_fails_says_why(
    zmqkit: Start, server: Command, arguments: tuple[str, ...], code: int, said: str
) -> None:
    call = zmqkit("call", server.address, *arguments)
    call.finish(code)
    assert said in call.err.text


def test_exit_codes_tell_not_done_from_unknown(zmqkit: Start, server: Command) -> None:
    """4: nothing was executed; 6: it may have been."""
    address = server.address
    zmqkit("call", address, "wait", "--timeout", "0.5").finish(6)
    zmqkit("call", address, "die").finish(6)
    zmqkit("call", address, "add", "1", "--timeout", "0.5").finish(4)


def test_functions_objects_and_async_servers_are_served(zmqkit: Start, folder: Path) -> None:
    greeter = zmqkit("serve", "calc:Greeter", ANYWHERE)
    assert zmqkit("call", greeter.address, "greet", "Ada").finish_json() == "hello Ada"
    pinged = zmqkit("serve", "calc:async_server")
    assert zmqkit("call", pinged.address, "ping").finish_json() == "pong"
    made = zmqkit("serve", "calc:make")
    assert zmqkit("methods", made.address, "--json").finish_json() == []
    for each in (greeter, pinged, made):
        each.signal(signal.SIGINT)
        each.finish()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calc",), "MODULE:NAME"),
        (("calculator:server",), "no module 'calculator'"),
        (("calc:server2",), "calc has no server2"),
        (("bisect:bisect",), "takes arguments"),
        (("calc:server", ANYWHERE), "says itself"),
        (("calc:Greeter",), "name an ADDRESS"),
        (("calc:nothing", ANYWHERE), "zmqkit.method"),
    ],
)
def test_what_cannot_be_served_is_named(zmqkit: Start, folder: Path, arguments: tuple[str, ...], said: str) -> None:
    serve = zmqkit("serve", *arguments)
    serve.finish(2)
    assert said in serve.err.text
