"""One execution, from its bytes to its answer: arguments are bound, results encoded, exceptions told.

Shared by threads and tasks: nothing here waits, and nothing calls the handler.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import sys
import time
import traceback as tracebacks
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from zmqkit import codec as codecs
from zmqkit.errors import DecodeError, EncodeError, JournalError, RemoteError, ServiceError
from zmqkit.inbox import Inbox
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.effects import Effects
from zmqkit.patterns.reqrep.methods import Method, Methods
from zmqkit.patterns.reqrep.outcomes import (
    CODE_ARGUMENTS,
    CODE_CANCELLED,
    CODE_LATE,
    CODE_METHOD,
    CODE_TIMEOUT,
    clean,
    failure,
    refused,
    unknown,
)
from zmqkit.patterns.reqrep.request import Request

log = logging.getLogger("zmqkit.reqrep")

MUTE = "zmqkit.patterns.reqrep"
"""Frames of ours are of no use in a traceback that travels."""


_new = tuple.__new__
"""Past the constructors of named tuples, which are Python functions; where each call comes."""

MAX_SHOWN: Final = 50_000
"""Characters of a traceback in the log; of what is longer, the beginning and the end."""


class Ready(NamedTuple):
    """What is needed to call the handler."""

    execution: Execution
    method: Method
    request: Request
    args: list[Any]
    kwargs: dict[str, Any]
    until: float | None
    """When it must be done, on the monotonic clock."""
    effects: Effects | None
    """On the server's inbox, if it has one."""


class Handling:
    """Makes executions ready, and answers of what came of them.

    Args:
        methods: what is served.
        codec: of results.
        limits: of what is decoded and encoded.
        tells: whether tracebacks may travel to the caller of an execution.
        wrap: makes the iterator that the handler gets of an upload: ``wrap(execution, method)``.
    """

    def __init__(
        self,
        methods: Methods,
        codec: str,
        limits: Limits,
        tells: Callable[[Execution], bool],
        wrap: Callable[[Execution, Method], Any],
    ) -> None:
        self.methods = methods
        self.codec = codec
        self.limits = limits
        self._tells = tells
        self._wrap = wrap
        self.inbox: Inbox | None = None
        """Set when the server opens."""

    def prepare(self, execution: Execution, *, bind: bool = True) -> Ready | Answer:
        """What to call with what; or an answer at once, before anything was executed.

        Args:
            execution: what to execute.
            bind: look at the arguments; not where another process does.
        """
        method = self.methods.by_name[execution.method]
        effects = None
        if self.inbox is not None:
            effects = Effects(self.inbox, execution, self.limits)
            try:
                known = effects.recall()
            except JournalError as error:
                return unknown("inbox", f"whether it was done before cannot be looked up: {error}")
            if known is not None:
                return known
        until = execution.deadline
        timeout = method.mark.timeout
        if timeout is not None or until is not None:
            now = time.monotonic()
            if until is not None and until <= now:
                return refused(CODE_LATE, "its time was over before it could be started")
            if timeout is not None:
                until = now + timeout if until is None else min(until, now + timeout)
        if execution.cancelled:
            return refused(CODE_CANCELLED, "it was cancelled before it was started")
        if execution.only_look_up:
            return unknown("started", "it was started before the server ended, and its outcome is not known")
        if method.streams is not (execution.items is not None):
            return self._wrong_verb(execution, method)
        request = Request(execution, until, effects, waits=not method.asynchronous)
        if not bind:
            return Ready(execution, method, request, [], {}, until, effects)
        try:
            given = codecs.decode(execution.body, execution.codec, limits=self.limits)
            execution.body = b""  # it may be large
            if type(given) is list and len(given) == 2 and type(given[0]) is list and given[1] == {}:
                args, kwargs = given  # the usual case of what `_arguments` takes
                if execution.uploads:
                    args, kwargs = self._arguments(execution, method, given)
            else:
                args, kwargs = self._arguments(execution, method, given)
            if method.wants_request or method.stub is None:
                args, kwargs = method.bind(args, kwargs, request)
            else:
                method.stub(*args, **kwargs)
        except (DecodeError, TypeError) as error:
            return refused(CODE_ARGUMENTS, str(error))
        return _new(Ready, (execution, method, request, args, kwargs, until, effects))

    def _arguments(self, execution: Execution, method: Method, given: Any) -> tuple[list[Any], dict[str, Any]]:
        try:
            args, kwargs = given
        except (TypeError, ValueError):
            args = None
        if type(args) is not list or type(kwargs) is not dict:
            raise TypeError("arguments are a list of two: a list, and a map of those given by name")
        if kwargs and not all(type(name) is str for name in kwargs):
            raise TypeError(f"{method.name}() keywords must be strings")
        for place in execution.uploads:
            if isinstance(place, int) and 0 <= place < len(args):
                args[place] = self._wrap(execution, method)
            elif isinstance(place, str) and place in kwargs:
                kwargs[place] = self._wrap(execution, method)
            else:
                raise TypeError(f"{method.name}() was given an upload that is none of its arguments")
        return args, kwargs

    def _wrong_verb(self, execution: Execution, method: Method) -> Answer:
        name = method.name
        if execution.plain is not None:
            return refused(CODE_METHOD, f"{name}() gives a stream, which takes a client of zmqkit's")
        if method.streams:
            return refused(CODE_ARGUMENTS, f"{name}() yields many values: take them with client.stream({name!r}, ...)")
        return refused(CODE_ARGUMENTS, f"{name}() returns one value: get it with client.call({name!r}, ...)")

    # ---- what came of it -----------------------------------------------------------

    def result(self, ready: Ready, value: object) -> Answer:
        """The answer of a handler that returned. One that cannot travel is an ERROR, which says so."""
        codec = "msgpack" if ready.execution.plain is not None else self.codec
        try:
            body = codecs.encode(value, codec, limits=self.limits)
            return _new(Answer, (calls.RESULT, body, codec, "", "", "", None))
        except EncodeError as error:
            if inspect.iscoroutine(value):
                value.close()  # nobody will ever await it
            return self._cannot_travel(ready, "the result", error)

    @staticmethod
    def settled(ready: Ready, answer: Answer) -> Answer:
        """Commit the handler's effects with its answer, or roll them back. Returns what to answer in fact."""
        return answer if ready.effects is None else ready.effects.settle(answer)

    def item(self, ready: Ready, value: object) -> tuple[bytes, str]:
        """One item of a stream. Raises `_Unsendable`."""
        try:
            return codecs.encode(value, self.codec, limits=self.limits), self.codec
        except EncodeError as error:
            raise Unsendable(self._cannot_travel(ready, "an item", error)) from error

    def _cannot_travel(self, ready: Ready, what: str, error: EncodeError) -> Answer:
        words = f"{ready.method.name}() was executed, but {what} cannot travel: {error}"
        log.warning("%s", words)
        return failure("EncodeError", words, limits=self.limits)

    def failed(self, ready: Ready, error: BaseException) -> Answer:
        """The answer of a handler that raised, whatever it raised."""
        if isinstance(error, Unsendable):
            return error.answer
        name = ready.method.name
        if isinstance(error, ServiceError):
            log.debug("%s() answers with an error: %s", name, error)
            return failure("ServiceError", error.message, code=error.code, data=error.data, limits=self.limits)
        over = ready.execution.cancelled or (ready.until is not None and time.monotonic() >= ready.until)
        if over and isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
            return self.given_up(ready)  # it looked whether anybody still waits, as it should
        if ready.execution.cancelled:
            log.debug("%s() ended after it was cancelled: %s", name, type(error).__name__)
        else:
            log.warning("%s() raised:\n%s", name, shown(error))
        try:
            message = str(error)
        except BaseException as another:  # its __str__ is the handler's code as well
            message = f"(it has no text: {type(another).__name__})"
        return failure(
            type(error).__name__,
            message,
            code=error.code if isinstance(error, RemoteError) else None,
            traceback=shown(error) if self._tells(ready.execution) else None,
            limits=self.limits,
        )

    def given_up(self, ready: Ready) -> Answer:
        """The answer of a handler that was cancelled midway, or that takes longer than it may."""
        name, mark = ready.method.name, ready.method.mark
        if ready.execution.cancelled:
            return unknown("cancelled", f"{name}() was cancelled while it ran")
        if ready.until is None or time.monotonic() < ready.until:
            return unknown("stopped", f"the server was stopped while {name}() ran")
        deadline = ready.execution.deadline
        if mark.timeout is None or (deadline is not None and ready.until == deadline):
            return unknown(CODE_TIMEOUT, f"the caller's time was over while {name}() ran")
        return unknown(CODE_TIMEOUT, f"{name}() took longer than the {mark.timeout} s that the server gives it")


