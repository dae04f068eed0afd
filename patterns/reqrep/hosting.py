"""Serving, as the sync and the async face share it: everything of a server that does not wait for its handlers.

Knows the server's core and its verbs, codecs and the journal; no event loop.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from os import PathLike
from typing import Any, ClassVar, Final, Self, TypeVar, overload

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import Closed, StreamBroken, UsageError
from zmqkit.inbox import Inbox, Source, check_source
from zmqkit.journal import SqliteJournal
from zmqkit.options import Durability, Window
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.arrivals import Arrivals
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.crew import Watchdog
from zmqkit.patterns.reqrep.elsewhere import Pool, check_importable
from zmqkit.patterns.reqrep.handling import Emitter, Handling, Ready
from zmqkit.patterns.reqrep.methods import RESERVED, Mark, Method, Methods
from zmqkit.patterns.reqrep.outcomes import CODE_DRAINING, id_of, refused, unknown
from zmqkit.patterns.reqrep.request import current_request
from zmqkit.patterns.reqrep.rows import CALLS
from zmqkit.patterns.reqrep.server import ServerCore
from zmqkit.peer.base import Common, PeerBase, check_types
from zmqkit.protocol.core import Read, Row
from zmqkit.transport import hosts
from zmqkit.transport.driver import Driver

F = TypeVar("F", bound=Callable[..., Any])
Path = str | PathLike[str]

log = logging.getLogger("zmqkit.reqrep")

CREDIT: Final = 10_000
"""Calls that each client may have in our hands."""

READ_BYTES: Final = 16 << 20
"""Rows are read from the journal in portions of so many bytes."""

MOST_WORKERS: Final = 10_000
"""So many threads or processes at most: more is a slip of the finger that no machine survives."""


class ServerBase(PeerBase):
    """A server without the waiting."""

    _role: ClassVar[str] = "server"
    _accepts: ClassVar[frozenset[str]] = frozenset({"client"})
    _binds: ClassVar[bool] = True
    _latency: ClassVar[bool] = True
    _core: ServerCore

    def __init__(
        self, addresses: Sequence[str], threads: int, tasks: int, processes: int,
        executor: concurrent.futures.Executor | None, journal: Path | None, durability: Durability,
        inbox: Source | None, window: Window | None, tracebacks: bool | None, common: Common,
    ) -> None:  # fmt: skip
        super().__init__(addresses, common)
        for name, value, least in (("threads", threads, 1), ("tasks", tasks, 1), ("processes", processes, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")
            if value > MOST_WORKERS and name != "tasks":
                raise ValueError(f"{name} must be {MOST_WORKERS} or less, got {value!r}: each is one of the system's")
        if durability not in ("power", "process", "memory"):
            raise ValueError(f'durability must be "power", "process" or "memory", got {durability!r}')
        if processes and executor is not None:
            raise UsageError("processes= and executor= are two places for the same functions: give one of them")
        self._window = Window() if window is None else window
        check_types(
            window=(self._window, Window),
            tracebacks=(tracebacks, bool | None),
            executor=(executor, concurrent.futures.Executor | None),
        )
        self._threads = max(threads, processes)
        self._tasks = tasks
        self._pool = Pool(processes, executor) if processes or executor is not None else None
        path = checks.file_path("journal", journal) if journal is not None else None
        self._journal_path = path if durability != "memory" else None
        self._durability = durability
        check_source(inbox)
        self._inbox_source = inbox
        self._tracebacks = tracebacks
        self._methods = Methods()
        self._handling = Handling(self._methods, self._codec, self._limits, self._tells_tracebacks, self._wrap_upload)
        self._watchdog = Watchdog()
        self._executing: dict[Execution, None] = {}
        """What threads run now."""

    def _build(self) -> tuple[ServerCore, Any]:
        if self._pool is not None:
            for each in self._methods:
                if self._runs_elsewhere(each):
                    check_importable(each)
        epoch = os.urandom(16)
        window_id, journal, rows = epoch, None, list[Row]()
        if self._journal_path is not None:
            journal = SqliteJournal(
                self._journal_path, durability=self._durability, logs=(CALLS,), kind="server", owner=self.name
            )
        try:
            if self._inbox_source is not None:
                # A record may be asked for as long as the call is remembered; twice that, for clocks that differ.
                self._handling.inbox = Inbox(self._inbox_source, keep=2 * self._window.seconds)
            if journal is not None:
                epoch, window_id = bytes.fromhex(journal.epoch), bytes.fromhex(journal.uuid)
                rows = _read_all(journal)
            local = self._local(
                about={"epoch": epoch, "window": window_id, "journal": journal is not None},
                credit_messages=min(CREDIT, self._limits.queued_messages),
                credit_bytes=self._limits.queued_bytes,
            )
            core = ServerCore(
                local,
                self._random(),
                methods={each.name: each.info for each in self._methods},
                capacity=self._capacity,
                window=self._window,
                limits=self._limits,
                durable=journal is not None,
                rows=rows,
                make_upload=self._make_upload,
                looks_up=self._handling.inbox is not None,
            )
        except BaseException:
            self._close_inbox()
            if journal is not None:
                journal.close()
            raise
        return core, journal

    def _close_inbox(self) -> None:
        if self._handling.inbox is not None:
            self._handling.inbox.close()

    @property
    def _capacity(self) -> int:
        """How many executions may be in our hands: those that run, and the next ones, so that no thread waits."""
        most = 2 * self._threads
        return most + self._tasks if self._has_coroutines else most

    @property
    def _has_coroutines(self) -> bool:
        return any(each.asynchronous for each in self._methods)

    # ---- what is served ------------------------------------------------------------

    @overload
    def method(self, fn: F, /) -> F: ...
    @overload
    def method(
        self, /, *, name: str | None = None, idempotent: bool = False, concurrency: int | None = None,
        timeout: float | None = None,
    ) -> Callable[[F], F]: ...  # fmt: skip
    def method(
        self,
        fn: F | None = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        concurrency: int | None = None,
        timeout: float | None = None,
    ) -> F | Callable[[F], F]:
        """Serve a function; used as a decorator, it leaves the function as it is.

        What it returns is the caller's result; a generator streams what it yields. A parameter that is annotated as
        `Request` gets it. What it raises arrives as a `RemoteError`; `ServiceError` is for errors of your own.

        Args:
            name: under which it is called; None: its own name.
            idempotent: done twice it does no harm. So it is sent again, also to another server, when one is lost.
            concurrency: more of them at once are refused as overloaded; None: no limit of its own.
            timeout: seconds that it may take at most, whatever the caller would wait; None: no limit of its own. Its
                caller is then told so; a coroutine is cancelled, a function in a thread goes on until it ends.

        Raises:
            UsageError: the name is taken, or cannot be one; or the server is open already.
        """
        mark = Mark(name, idempotent, concurrency, timeout)

        def put(function: F) -> F:
            self._check_not_open()
            self._methods.decorate(function, mark)
            return function

        return put if fn is None else put(fn)

    def include(self, source: object, /, *, prefix: str = "") -> None:
        """Serve what is marked with `zmqkit.method` in an instance or a module, and nothing else of it.

        Args:
            source: the instance, or the module.
            prefix: goes before each name, as in "calc.".

        Raises:
            UsageError: nothing is marked there, a name is taken, or the server is open already.
        """
        self._check_not_open()
        self._methods.include(source, prefix)

    def _check_not_open(self) -> None:
        if self._driver is not None:
            raise UsageError(f"{self.name} is open, and told its clients what it serves: add methods before")

    # ---- one execution -------------------------------------------------------------

    def _runs_elsewhere(self, method: Method) -> bool:
        return not (
            self._pool is None
            or method.streams
            or method.asynchronous
            or method.wants_request
            or method.name.startswith(RESERVED)
        )

    def _tells_tracebacks(self, execution: Execution) -> bool:
        if self._tracebacks is not None:
            return self._tracebacks
        return bool(execution.peer_host) and execution.peer_host == hosts.host_id()

    def _finish(self, execution: Execution, answer: Answer) -> None:
        driver = self._driver
        if driver is not None:
            # Who handles takes the next call, or waits for one, and gives the core a turn: so answers share frames.
            # With a journal a thread of its own does that, and it is to be woken.
            hand_over = driver.post_taking if self._journal_path is None else driver.submit
            try:
                hand_over(self._core.finish, execution, answer)
            except UsageError:
                return  # closed: nobody is there to be told

    def _run(self, execution: Execution) -> None:
        """Execute a plain function or a generator here, in this thread, and answer."""
        self._executing[execution] = None
        ready: Ready | Answer | None = None
        try:
            method = self._methods.by_name[execution.method]
            ready = self._handling.prepare(execution, bind=self._pool is None or not self._runs_elsewhere(method))
            if isinstance(ready, Answer):
                self._finish(execution, ready)
                return
            watched = None
            if method.mark.timeout is not None and ready.until is not None:
                watched = self._watchdog.watch(
                    ready.until, lambda: self._finish(execution, self._handling.given_up(ready))
                )
            try:
                answer = self._execute(ready)
                self._finish(execution, answer if ready.effects is None else ready.effects.settle(answer))
            finally:
                if watched is not None:
                    self._watchdog.done(watched)
        except BaseException as error:
            # Nothing of the handler's comes here: it is ours, and the caller must not wait for it.
            log.exception("%s: answering %s()", self.name, execution.method)
            self._finish(execution, calls.Answer(calls.UNKNOWN, code="internal", message=type(error).__name__))
        finally:
            if ready is not None and not isinstance(ready, Answer) and ready.effects is not None:
                ready.effects.roll_back()  # nothing happens if they were settled
            del self._executing[execution]

    def _execute(self, ready: Ready) -> Answer:
        handling, method = self._handling, ready.method
        token = current_request.set(ready.request)
        try:
            if self._pool is not None and self._runs_elsewhere(method):
                return self._pool.run(method, ready.execution, handling, self._tells_tracebacks(ready.execution))
            value = method.call(*ready.args, **ready.kwargs)
            if method.streams:
                return self._stream(ready, value)
            return handling.result(ready, value)
        except BaseException as error:
            return self._failed(ready, error)
        finally:
            current_request.reset(token)

    def _failed(self, ready: Ready, error: BaseException) -> Answer:
        """What a handler raised; but where it waited for a stream and the server ended, that was not its own."""
        driver = self._driver
        if isinstance(error, Closed) and driver is not None and driver.ticket().done:  # nobody's: so it has ended
            return unknown("stopped", f"the server was closed while {ready.method.name}() ran")
        return self._handling.failed(ready, error)

    def _stream(self, ready: Ready, values: Iterator[Any]) -> Answer:
        driver = self._open_driver_or_end()
        emitter = Emitter(self._core, driver, ready.execution)
        try:
            for value in values:
                body = self._handling.item(ready, value)
                while emitter.wanted and not emitter.may_emit():
                    driver.wait(emitter.ticket())
                if not emitter.wanted:
                    return self._handling.given_up(ready)
                emitter.emit(body)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()
        return Answer(calls.DONE)

    def _open_driver_or_end(self) -> Driver:
        driver = self._driver
        if driver is None:
            raise Closed(f"{self.name} is closed")
        return driver

    # ---- uploads -------------------------------------------------------------------

    def _make_upload(self) -> Arrivals:
        return Arrivals(lambda: self._open_driver_or_end().ticket(), granted=0)

    def _wrap_upload(self, execution: Execution, method: Method) -> Any:
        arrivals: Arrivals = execution.upload
        kind = AsyncUpload if method.asynchronous else Upload
        return kind(self, execution, arrivals)

    # ---- the end -------------------------------------------------------------------

    def _loop_ended(self) -> None:
        """Nobody takes calls any more: let clients go elsewhere, and `run` return."""
        self._tell_soon(self._core.drain)
        self._refuse_waiting()
        self.stop()

    def _refuse_waiting(self) -> None:
        """What was handed out and not begun goes elsewhere."""
        driver = self._driver
        assert driver is not None
        for execution in driver.mailbox.take_many(len(driver.mailbox)):
            self._finish(execution, refused(CODE_DRAINING, "the server is being stopped"))

    def _leave_running(self, cancelled: int, since: float) -> None:
        """So many coroutines were cancelled, and what threads run still runs: say so, to their callers as well."""
        left = list(self._executing)
        count = cancelled + len(left)
        if count:
            log.warning(
                "%s: %d handlers still ran %.1f s after the stop; their callers are told that the outcome is unknown",
                self.name,
                count,
                time.monotonic() - since,
            )
        for execution in left:
            self._finish(execution, unknown("stopped", f"the server was stopped while {execution.method}() ran"))


class UploadBase:
    """The items of an argument that the caller uploads, as they come."""

    def __init__(self, server: ServerBase, execution: Execution, arrivals: Arrivals) -> None:
        self._server = server
        self._execution = execution
        self._arrivals = arrivals
        self._begun = False

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            driver, core, execution = self._server._open_driver_or_end(), self._server._core, self._execution
            self._arrivals.begin(lambda limit: driver.submit(core.grant_upload, execution, limit))

    def _look(self) -> tuple[bool, Any]:
        """(True, item), or (False, a ticket to wait for: None to look again). Raises `StopIteration` at the end."""
        self._begin()
        over = self._arrivals.answer  # looked at first: what came before it is here
        item = self._arrivals.next()
        if item is not None:
            return True, codecs.decode(item.body, item.codec, limits=self._server._limits)
        if over is None:
            return False, self._arrivals.wait_for()
        if over.kind == calls.DONE:
            raise StopIteration
        taken = self._arrivals.taken
        why = over.message or "the caller is gone"
        raise StreamBroken(
            f"the upload to {self._execution.method}() broke after {taken} items: {why}",
            request_id=self._execution.id or id_of(self._execution.client, self._execution.number),
            received=taken,
        )


class Upload(UploadBase, Iterator[Any]):
    """An upload for a function in a thread."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            found, value = self._look()
            if found:
                return value
            if value is not None:
                self._server._open_driver_or_end().wait(value)


class AsyncUpload(UploadBase, AsyncIterator[Any]):
    """An upload for a coroutine."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                found, value = self._look()
            except StopIteration:
                raise StopAsyncIteration from None
            if found:
                return value
            if value is not None:
                await self._server._open_driver_or_end().wait_async(value)


def _read_all(journal: SqliteJournal) -> list[Row]:
    rows: list[Row] = []
    first = 0
    while found := journal.read(Read(CALLS, first, (1 << 63) - 1, READ_BYTES)):
        rows += found
        first = found[-1].key + 1
    return rows
