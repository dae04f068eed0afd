"""The echo pattern over real sockets: threads, asyncio and trio, with connections that are cut."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from tests.echo import faces
from tests.echo.core import Unanswered
from tests.echo.cutter import Cutter
from tests.echo.faces import Asker, AsyncAsker, AsyncEchoer, Echoer
from zmqkit.errors import WaitTimeout
from zmqkit.events import PeerResumed
from zmqkit.options import Heartbeat

PATIENCE_S = 20.0
HEARTBEAT = Heartbeat(interval=1.0, liveness=30)
"""A bound that no loaded machine reaches: sessions must live through every cut."""

Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True, params=[False, True], ids=["iothread", "shared"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scenario runs over both drivers."""
    monkeypatch.setattr(faces.Base, "_latency", request.param)


loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(backend: str, scenario: Scenario) -> None:
    async def bounded() -> None:
        with anyio.fail_after(PATIENCE_S * 2):
            await scenario()

    anyio.run(bounded, backend=backend)


def test_threads_ask_and_are_answered() -> None:
    with Echoer("tcp://127.0.0.1:*") as echoer, Asker(*echoer.addresses) as asker:
        answers: list[bytes] = []

        def ask(first: int) -> None:
            answers.extend(asker.ask(b"%d" % number, timeout=PATIENCE_S) for number in range(first, first + 50))

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 200, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sorted(answers, key=int) == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", "inproc://echo", "ipc"])
def test_any_transport_and_either_side_may_bind(address: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if address == "ipc":
        address = f"ipc://{tmp_path_factory.mktemp('e')}/s"
    with Asker(bind=address) as asker, Echoer(connect=asker.open().addresses):
        assert asker.ask(b"the other way round", timeout=PATIENCE_S) == b"the other way round"


def test_threads_get_every_answer_once_while_the_connection_is_cut() -> None:
    resumed = threading.Event()
    with (
        Echoer("tcp://127.0.0.1:*", heartbeat=HEARTBEAT) as echoer,
        Cutter(echoer.addresses[0]) as cutter,
        Asker(cutter.address, heartbeat=HEARTBEAT) as asker,
    ):
        asker.on(PeerResumed, lambda _: resumed.set())
        for number in range(200):
            if number in (50, 150):
                cutter.cut()
            assert asker.ask(b"%d" % number, timeout=PATIENCE_S) == b"%d" % number
        assert resumed.wait(PATIENCE_S)
        assert cutter.connections >= 3
        assert asker.stats()["sessions_opened"] == 1
        assert asker.stats()["sessions_resumed"] >= 2
        assert echoer.stats()["echoed"] == 200


def test_a_connection_that_breaks_amid_frames_loses_nothing() -> None:
    with (
        Echoer("tcp://127.0.0.1:*", heartbeat=HEARTBEAT) as echoer,
        Cutter(echoer.addresses[0]) as cutter,
        Asker(cutter.address, heartbeat=HEARTBEAT) as asker,
    ):
        asker.ask(b"first", timeout=PATIENCE_S)
        for size in (1, 700, 5000):
            cutter.lose_after = size
            body = b"." * 4000
            assert asker.ask(body, timeout=PATIENCE_S) == body
        assert echoer.stats()["echoed"] == 4
        assert asker.stats()["sessions_opened"] == 1


@loops
def test_tasks_get_every_answer_once_while_the_connection_is_cut(backend: str) -> None:
    async def scenario() -> None:
        async with AsyncEchoer("tcp://127.0.0.1:*", heartbeat=HEARTBEAT) as echoer:
            with Cutter(echoer.addresses[0]) as cutter:
                async with AsyncAsker(cutter.address, heartbeat=HEARTBEAT) as asker:
                    answers: dict[int, bytes] = {}

                    async def ask(first: int) -> None:
                        for number in range(first, first + 25):
                            answers[number] = await asker.ask(b"%d" % number, timeout=PATIENCE_S)
                            if number % 50 == 10:
                                cutter.cut()

                    async with anyio.create_task_group() as group:
                        for first in range(0, 200, 25):
                            group.start_soon(ask, first)
                    assert answers == {number: b"%d" % number for number in range(200)}
                    assert echoer.stats()["echoed"] == 200
                    assert asker.stats()["sessions_opened"] == 1
                    assert asker.stats()["sessions_resumed"] >= 1

    run(backend, scenario)


@loops
def test_a_task_that_is_cancelled_while_it_asks_harms_nobody(backend: str) -> None:
    async def scenario() -> None:
        async with AsyncEchoer("tcp://127.0.0.1:*") as echoer, AsyncAsker(*echoer.addresses) as asker:
            await asker.ask(b"warm", timeout=PATIENCE_S)
            for number in range(50):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await asker.ask(b"%d" % number)
            assert await asker.ask(b"after", timeout=PATIENCE_S) == b"after"

    run(backend, scenario)


@loops
def test_nobody_to_ask_is_a_timeout_and_a_lost_echoer_an_error(backend: str) -> None:
    async def scenario() -> None:
        echoer: Any = AsyncEchoer("tcp://127.0.0.1:*", heartbeat=HEARTBEAT)
        await echoer.open()
        async with AsyncAsker(*echoer.addresses, heartbeat=HEARTBEAT) as asker:
            assert await asker.ask(b"1", timeout=PATIENCE_S) == b"1"
            echoer._core.dumb = True
            with pytest.raises(WaitTimeout):
                await asker.ask(b"2", timeout=0.05)
            unanswered: list[BaseException] = []

            async def ask() -> None:
                try:
                    await asker.ask(b"3", timeout=PATIENCE_S)
                except Unanswered as error:
                    unanswered.append(error)

            heard = echoer.stats()["heard"]
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                while echoer.stats()["heard"] == heard:
                    await anyio.lowlevel.checkpoint()
                await echoer.close()
            assert len(unanswered) == 1
            with pytest.raises(WaitTimeout):
                await asker.ask(b"4", timeout=0.05)

    run(backend, scenario)
