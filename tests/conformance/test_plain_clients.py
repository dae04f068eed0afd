"""Plain REQ and DEALER sockets call a zmqkit Server (docs/protocol.md, section 13): from Python, from C and from Node.

C takes a compiler and libzmq with its headers (Debian: gcc, libzmq3-dev). Node takes the npm package ``zeromq``, in
``.node/node_modules`` (``npm install --ignore-scripts --prefix .node zeromq@6``) or in the folder that
ZMQKIT_NODE_MODULES names. What is missing is skipped, by its name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.conformance.caller import PlainClient
from tests.conformance.served import Served

HERE = Path(__file__).parent
NODE_MODULES = Path(os.environ.get("ZMQKIT_NODE_MODULES") or HERE.parents[1] / ".node" / "node_modules")
PATIENCE_S = 60.0

PARSE_ERROR, INVALID, NO_METHOD, BAD_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
FAILED, OVERLOADED, LATE, REFUSED = -32000, -32001, -32002, -32003

CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"method": "add", "params": [2, 3], "id": 1}, {"id": 1, "result": 5}),
    ({"jsonrpc": "2.0", "method": "add", "params": {"b": "b", "a": "ä"}, "id": "two"}, {"id": "two", "result": "äb"}),
    (
        {"method": "echo", "params": [{"k": [1, 2.5, None, True]}], "id": 3},
        {"id": 3, "result": {"k": [1, 2.5, None, True]}},
    ),
    ({"method": "echo", "params": ["no id"]}, {"id": None, "result": "no id"}),
    ({"method": "release", "id": 4}, {"id": 4, "result": None}),
    ({"method": "echo", "params": ["x" * 70_000], "id": 5, "timeout": 20.5}, {"id": 5, "result": "x" * 70_000}),
    ({"method": "no_such", "params": [], "id": 6}, {"id": 6, "error": {"code": NO_METHOD}}),
    ({"method": "count", "params": [3], "id": 7}, {"id": 7, "error": {"code": NO_METHOD}}),
    ({"method": "add", "params": [2], "id": 8}, {"id": 8, "error": {"code": BAD_PARAMS}}),
    ({"method": "add", "params": {"a": 1, "c": 2}, "id": 9}, {"id": 9, "error": {"code": BAD_PARAMS}}),
    ({"method": "add", "params": "2, 3", "id": 10}, {"id": 10, "error": {"code": BAD_PARAMS}}),
    (
        {"method": "fail", "params": ["no"], "id": 11},
        {
            "id": 11,
            "error": {"code": FAILED, "message": "no", "data": {"type": "ValueError", "code": None, "data": None}},
        },
    ),
    (
        {"method": "decline", "params": ["closed"], "id": 12},
        {
            "id": 12,
            "error": {
                "code": FAILED,
                "message": "not today",
                "data": {"type": "ServiceError", "code": "closed", "data": {"n": 1}},
            },
        },
    ),
    ({"params": [2, 3], "id": 13}, {"id": 13, "error": {"code": INVALID}}),
    ({"jsonrpc": "1.0", "method": "add", "params": [2, 3], "id": 14}, {"id": 14, "error": {"code": INVALID}}),
    (
        {"method": "fail", "params": ["nobody asked"]},
        {"id": None, "error": {"code": FAILED, "message": "nobody asked"}},
    ),
]
"""(request, what its reply must say)."""  # fmt: skip

IN_FLIGHT = [
    {"method": "held", "params": ["first"], "id": 1},
    {"method": "add", "params": [2, 3], "id": 2},
    {"method": "release", "id": 3},
]
"""The first waits for the third: each is answered only if all are in flight."""


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as made:
        yield made


def says(reply: dict[str, Any], meant: dict[str, Any]) -> bool:
    """Whether a reply is what it must be; of an error, what must be said of it."""
    if "error" in meant:
        error = reply.get("error", {})
        assert set(error) <= {"code", "message", "data"}
        assert isinstance(error["message"], str)
        assert error["message"]
        error = {name: error.get(name) for name in meant["error"]}
        return {**reply, "error": error} == {"jsonrpc": "2.0", **meant}
    return reply == {"jsonrpc": "2.0", **meant}


# ---- from Python ---------------------------------------------------------------------------


@pytest.fixture(
    params=[
        (kind, encoding, delimited)
        for kind, delimited in ((zmq.REQ, False), (zmq.DEALER, False), (zmq.DEALER, True))
        for encoding in ("json", "msgpack")
    ],
    ids=lambda each: f"{each[0].name}-{each[1]}{'-delimited' if each[2] else ''}",
)
def plain(request: pytest.FixtureRequest, served: Served) -> Iterator[PlainClient]:
    with PlainClient(served.address, *request.param) as client:
        yield client


def test_a_plain_client_calls_and_is_told_what_went_wrong(plain: PlainClient) -> None:
    for request, meant in CALLS:
        plain.send(request)
        reply = plain.receive()
        assert says(reply, meant), (request, reply)


def test_what_cannot_be_read_is_answered(plain: PlainClient) -> None:
    broken = b'{"method": "add", ' if plain.encoding == "json" else b"\x82\xa6method\xa3add"
    plain.send_raw(broken)
    assert says(plain.receive(), {"id": None, "error": {"code": PARSE_ERROR}})
    assert plain.call("add", [2, 3])["result"] == 5


def test_a_method_at_its_limit_and_a_time_that_is_out_are_told_plainly(served: Served) -> None:
    with (
        PlainClient(served.address, zmq.DEALER, "json") as client,
        PlainClient(served.address, zmq.REQ, "json") as other,
    ):
        client.send({"method": "one", "params": ["a"], "id": 1})
        assert served.begun.acquire(timeout=PATIENCE_S)
        assert says(other.call("one", ["b"], id=2), {"id": 2, "error": {"code": OVERLOADED}})
        assert says(other.call("add", [1, 1], id=3, timeout=0), {"id": 3, "error": {"code": INVALID}})
        served.gate.set()
        assert says(client.receive(), {"id": 1, "result": "a"})


def test_what_waits_longer_than_its_caller_is_not_executed() -> None:
    with Served(threads=1) as served, PlainClient(served.address, zmq.DEALER, "json") as client:
        for number in range(4):
            client.send({"method": "held", "params": [number], "id": number})
        client.send({"method": "add", "params": [1, 1], "id": 9, "timeout": 1e-9})
        assert served.begun.acquire(timeout=PATIENCE_S)
        served.gate.set()
        replies = {reply["id"]: reply for reply in (client.receive() for _ in range(5))}
        assert says(replies[9], {"id": 9, "error": {"code": LATE}})
        assert not served.added


def test_a_result_that_the_encoding_does_not_have_is_told_plainly(served: Served) -> None:
    with PlainClient(served.address, zmq.DEALER, "msgpack") as client:
        assert client.call("echo", [b"bytes"])["result"] == b"bytes"
    with PlainClient(served.address, zmq.REQ, "json") as client:
        assert says(client.call("zeros", [2], id=1), {"id": 1, "error": {"code": INTERNAL}})
        assert client.call("add", [2, 3])["result"] == 5


def test_several_requests_of_one_dealer_are_in_flight(served: Served) -> None:
    with PlainClient(served.address, zmq.DEALER, "msgpack") as client:
        for request in IN_FLIGHT:
            client.send(request)
        replies = [client.receive() for _ in IN_FLIGHT]
        assert {reply["id"]: reply["result"] for reply in replies} == {1: "first", 2: 5, 3: None}


def test_of_one_connection_a_hundred_requests_are_open_at_a_time(served: Served) -> None:
    with (
        PlainClient(served.address, zmq.DEALER, "json") as client,
        PlainClient(served.address, zmq.REQ, "json") as other,
    ):
        for number in range(101):
            client.send({"method": "held", "params": [number], "id": number})
        assert says(client.receive(), {"id": 100, "error": {"code": OVERLOADED}})
        served.gate.set()
        assert {client.receive()["result"] for _ in range(100)} == set(range(100))
        assert other.call("add", [2, 3])["result"] == 5
        assert client.call("add", [2, 3])["result"] == 5


def test_several_requests_in_one_array_are_refused(served: Served) -> None:
    batch = [{"method": "add", "params": [1, 1], "id": 1}, {"method": "add", "params": [2, 2], "id": 2}]
    for kind, encoding in ((zmq.REQ, "json"), (zmq.REQ, "msgpack"), (zmq.DEALER, "json")):
        with PlainClient(served.address, kind, encoding) as client:
            client.send(batch)
            assert says(client.receive(), {"id": None, "error": {"code": INVALID}})
            assert client.call("echo", [1])["result"] == 1
    assert not served.added


def test_a_dealer_that_says_neither_a_request_nor_a_session_is_not_answered(served: Served) -> None:
    with PlainClient(served.address, zmq.DEALER, "json") as client:
        for garbage in (b"hello", b"5", msgpack.packb([{"method": "add"}])):
            client.send_raw(garbage)
        assert client.call("add", [2, 3], id=9) == {"jsonrpc": "2.0", "id": 9, "result": 5}
    assert served.server.stats()["frames_bad"] == 3


def test_a_server_tells_a_plain_client_what_it_serves(served: Served) -> None:
    with PlainClient(served.address, zmq.REQ, "json") as client:
        told = {each["name"]: each for each in client.call("zmqkit.methods")["result"]}
    assert told["echo"]["idempotent"] is True
    assert (told["add"]["kind"], told["count"]["kind"]) == ("call", "stream")
    assert told["one"]["concurrency"] == 1


# ---- from elsewhere ------------------------------------------------------------------------


def run(command: list[str], requests: list[dict[str, Any]], **environment: str) -> list[dict[str, Any]]:
    """The replies that a client prints, in order."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    ended = subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **environment}
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


