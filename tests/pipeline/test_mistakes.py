"""What is easily done wrong at first: it is refused, or told, where and when it is done."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, handle
from zmqkit import EncodeError, Outgoing, UsageError, WaitTimeout
from zmqkit.peer import base

NOWHERE = "tcp://127.0.0.1:1"


def takes_none() -> None: ...
def takes_two(body: Any, job: Any) -> None: ...
def takes_one_by_name(*, body: Any) -> None: ...
def takes_any(*args: Any, **kwargs: Any) -> None: ...
def takes_one_and_more(body: Any, more: int = 0) -> None: ...


@pytest.mark.parametrize("handler", [takes_none, takes_two, takes_one_by_name, lambda: None])
async def test_a_handler_that_does_not_take_one_argument_is_refused_before_anything_is_opened(
    face: Face, handler: Any
) -> None:
    pull = face.Puller(NOWHERE)
    for batch in (None, 5):
        with pytest.raises(UsageError, match=r"cannot be called with one argument .*: a handler gets the body"):
            await pull.run(handler, batch=batch)
    assert pull.stats() == {}, "it was opened"
    with pytest.raises(UsageError, match="a handler gets the body of a job"):
        face.Worker(handler, source=NOWHERE)


@pytest.mark.parametrize("handler", [takes_any, takes_one_and_more, print, [].append, {}.update, int, len])
def test_a_handler_that_takes_one_argument_or_does_not_tell_is_taken(face: Face, handler: Any) -> None:
    face.Worker(handler, source=NOWHERE)


async def test_who_waits_for_nobody_says_so_once(
    face: Face, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ALONE", 0.02)
    monkeypatch.setenv("ZMQKIT_TEST_JOBS", "tcp://127.0.0.1:2")
    name = f"nobody-{uuid.uuid4().hex[:8]}"
    async with face.Puller(NOWHERE, f"zeroconf://{name}", "env://ZMQKIT_TEST_JOBS", name="lonely"):
        await face.until(lambda: "yet" in caplog.text, "it is said")
    (record,) = [record for record in caplog.records if "yet" in record.message]
    assert (record.levelname, record.message) == (
        "WARNING",
        f"lonely: nobody answers at {NOWHERE}; nobody announces '{name}'; "
        "nobody answers at tcp://127.0.0.1:2 (env://ZMQKIT_TEST_JOBS) yet",
    )


async def test_who_is_not_alone_or_is_to_be_found_says_nothing(
    face: Face, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "ALONE", 0.2)
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0], NOWHERE) as pull:
        await pull.wait_for_peers(timeout=PATIENCE_S)
        fired: list[float] = []
        pull._driver.alarm(0.3, fired.append)
        await face.until(lambda: fired, "its time has come")
        with pytest.raises(WaitTimeout, match=r"2 peers did not come within 0 s: 1 is there \("):
            await pull.wait_for_peers(2, timeout=0)
    assert "yet" not in caplog.text


@pytest.mark.parametrize("kind", [zmq.PULL, zmq.SUB, zmq.PUSH])
async def test_a_plain_socket_of_another_kind_is_told_of_once(
    face: Face, kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        await pull.wait_for_peers(timeout=PATIENCE_S)
        with zmq.Context() as context, contextlib.ExitStack() as sockets:
            for _ in range(3):
                sockets.enter_context(context.socket(kind)).connect(push.addresses[0])
            await face.until(lambda: "broken again during ZeroMQ's handshake" in caplog.text, "it is told")
            await face.until(lambda: push.stats()["io_connections_broken"] >= 3, "they are broken")
    told = [record for record in caplog.records if "handshake" in record.message]
    assert [(record.levelname, push.addresses[0] in record.message) for record in told] == [("WARNING", True)]


async def test_who_dials_a_plain_socket_is_told(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as plain:
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        async with face.Puller(f"tcp://127.0.0.1:{port}"):
            await face.until(lambda: "broken again during ZeroMQ's handshake" in caplog.text, "it is told")


@pytest.mark.parametrize("body", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc"), {"a": 1}])
async def test_a_single_body_is_no_list_of_bodies(face: Face, body: Any) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(push.addresses[0]) as pull:
        with pytest.raises(TypeError, match=r"send_many\(\) takes a list of bodies.* put it into a list"):
            await push.send_many(body)
        assert push.stats()["sent"] == 0
        assert await push.send_many([body], timeout=PATIENCE_S) == 1
        assert await handle(pull, 1) == [body]


async def test_a_time_in_other_words_than_seconds_is_refused_with_what_to_say(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(TypeError, match=r"delay must be .* seconds.*: say its \.total_seconds\(\)"):
            await push.send("a", delay=timedelta(hours=1))
        with pytest.raises(TypeError, match=r"ttl must be .* seconds.*\(when - now\)\.total_seconds\(\)"):
            await push.send("a", ttl=datetime.now(UTC))


async def test_what_is_for_send_many_is_refused_by_send_with_what_to_say(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        with pytest.raises(EncodeError, match=r"it is for send_many\(\).*to send\(\) say key="):
            await push.send(Outgoing("a", key="k"))


def test_a_journal_in_memory_is_refused_before_a_file_of_that_name_is_made(
    face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="leave journal= out"):
        face.Pusher(LOCAL, journal=":memory:")
    assert not list(tmp_path.iterdir())
