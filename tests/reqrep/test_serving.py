"""Serving: running and stopping, draining without a failed call, other processes, several servers, and their deaths."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.processes import program
from tests.reqrep import programs
from tests.reqrep.faces import PATIENCE_S, Face, Gate, bare, raised
from zmqkit import NotSentInTime, OutcomeUnknown, RemoteError, StreamBroken, UsageError

PROGRAMS = "tests.reqrep.programs"


# ---- running and stopping ----------------------------------------------------------


async def test_run_serves_until_it_is_stopped_and_closes(face: Face) -> None:
    server = face.Server()
    server.method(name="stop")(lambda: bare(server).stop())
    await server.open()
    async with face.together() as start, face.Client(server) as client:
        start(server.run)
        assert await client.call("stop") is None
    assert server.closed


async def test_a_server_that_is_stopped_finishes_what_runs(face: Face) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="plain")(gate.wait)
    server.method(name="coroutine")(gate.pause)
    await server.open()
    async with face.together() as start, face.Client(server) as client:
        start(server.run)
        replies = [client.submit("plain", 1), client.submit("coroutine", 2)]
        for _ in replies:
            await gate.entered.next()
        server.stop()
        late = client.options(timeout=0.2).submit("plain", 3)
        with pytest.raises(NotSentInTime):
            await face.value(late)
        gate.open()
        assert [await face.value(each) for each in replies] == [1, 2]


async def test_what_still_runs_when_a_server_must_close_is_told_to_its_caller(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(face)
    server = face.Server()
    server.method(name="plain")(gate.wait)
    server.method(name="coroutine")(gate.pause)
    async with face.Client(await _opened(server)) as client:
        replies = [client.submit("plain", 1), client.submit("coroutine", 2)]
        for _ in replies:
            await gate.entered.next()
        with caplog.at_level(logging.WARNING, "zmqkit.reqrep"):
            await server.close(0.05)
        assert "2 handlers still ran" in caplog.text
        for reply in replies:
            with pytest.raises(OutcomeUnknown, match="the server was stopped while"):
                await face.value(reply)
        assert await gate.left.next() == "cancelled"
        gate.open()


async def _opened(server: Any) -> Any:
    await server.open()
    return server


async def test_draining_fails_no_call(face: Face) -> None:
    """Servers are replaced one by one while calls go on; each call is answered, by one of them."""
    servers = [await _opened(_counting(face)) for _ in range(3)]
    async with face.Client(*servers) as client:
        await client.wait_for_peers(3, timeout=PATIENCE_S)
        answers: list[int] = []

        async def ask() -> None:
            for n in range(150):
                answers.append(await client.call("echo", n))  # noqa: PERF401 - one after the other

        async with face.together() as start:
            for _ in range(4):
                start(ask)
            for server in servers[:2]:
                count = len(answers)
                await face.until(lambda count=count: len(answers) >= count + 50)  # type: ignore[misc]
                await server.close()
        assert sorted(answers) == sorted(list(range(150)) * 4)
        await servers[2].close()


def _counting(face: Face) -> Any:
    server = face.Server()
    server.method(name="echo")(lambda n: n)
    return server


def test_a_server_takes_no_methods_once_it_is_open() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*")
    with server, pytest.raises(UsageError, match="add methods before"):
        server.method(name="x")(print)


def test_sigterm_finishes_what_runs_and_ends_the_program() -> None:
    for name in ("serve", "serve_async"):
        with program(name, module=PROGRAMS) as running:
            with zmqkit.Client(running.heard()["address"], timeout=PATIENCE_S) as client:
                reply = client.submit("wait", 0.3)
                assert running.heard() == {"entered": True}
                running.signal(signal.SIGTERM)
                assert reply.result() == "through"
                assert running.heard() == {"ended": True}
            assert running.end() == 0, running.errors


# ---- several servers, and their deaths ----------------------------------------------


def test_a_killed_server_leaves_the_outcome_unknown() -> None:
    with (
        program("serve", module=PROGRAMS) as running,
        zmqkit.Client(running.heard()["address"], timeout=PATIENCE_S) as client,
    ):
        reply, stream = client.submit("wait"), client.stream("rows")
        assert running.heard() == {"entered": True}
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        running.kill()
        with pytest.raises(OutcomeUnknown, match="the server was lost at server-") as caught:
            reply.result()
        assert caught.value.request_id == reply.id
        with pytest.raises(StreamBroken) as broken:
            next(stream)
        assert broken.value.received == 3


def test_what_is_idempotent_is_sent_to_another_server() -> None:
    with program("serve", module=PROGRAMS) as one, program("serve", module=PROGRAMS) as two:
        addresses = one.heard()["address"], two.heard()["address"]
        with zmqkit.Client(*addresses, timeout=PATIENCE_S) as client:
            client.wait_for_peers(2, timeout=PATIENCE_S)
            replies = [client.submit("patient") for _ in range(2)]
            assert one.heard() == two.heard() == {"entered": True}
            one.kill()
            assert two.heard() == {"entered": True}
            with zmqkit.Client(addresses[1]) as other:
                other.call("leave")
            assert [each.result() for each in replies] == [two.process.pid] * 2
            assert client.stats()["calls_retried"] == 1


def test_of_three_servers_one_dies_and_calls_go_on() -> None:
    with (
        program("serve", module=PROGRAMS) as one,
        program("serve", module=PROGRAMS) as two,
        program("serve", module=PROGRAMS) as three,
    ):
        running = [one, two, three]
        with zmqkit.Client(*(each.heard()["address"] for each in running), timeout=PATIENCE_S) as client:
            client.wait_for_peers(3, timeout=PATIENCE_S)
            replies = [client.submit("pid") for _ in range(60)]
            assert {each.result() for each in replies} == {each.process.pid for each in running}
            one.kill()
            replies = [client.submit("pid") for _ in range(60)]
            assert {each.result() for each in replies} == {two.process.pid, three.process.pid}


# ---- journals ------------------------------------------------------------------------


async def test_a_durable_call_outlives_its_client(face: Face, tmp_path: Path) -> None:
    journal = tmp_path / "calls.db"
    server = face.Server()
    server.method(name="add")(lambda a, b: a + b)
    await server.open()
    address = server.addresses[0]
    await server.close()
    async with face.Client(address, journal=journal, timeout=0.1) as client:
        durable = client.options(durable=True)
        error = await raised(zmqkit.NoReplyInTime, durable.call, "add", 1, 2)
        assert "results()" in str(error)
    server = face.Server(address)
    server.method(name="add")(lambda a, b: a + b)
    async with server, face.Client(address, journal=journal) as client:
        assert [await face.value(each) async for each in client.results()] == [3]
        assert [await face.value(each) async for each in client.results()] == []
        assert await client.options(durable=True).call("add", 2, 2) == 4
    async with face.Client(address, journal=journal) as client:
        assert [await face.value(each) async for each in client.results()] == []


async def test_a_durable_call_needs_a_journal(face: Face) -> None:
    client = face.Client("tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="journal=PATH"):
        client.options(durable=True)


async def test_a_server_with_a_journal_executes_nothing_twice_across_a_restart(face: Face, tmp_path: Path) -> None:
    ran: list[int] = []

    def count() -> int:
        ran.append(1)
        return len(ran)

    server = face.Server(journal=tmp_path / "s.db")
    server.method(count)
    await server.open()
    address = server.addresses[0]
    async with face.Client(address) as client:
        assert await client.options(request_id="once").call("count") == 1
        await server.close()
        server = face.Server(address, journal=tmp_path / "s.db")
        server.method(count)
        async with server:
            assert await client.options(request_id="once").call("count") == 1
            assert await client.options(request_id="twice").call("count") == 2


async def test_a_journal_has_one_owner(face: Face, tmp_path: Path) -> None:
    kinds: dict[str, Any] = {
        "server": lambda path: face.Server(journal=path),
        "client": lambda path: face.Client("tcp://127.0.0.1:9", journal=path),
    }
    for name, make in kinds.items():
        async with make(tmp_path / name):
            await raised(zmqkit.JournalBusy, make(tmp_path / name).open)


# ---- other processes -----------------------------------------------------------------


@pytest.mark.slow
async def test_functions_run_in_other_processes(face: Face) -> None:
    server = face.Server(processes=2)
    for each in (programs.square, programs.whoami, programs.fail, programs.thing):
        server.method(each)
    server.method(name="here", idempotent=True)(_with_request)
    async with server, face.Client(server) as client:
        assert [await client.call("square", n) for n in range(5)] == [0, 1, 4, 9, 16]
        assert await client.call("whoami") != os.getpid()
        assert await client.call("here") == os.getpid()
        error = await raised(RemoteError, client.call, "fail", "x")
        assert (error.type, str(error)[-14:]) == ("LookupError", "LookupError: x")
        assert "in fail" in error.remote_traceback
        assert (await raised(RemoteError, client.call, "thing")).type == "EncodeError"
        error = await raised(zmqkit.BadArguments, client.call, "square")
        assert str(error) == "square() missing 1 required positional argument: 'n'"


def _with_request(request: zmqkit.Request) -> int:
    return os.getpid()


@pytest.mark.slow
async def test_a_process_that_dies_leaves_the_outcome_unknown_and_is_replaced(face: Face) -> None:
    server = face.Server(processes=1)
    server.method(programs.die)
    server.method(programs.square)
    async with server, face.Client(server) as client:
        error = await raised(OutcomeUnknown, client.call, "die")
        assert "died" in str(error)
        assert await client.call("square", 3) == 9


async def test_functions_run_in_an_executor_of_the_users(face: Face) -> None:
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        server = face.Server(executor=executor)
        server.method(_thread)
        async with server, face.Client(server) as client:
            assert (await client.call("_thread")).startswith("mine")
        assert executor.submit(_thread).result().startswith("mine"), "it is not shut down"


def _thread() -> str:
    return threading.current_thread().name


def test_what_other_processes_cannot_find_is_refused() -> None:
    server = zmqkit.Server("tcp://127.0.0.1:*", processes=1)
    server.method(name="nameless")(lambda: None)
    with pytest.raises(UsageError, match=r"nameless\(\) cannot run in another process"):
        server.open()
