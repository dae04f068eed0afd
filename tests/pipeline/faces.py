"""One scenario, three faces: a scenario is written once, as a coroutine, and runs over sync, asyncio and trio.

A sync object wears the names of its async twin here (`InPlace`): what is a coroutine there runs in place, so that a
scenario over the sync face never suspends and needs no loop. Which methods these are is read off the async class.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, Literal, TypeVar

import anyio

import zmqkit
from zmqkit import aio
from zmqkit.events import Event
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.pipeline.rows import DeadRow
from zmqkit.protocol.core import Read
from zmqkit.transport.mailbox import Mailbox

T = TypeVar("T")

PATIENCE_S = 20.0
"""Every wait of these tests ends after so long, as a failure."""

LOCAL = "tcp://127.0.0.1:*"

TWINS: dict[type[Any], type[Any]] = {
    getattr(zmqkit, name): getattr(aio, name)
    for name in ("Pusher", "Puller", "Worker", "Receipt", "Job", "Batch", "DeadLetters")
}


def in_place(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        scenario.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    scenario.close()
    raise AssertionError("the scenario awaits something that is not of the sync face")


class InPlace:
    """A sync object under the async face's names."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.real, name)
        if not inspect.ismethod(value):
            return value
        if inspect.iscoroutinefunction(getattr(TWINS[type(self.real)], name)):

            async def run_it(*args: Any, **kwargs: Any) -> Any:
                return dress(value(*args, **kwargs))

            return run_it
        return lambda *args, **kwargs: dress(value(*args, **kwargs))

    async def __aenter__(self) -> Any:
        self.real.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> Any:
        return self.real.__exit__(*raised)

    def __aiter__(self) -> Stepping:
        return Stepping(iter(self.real))

    def __iter__(self) -> Iterator[Any]:
        return map(dress, self.real)

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, index: int) -> Any:
        return dress(self.real[index])


class Stepping:
    """A sync iterator as an async one."""

    def __init__(self, real: Iterator[Any]) -> None:
        self._real = real

    def __aiter__(self) -> Stepping:
        return self

    async def __anext__(self) -> Any:
        try:
            return dress(next(self._real))
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self._real.close()  # type: ignore[attr-defined]


def dress(value: Any) -> Any:
    """What a sync object returned, as the scenario sees it."""
    if type(value) in TWINS:
        return InPlace(value)
    return Stepping(value) if inspect.isgenerator(value) else value


def bare(value: Any) -> Any:
    """The object itself."""
    return value.real if isinstance(value, InPlace) else value


class Face:
    """What a scenario gets: the classes of one face, and what else differs between them.

    Attributes:
        name: "sync", "asyncio" or "trio".
        module: where its classes live.
    """

    def __init__(self, name: Literal["sync", "asyncio", "trio"]) -> None:
        self.name = name
        self.module: Any = zmqkit if name == "sync" else aio

    def _made(self, kind: str, args: Any, kwargs: Any) -> Any:
        return dress(getattr(self.module, kind)(*args, **{name: bare(value) for name, value in kwargs.items()}))

    def Pusher(self, *args: Any, **kwargs: Any) -> Any:
        return self._made("Pusher", args, kwargs)

    def Puller(self, *args: Any, **kwargs: Any) -> Any:
        return self._made("Puller", args, kwargs)

    def Worker(self, *args: Any, **kwargs: Any) -> Any:
        return self._made("Worker", args, kwargs)

    def wants(self, kind: str, handler: Callable[[Any], object]) -> Callable[[Any], object]:
        """The handler, annotated to get a whole "Job" or "Batch"."""
        (name,) = inspect.signature(handler).parameters
        handler.__annotations__ = {name: getattr(self.module, kind)}
        return handler

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario to its end."""
        if self.name == "sync":
            in_place(scenario())
        else:
            anyio.run(_bounded, scenario, backend=self.name)

    async def pause(self) -> None:
        """Let others run."""
        if self.name == "sync":
            time.sleep(0.001)  # noqa: ASYNC251 - no loop runs
        else:
            await anyio.sleep(0.001)

    async def until(self, true: Callable[[], object], what: str = "") -> None:
        """Wait for what tells nobody when it happens, such as a counter."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, what or "it never came true"
            await self.pause()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[Callable[..., object]]:
        """Yields ``start(fn, *args)``, which runs a coroutine function beside; at the end all are waited for."""
        if self.name == "sync":
            threads = _Threads()
            try:
                yield threads.start
            finally:
                threads.join()
        else:
            async with anyio.create_task_group() as group:
                yield group.start_soon


FACES = ("sync", "asyncio", "trio")


async def _bounded(scenario: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(3 * PATIENCE_S):
        await scenario()


class _Threads:
    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, fn: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        def run() -> None:
            try:
                in_place(fn(*args))
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a thread of the scenario hangs"
        if self._errors:
            raise self._errors[0]


class Letterbox(Generic[T]):
    """What callbacks and handlers drop in, from any thread; a scenario takes it out.

    Attributes:
        all: whatever was dropped in, in order.
    """

    def __init__(self, face: Face) -> None:
        self._face = face
        self._mailbox: Mailbox[T] = Mailbox()
        self.all: list[T] = []

    def put(self, value: T) -> None:
        self.all.append(value)
        self._mailbox.put_many([value])

    async def next(self) -> T:
        """The next one; waits for it."""
        deadline = time.monotonic() + PATIENCE_S
        while (value := self._mailbox.take()) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came after {self.all[-5:]}"
            if self._face.name == "sync":
                self._mailbox.wait_nonempty(left)
            else:
                await self._mailbox.wait_nonempty_async(left)
        return value


def listen(face: Face, peer: Any, event: type[Event]) -> Letterbox[Any]:
    """The events of this type that a peer tells from now on."""
    box: Letterbox[Any] = Letterbox(face)
    peer.on(event, box.put)
    return box


async def take(pull: Any) -> Any:
    """The next job, which must come."""
    job = await pull.receive(PATIENCE_S)
    assert job is not None, "no job came"
    return job


async def handle(pull: Any, count: int) -> list[Any]:
    """Take and ack so many jobs; their bodies."""
    bodies = []
    for _ in range(count):
        async with await take(pull) as job:
            bodies.append(job.body)
    return bodies


def dead_letters(path: Any) -> list[DeadRow]:
    """What stands in the log ``dead`` of a closed journal."""
    journal = SqliteJournal(path, logs=("messages", "marks", "dead"), read_only=True)
    try:
        return [DeadRow.unpack(row.value) for row in journal.read(Read("dead", 0, 1 << 62, 1 << 30))]
    finally:
        journal.close()