Client = Callable[[str, str, list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Client:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (gcc)")
    folder = tmp_path_factory.mktemp("c")
    probe = folder / "probe.c"
    probe.write_text("#include <zmq.h>\nint main(void) { return zmq_errno(); }\n")
    program = str(folder / "plain_client")

    def compile_it(source: Path) -> subprocess.CompletedProcess[str]:
        command = [compiler, "-Wall", "-Werror", str(source), "-o", program, "-lzmq"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    if compile_it(probe).returncode:
        pytest.skip("there are no headers of libzmq, or no libzmq to link with (libzmq3-dev)")
    compiled = compile_it(HERE / "plain_client.c")
    assert compiled.returncode == 0, compiled.stderr
    return lambda address, kind, requests: run([program, address, kind], requests)


@pytest.fixture(scope="module")
def node() -> Client:
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no Node (node)")
    place = {"NODE_PATH": str(NODE_MODULES)}
    probe = subprocess.run(
        [program, "-e", "require('zeromq')"], capture_output=True, timeout=PATIENCE_S, env={**os.environ, **place}
    )
    if probe.returncode:
        pytest.skip(f"Node finds no package zeromq in {NODE_MODULES} (see the beginning of {Path(__file__).name})")
    script = str(HERE / "plain_client.js")
    return lambda address, kind, requests: run([program, script, address, kind], requests, **place)


@pytest.fixture(params=["c", "node"])
def foreign(request: pytest.FixtureRequest) -> Client:
    client: Client = request.getfixturevalue(request.param)
    return client


def test_a_req_of_another_language_calls_and_is_told_what_went_wrong(served: Served, foreign: Client) -> None:
    replies = foreign(served.address, "REQ", [request for request, _ in CALLS])
    for (request, meant), reply in zip(CALLS, replies, strict=True):
        assert says(reply, meant), (request, reply)


def test_a_dealer_of_another_language_has_several_requests_in_flight(served: Served, foreign: Client) -> None:
    replies = foreign(served.address, "DEALER", IN_FLIGHT)
    assert {reply["id"]: reply["result"] for reply in replies} == {1: "first", 2: 5, 3: None}


def test_a_dealer_of_another_language_is_told_what_went_wrong(served: Served, foreign: Client) -> None:
    calls = [(request, meant) for request, meant in CALLS if "id" in request]
    replies = {reply["id"]: reply for reply in foreign(served.address, "DEALER", [request for request, _ in calls])}
    for request, meant in calls:
        assert says(replies[request["id"]], meant), (request, replies[request["id"]])
