"""``Server(inbox=)`` and ``request.transaction()``: effect and reply are there together, and once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import zmqkit
from zmqkit import Client, RemoteError, Request, Server, ServiceError, UsageError, aio
from zmqkit.errors import OutcomeUnknown

WAIT = 20.0
ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute("create table paid (who text, amount integer)")
    db.commit()
    db.close()
    return path


def paid(path: Path) -> list[tuple[str, int]]:
    db = sqlite3.connect(path)
    try:
        return list(db.execute("select who, amount from paid order by rowid"))
    finally:
        db.close()


def bank(path: Path | Callable[[], Any], **options: Any) -> Server:
    server = Server(ANYWHERE, inbox=path, **options)

    @server.method
    def pay(who: str, amount: int, request: Request) -> int:
        with request.transaction() as db:
            db.execute("insert into paid values (?, ?)", (who, amount))
        if amount < 0:
            raise ServiceError("amount.negative")
        return amount + 1

    @server.method
    def look(request: Request) -> str:
        return request.id

    @server.method
    def odd(how: str, request: Request) -> Any:
        with request.transaction() as db:
            db.execute("insert into paid values ('odd', 1)")
            if how == "nested":
                with request.transaction() as again:
                    again.execute("insert into paid values ('again', 1)")
            if how == "raise":
                raise ValueError("midway")
            if how == "commit":
                db.execute("commit")
        return object() if how == "object" else how

    @server.method
    def stream(request: Request) -> Iterator[int]:
        with request.transaction():
            yield 1

    return server


@pytest.fixture
def served(path: Path) -> Iterator[Server]:
    with bank(path) as server:
        yield server


@pytest.fixture
def client(served: Server) -> Iterator[Client]:
    with Client(served.addresses[0], timeout=WAIT) as client:
        yield client


def test_effect_and_reply_are_committed_together(client: Client, path: Path) -> None:
    assert client.call("pay", "ada", 5) == 6
    assert paid(path) == [("ada", 5)]


def test_asking_again_by_the_same_id_gives_the_same_reply_and_no_second_effect(path: Path) -> None:
    """Also at another server: a restarted one has no window, but the inbox."""
    for _ in range(2):
        with bank(path) as server, Client(server.addresses[0], timeout=WAIT) as client:
            for _ in range(2):
                assert client.options(request_id="order 7").call("pay", "ada", 5) == 6
    assert paid(path) == [("ada", 5)]


def test_an_id_of_another_method_is_refused(path: Path) -> None:
    with bank(path) as server, Client(server.addresses[0], timeout=WAIT) as client:
        client.options(request_id="order 7").call("pay", "ada", 5)
    with (
        bank(path) as server,
        Client(server.addresses[0], timeout=WAIT) as client,
        pytest.raises(zmqkit.errors.Rejected, match="order 7"),
    ):
        client.options(request_id="order 7").call("look")


@pytest.mark.parametrize(
    ("how", "type"), [("raise", "ValueError"), ("object", "EncodeError"), ("commit", "UsageError")]
)
def test_a_handler_that_fails_leaves_no_record(client: Client, path: Path, how: str, type: str) -> None:
    with pytest.raises(RemoteError) as caught:
        client.options(request_id="x").call("odd", how)
    assert caught.value.type == type
    assert paid(path) == ([("odd", 1)] if how == "commit" else [])  # what the handler committed itself is there
    db = sqlite3.connect(path)
    assert db.execute("select count(*) from zmqkit_inbox where outcome is not null").fetchone() == (0,)
    db.close()


def test_an_error_on_purpose_rolls_back_as_well(client: Client, path: Path) -> None:
    with pytest.raises(RemoteError) as caught:
        client.call("pay", "ada", -1)
    assert caught.value.code == "amount.negative"
    assert paid(path) == []
    assert client.call("pay", "ada", 1) == 2


def test_a_transaction_within_itself_is_the_same_one(client: Client, path: Path) -> None:
    assert client.call("odd", "nested") == "nested"
    assert paid(path) == [("odd", 1), ("again", 1)]


def test_a_stream_has_no_transaction(client: Client, path: Path) -> None:
    with pytest.raises(RemoteError, match="single reply"), client.stream("stream") as items:
        next(items)


def test_without_an_inbox_the_error_says_what_to_do() -> None:
    server = Server(ANYWHERE)

    @server.method
    def pay(request: Request) -> None:
        with request.transaction():
            pass

    with server, Client(server.addresses[0], timeout=WAIT) as client:
        with pytest.raises(RemoteError, match="inbox=") as caught:
            client.call("pay")
        assert caught.value.type == "UsageError"


def test_many_handlers_share_the_inbox(client: Client, path: Path) -> None:
    replies = [client.submit("pay", "ada", number) for number in range(100)]
    assert [reply.result(WAIT) for reply in replies] == list(range(1, 101))
    assert sorted(paid(path)) == [("ada", number) for number in range(100)]


def test_a_callable_gives_each_thread_its_connection(path: Path) -> None:
    with bank(lambda: sqlite3.connect(path)) as server, Client(server.addresses[0], timeout=WAIT) as client:
        replies = [client.submit("pay", "ada", number) for number in range(20)]
        assert [reply.result(WAIT) for reply in replies] == list(range(1, 21))


def test_what_cannot_be_an_inbox_is_refused_where_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="inbox"):
        Server(ANYWHERE, inbox=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="memory"):
        Server(ANYWHERE, inbox=":memory:")
    with pytest.raises(zmqkit.JournalError, match="folder"):
        Server(ANYWHERE, inbox=tmp_path / "nowhere" / "state.db").open()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_coroutines_take_turns(path: Path, backend: str) -> None:
    async def main() -> None:
        server = aio.Server(ANYWHERE, inbox=path)
        inside = 0

        @server.method
        async def pay(who: str, amount: int, request: Request) -> int:
            nonlocal inside
            async with request.transaction() as db:
                inside += 1
                assert inside == 1
                db.execute("insert into paid values (?, ?)", (who, amount))
                await anyio.lowlevel.checkpoint()
                inside -= 1
            return amount

        @server.method
        async def hang(request: Request) -> None:
            async with request.transaction() as db:
                db.execute("insert into paid values ('hang', 1)")
                await anyio.sleep_forever()

        async with server, aio.Client(server.addresses[0], timeout=WAIT) as client:
            with pytest.raises(OutcomeUnknown):
                await client.options(timeout=0.3).call("hang")  # cancelled in the midst: rolled back, and let go
            replies = [client.submit("pay", "ada", number) for number in range(20)]
            assert [await reply for reply in replies] == list(range(20))

    anyio.run(main, backend=backend)
    assert sorted(paid(path)) == [("ada", number) for number in range(20)]


SERVER = """
import os, sys
import zmqkit
from zmqkit.patterns.reqrep.effects import Effects
server = zmqkit.Server(sys.argv[1], inbox="state.db", journal="calls.db")
@server.method
def pay(who: str, request: zmqkit.Request) -> str:
    with request.transaction() as db:
        db.execute("insert into paid values (?, 1)", (who,))
    return f"thanks, {who}"