class Unsendable(Exception):
    """An item of a stream cannot travel; holds the answer that says so."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Emitter:
    """A stream's way out, without the waiting.

    Args:
        core: the server's.
        driver: its driver.
        ready: whose stream it is.
    """

    __slots__ = ("_core", "_driver", "_execution", "sent")

    def __init__(self, core: Any, driver: Any, execution: Execution) -> None:
        self._core = core
        self._driver = driver
        self._execution = execution
        self.sent = 0

    @property
    def wanted(self) -> bool:
        """Somebody still takes what is emitted."""
        return not self._execution.cancelled

    def may_emit(self) -> bool:
        """Whether the caller takes one more now."""
        return self.sent < self._execution.limit

    def ticket(self) -> Any:
        """What to wait for until he does, or wants no more."""
        ticket = self._driver.ticket()
        self._driver.submit(self._core.await_limit, self._execution, self.sent, ticket)
        return ticket

    def emit(self, body: tuple[bytes, str]) -> None:
        """Hand over one item."""
        self.sent += 1
        self._driver.submit(self._core.emit, self._execution, [body])


def shown(error: BaseException) -> str:
    """The traceback as text, without our own frames at its beginning."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(MUTE):
        trace = trace.tb_next
    try:
        text = "".join(tracebacks.format_exception(type(error), error, trace))
        if len(text) > MAX_SHOWN:
            text = f"{text[: MAX_SHOWN // 2]}\n... {len(text) - MAX_SHOWN} characters ...\n{text[-MAX_SHOWN // 2 :]}"
        # As a log and a frame can carry it: what an exception says may hold halves of surrogate pairs.
        return clean(text, sys.maxsize)
    except Exception:
        return "(its traceback cannot be shown)"
