"""No number is given twice under one client key, however a client was opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from zmqkit import Client, Server, aio

WAIT = 20.0

VERBS: dict[str, Callable[[Client, str, int], Any]] = {
    "call": lambda client, method, value: client.call(method, value),
    "submit": lambda client, method, value: client.submit(method, value).result(WAIT),
    "stream": lambda client, method, value: next(iter(client.stream(f"{method}s", value))),
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("tcp://127.0.0.1:*")

    @server.method
    def echo(value: int) -> int:
        return value

    @server.method
    def echos(value: int) -> Iterator[int]:
        yield value

    with server:
        yield server


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_opens_the_client_counts_on_from_the_journal(server: Server, tmp_path: Path, verb: str) -> None:
    for start in (0, 100):
        client = Client(server.addresses[0], timeout=WAIT, journal=tmp_path / "calls.db")
        values = range(start, start + 4)
        assert [VERBS[verb](client, "echo", value) for value in values] == list(values)
        client.close()


def test_ids_are_those_of_the_journal_from_the_first_call_on(server: Server, tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        client = Client(server.addresses[0], timeout=WAIT, journal=tmp_path / "calls.db")
        replies = [client.submit("echo", value) for value in range(3)]
        ids |= {reply.id for reply in replies}
        assert [reply.result(WAIT) for reply in replies] == [0, 1, 2]
        client.close()
    assert len(ids) == 6
    assert len({each.rpartition("-")[0] for each in ids}) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_face_likewise(server: Server, tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        for start in (0, 100):
            client = aio.Client(server.addresses[0], timeout=WAIT, journal=tmp_path / "calls.db")
            values = range(start, start + 4)
            replies = [client.submit("echo", value) for value in values]
            assert [await reply for reply in replies] == list(values)
            await client.close()

    anyio.run(main, backend=backend)