@server.method
def die(when: str, request: zmqkit.Request) -> str:
    if os.path.exists("died"):
        return "alive"
    open("died", "w").close()
    if when == "after":
        Effects.settle = lambda effects, answer, settle=Effects.settle: (settle(effects, answer), os._exit(1))
    with request.transaction() as db:
        db.execute("insert into paid values ('dying', 1)")
        if when == "within":
            os._exit(1)
    return "done"
with server:
    print(server.addresses[0], flush=True)
    server.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["within", "after"])
def test_a_server_that_dies_answers_by_what_was_committed(path: Path, when: str) -> None:
    """Killed within the transaction nothing happened, and nobody can say so; after the commit the reply is there."""
    address = f"ipc://{path.parent}/server"

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, address], cwd=path.parent, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == address
        return process

    first = start()
    again: list[subprocess.Popen[str]] = []

    def start_again() -> None:
        first.wait()
        again.append(start())

    restart = threading.Thread(target=start_again)
    restart.start()
    try:
        with Client(address, timeout=WAIT) as client:
            if when == "after":
                assert client.call("die", when) == "done"
                assert paid(path) == [("dying", 1)]
            else:
                with pytest.raises(OutcomeUnknown):
                    client.call("die", when)
                assert paid(path) == []
            assert client.call("pay", "ada") == "thanks, ada"
    finally:
        first.kill()
        restart.join(WAIT)
        for process in (first, *again):
            os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
