"""Plain REQ and DEALER clients: JSON-RPC 2.0 in JSON and in msgpack, at the server's core."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from tests.reqrep.serving import Serving
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.plain import is_plain
from zmqkit.patterns.reqrep.plain_calls import MAX_OPEN


def request(method: object = "add", params: object = None, **more: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params}), **more}


def ask(serving: Serving, value: object, link: str = "p") -> dict[str, Any]:
    """A request of a REQ socket in JSON that is answered at once."""
    ((delimiter, body),) = serving.plain(link, b"", json.dumps(value).encode())
    assert delimiter == b""
    answer: dict[str, Any] = json.loads(body)
    return answer


@pytest.mark.parametrize(
    "envelope", [[], [b""], [b"\0abcd", b""], [b"{it", b"\0next", b""]], ids=["alone", "REQ", "a device", "two devices"]
)
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_request_is_answered_as_it_was_asked(encoding: str, envelope: list[bytes]) -> None:
    pack, unpack = {
        "json": (lambda value: json.dumps(value).encode(), json.loads), "msgpack": (msgpack.packb, msgpack.unpackb),
    }[encoding]  # fmt: skip
    serving = Serving()
    body = pack(request(params=[1, {"a": None}], id=7))
    assert serving.plain("p", *envelope, body) == []
    execution = serving.item()
    assert (execution.method, msgpack.unpackb(execution.body)) == ("add", [[1, {"a": None}], {}])
    assert (execution.client, execution.plain.id, execution.deadline, execution.codec) == (b"", 7, None, "msgpack")
    serving.core.finish(execution, calls.Answer(calls.RESULT, msgpack.packb({"sum": 3})), serving.pair.now)
    (frames,) = serving.plain_sent()
    assert list(frames[:-1]) == envelope
    assert unpack(frames[-1]) == {"jsonrpc": "2.0", "result": {"sum": 3}, "id": 7}
    assert not serving.core._plain


def test_parameters_by_name_and_none_at_all() -> None:
    serving = Serving(capacity=5)
    serving.plain("p", b"", json.dumps(request(params={"a": 1})).encode())
    serving.plain("p", b"", json.dumps({"method": "add"}).encode())
    assert [msgpack.unpackb(each.body) for each in serving.items()] == [[[], {"a": 1}], [[], {}]]


def test_a_request_without_an_id_is_answered_too() -> None:
    serving = Serving()
    serving.plain("p", b"", json.dumps(request()).encode())
    serving.core.finish(serving.item(), calls.Answer(calls.RESULT, b"\xc0"), serving.pair.now)
    ((_, body),) = serving.plain_sent()
    assert json.loads(body) == {"jsonrpc": "2.0", "result": None, "id": None}


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"{"], -32700),
        ([b"", b""], -32700),
        ([b"", b"\xff\xfe"], -32700),
        ([b"", b"\x81"], -32700),
        ([b""], -32600),
        ([b"", b"[" * 100_000], -32700),
        ([b"", b"[]"], -32600),
        ([b'[{"method": "add"}]'], -32600),
        ([b"", msgpack.packb([1])], -32600),
        ([b"", b"7"], -32600),
        ([b"", b"{}", b"{}"], -32600),
        ([b'{"method": 7}'], -32600),
        ([b'{"method": ""}'], -32600),
        ([b'{"jsonrpc": "1.0", "method": "add"}'], -32600),
        ([b'{"method": "add", "id": []}'], -32600),
        ([b'{"method": "add", "id": true}'], -32600),
        ([b'{"method": "add", "timeout": -1}'], -32600),
        ([b'{"method": "add", "timeout": "1"}'], -32600),
        ([b'{"method": "nothing"}'], -32601),
        ([b'{"method": "add", "params": 7}'], -32602),
        ([b"", msgpack.packb({"method": "add", "params": {1: 2}})], -32602),
        ([b'{"method": "add", "params": [' + b"9" * 40 + b"]}"], -32602),
    ],
)
def test_what_is_no_request_is_answered_with_what_is_wrong(frames: list[bytes], code: int) -> None:
    serving = Serving()
    (answer,) = serving.plain("p", *frames)
    unpack = msgpack.unpackb if answer[-1][:1] == b"\x83" else json.loads
    found = unpack(answer[-1])
    assert found["error"]["code"] == code, found
    assert serving.items() == []
    assert serving.count("plain_refused") == 1
    assert len(answer) == 1 + (frames[0] == b"")


def test_the_id_comes_back_with_an_error() -> None:
    serving = Serving()
    assert ask(serving, request("nothing", id="a"))["id"] == "a"
    assert ask(serving, request(7, id=3))["id"] == 3


def test_what_a_handler_raises_is_told() -> None:
    serving = Serving()
    serving.plain("p", b"", json.dumps(request(id=1)).encode())
    told = {"type": "ValueError", "message": "no", "code": "e1", "data": [1], "traceback": "secret"}
    serving.core.finish(serving.item(), calls.Answer(calls.ERROR, msgpack.packb(told)), serving.pair.now)
    ((_, body),) = serving.plain_sent()
    assert json.loads(body)["error"] == {
        "code": -32000, "message": "no", "data": {"type": "ValueError", "code": "e1", "data": [1]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (calls.Answer(calls.RESULT, msgpack.packb(b"bytes")), -32603),
        (calls.Answer(calls.RESULT, b"\xc1"), -32603),
        (calls.Answer(calls.RESULT, b"x", "unheard of"), -32603),
        (calls.Answer(calls.ERROR, b"\xc1"), -32000),
        (calls.Answer(calls.ERROR, msgpack.packb({"message": "m", "data": b"bytes"})), -32000),
        (calls.Answer(calls.REFUSED, code="arguments", message="two"), -32602),
        (calls.Answer(calls.REFUSED, code="authorised"), -32003),
        (calls.Answer(calls.UNKNOWN, code="x", message="m"), -32603),
        (calls.Answer(calls.DONE), -32603),
    ],
)
def test_every_end_is_answered(answer: calls.Answer, code: int) -> None:
    serving = Serving()
    serving.plain("p", b"", json.dumps(request(id=1)).encode())
    serving.core.finish(serving.item(), answer, serving.pair.now)
    ((_, body),) = serving.plain_sent()
    assert json.loads(body)["error"]["code"] == code


def test_time_runs_out_in_the_queue() -> None:
    serving = Serving(capacity=1)
    serving.call(1)
    running = serving.item()
    serving.plain("p", b"", json.dumps(request(timeout=0.5, id=1)).encode())
    serving.pair.advance(1.0)
    serving.core.finish(running, calls.Answer(calls.RESULT), serving.pair.now)
    ((_, body),) = serving.plain_sent()
    assert json.loads(body)["error"]["code"] == -32002


def test_plain_clients_are_bounded_like_all_others() -> None:
    serving = Serving(capacity=5)
    serving.plain("p", b"", json.dumps(request("one")).encode())
    assert ask(serving, request("one"))["error"]["code"] == -32001
    for _ in range(MAX_OPEN - 1):
        assert serving.plain("p", b"", json.dumps(request()).encode()) == []
    assert ask(serving, request())["error"]["code"] == -32001
    assert serving.plain("q", b"", json.dumps(request()).encode()) == []
    serving.core.limits = Limits(queued_messages=1)
    assert ask(serving, request(), "q")["error"]["code"] == -32001


def test_draining_refuses_what_waits_and_what_comes() -> None:
    serving = Serving(capacity=1)
    serving.plain("p", b"", json.dumps(request(id=1)).encode())
    serving.plain("p", b"", json.dumps(request(id=2)).encode())
    serving.core.drain(serving.pair.now)
    ((_, body),) = serving.plain_sent()
    assert (json.loads(body)["id"], json.loads(body)["error"]["code"]) == (2, -32001)
    assert ask(serving, request())["error"]["code"] == -32001
    serving.core.close(serving.pair.now)
    serving.pair.turn()
    assert not serving.core.finished
    serving.core.finish(serving.item(), calls.Answer(calls.RESULT, b"\xc0"), serving.pair.now)
    assert len(serving.plain_sent()) == 1
    serving.pair.advance(1.0)
    assert serving.core.finished


def test_a_plain_client_that_is_gone_is_forgotten() -> None:
    serving = Serving(capacity=1)
    serving.plain("p", b"", json.dumps(request(id=1)).encode())
    serving.plain("p", b"", json.dumps(request(id=2)).encode())
    running = serving.item()
    serving.do("watch", running, "ticket")
    serving.core.link_down("p", serving.pair.now)
    assert running.cancelled
    assert serving.core.waiting == 0
    serving.core.finish(running, calls.Answer(calls.RESULT, b"\xc0"), serving.pair.now)
    assert serving.plain_sent() == []
    assert serving.items() == []


def test_plain_calls_need_no_journal() -> None:
    serving = Serving(durable=True)
    serving.server.storing = False
    serving.plain("p", b"", json.dumps(request()).encode())
    assert serving.item().method == "add"


def test_no_header_of_a_session_is_taken_for_a_plain_request() -> None:
    for header in ([1, {}], [5, b"s" * 8, 1, 2, 3], list(range(40)), list(range(70_000))):
        assert not is_plain([msgpack.packb(header)])
        assert not is_plain([msgpack.packb(header), b"{}"])
    assert not is_plain([b"{}", b"{}"])
    assert not is_plain([b"x" * 256, b"", b"{}"])
    assert not is_plain([b"\0x"] * 9 + [b"", b"{}"])
    assert is_plain([b"\0x"] * 8 + [b"", b"{}"])
    assert is_plain([b" {}"])
    assert is_plain([msgpack.packb({"a": 1})])
