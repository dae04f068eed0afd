"""Calling, as the sync and the async face share it: everything of a client that does not wait.

Knows the client's core and its verbs, codecs and the journal; no event loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Final, NamedTuple, Self

from zmqkit import checks
from zmqkit import codec as codecs
from zmqkit.errors import Closed, DecodeError, EncodeError, NoReplyInTime, UsageError
from zmqkit.journal import SqliteJournal
from zmqkit.patterns.reqrep.calls import RESULT, Answer, Call, Item
from zmqkit.patterns.reqrep.client import ClientCore
from zmqkit.patterns.reqrep.methods import check_name
from zmqkit.patterns.reqrep.outcomes import can_travel, interrupted, request_id, unread, value_of
from zmqkit.patterns.reqrep.request import current_request, inherited
from zmqkit.patterns.reqrep.rows import REQUESTS, read_request, unreadable
from zmqkit.patterns.reqrep.wire import MAX_ID
from zmqkit.peer.base import Common, PeerBase
from zmqkit.protocol.core import Read, Write
from zmqkit.transport.driver import Driver
from zmqkit.transport.tickets import Ticket

Headers = Mapping[str, str]
Path = str | PathLike[str]

TIMEOUT: Final = 10.0
"""Seconds, unless something else was said."""

MOST_SECONDS: Final = 1e9
"""Longer than this is without limit: thirty years."""

LOOK_AGAIN: Final = 0.2
"""Seconds after which who waits for results looks whether another has taken the last one: that wakes nobody."""


READ_BYTES: Final = 16 << 20
"""Rows are read from the journal in portions of so many bytes."""

NUMBERS_AN_OPENING: Final = 1 << 32
"""With a journal the client's key lives on, and so do its numbers: each opening sets so many of them apart."""


class _Unset:
    def __repr__(self) -> str:
        return "..."


UNSET: Final[Any] = _Unset()
"""Stands for an option that was not given."""


class Settings(NamedTuple):
    """How calls are made. The meanings are those of `Client.options`."""

    timeout: float | None = TIMEOUT
    retries: int | None = None
    request_id: str = ""
    headers: Mapping[str, str] | None = None
    durable: bool = False


Prepared = tuple[Call, Iterator[Any] | AsyncIterator[Any] | None]
"""A call before it is handed over, and what it uploads."""


class ClientBase(PeerBase):
    """A client without the waiting.

    What `options` returns shares all of this object but its settings: these stand in a slot, all else in the
    ``__dict__``, which both have.
    """

    __slots__ = ("_root", "_settings")

    _role: ClassVar[str] = "client"
    _accepts: ClassVar[frozenset[str]] = frozenset({"server"})
    _binds: ClassVar[bool] = False
    _latency: ClassVar[bool] = True
    _core: ClientCore
    _settings: Settings
    _root: ClientBase | None
    """Whose options these are; it opens, and lives as long as this one. None: its own."""

    def __init__(
        self, addresses: Sequence[str], timeout: float | None, retries: int | None, journal: Path | None, common: Common
    ) -> None:
        super().__init__(addresses, common)
        self._root = None
        self._settings = Settings(check_seconds(timeout), check_retries(retries))
        self._journal_path = checks.file_path("journal", journal) if journal is not None else None
        self._number: Callable[[], int] = itertools.count(1).__next__
        self._key = b""
        self._kept: list[Call] = []
        """What the journal held when it was opened."""
        self._unclaimed: dict[Call, None] = {}
        """Durable calls that are on their way and that nobody waits for: `results` brings them."""

    def _build(self) -> tuple[ClientCore, Any]:
        journal = None
        if self._journal_path is not None:
            journal = SqliteJournal(self._journal_path, logs=(REQUESTS,), kind="client", owner=self.name)
            try:
                first = journal.highest(REQUESTS) + 1
                mark = first + NUMBERS_AN_OPENING
                journal.commit([Write(REQUESTS, mark, 0, b""), Write(REQUESTS, mark, 0, None)])
                self._kept = _read_all(journal)
            except BaseException:
                journal.close()
                raise
            self._number = itertools.count(first).__next__
        local = self._local()
        self._key = bytes.fromhex(journal.uuid) if journal is not None else local.instance
        local = dataclasses.replace(local, about={"client": self._key})
        return ClientCore(local, self._random(), durable=journal is not None, limits=self._limits), journal

    def _start(self) -> None:
        if self._root is not None:
            self._root._start()
        else:
            super()._start()

    def __del__(self) -> None:
        if getattr(self, "_root", self) is None:  # else it is not all that there is of it
            super().__del__()

    def _set_up(self, driver: Driver) -> None:
        super()._set_up(driver)
        kept, self._kept = self._kept, []
        if kept:
            for call in kept:
                call.renumber = self._number
                self._unclaimed[call] = None
            driver.submit(self._core.resume, kept)

    # ---- making calls --------------------------------------------------------------

    def _prepare(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], items: int | None = None
    ) -> Prepared:
        """Encode the arguments and set up the call; nothing is handed over yet."""
        upload = None
        uploads: tuple[int | str, ...] = ()
        try:
            body = codecs.encode((args, kwargs), self._codec, limits=self._limits)
        except EncodeError as error:
            upload, uploads, args, kwargs = self._find_upload(method, args, kwargs, error)
            body = codecs.encode((args, kwargs), self._codec, limits=self._limits)
        if type(method) is not str or not 0 < len(method) <= 200 or not (method.isascii() or can_travel(method)):
            check_name(method)
        settings = self._settings
        timeout = settings.timeout
        deadline = None
        if not settings.durable:
            deadline = None if timeout is None else time.monotonic() + timeout
            if current_request.get() is not None:
                deadline = inherited(deadline)
        if self._driver is None:
            self._start()  # the numbers go on where those in the journal ended, and the key is the journal's
        number = self._number
        call = Call(
            number(),
            method,
            body,
            codec=self._codec,
            deadline=deadline,
            retries=settings.retries,
            request_id=settings.request_id,
            headers=settings.headers,
            items=items,
            uploads=uploads,
            durable=settings.durable,
            renumber=number,
        )
        if settings.durable:
            self._check_durable(items, uploads)
        return call, upload

    def _find_upload(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: EncodeError
    ) -> tuple[Any, tuple[int | str, ...], tuple[Any, ...], dict[str, Any]]:
        """Which argument is an iterator, and is uploaded; or say which one cannot travel."""
        places: list[int | str] = [at for at, each in enumerate(args) if isinstance(each, Iterator | AsyncIterator)]
        places += [name for name, each in kwargs.items() if isinstance(each, Iterator | AsyncIterator)]
        if len(places) > 1:
            raise UsageError(
                f"{method}() was given {len(places)} iterators, and one argument can be uploaded"
            ) from None
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for place, each in named:
            if place in places:
                continue
            try:
                codecs.encode(each, self._codec, limits=self._limits)
            except EncodeError as fault:
                which = f"argument {place + 1}" if isinstance(place, int) else f"argument {place!r}"
                raise EncodeError(f"{which} of {method}() cannot travel: {fault}") from error
        if not places:
            raise error
        place = places[0]
        if isinstance(place, int):
            return args[place], (place,), (*args[:place], None, *args[place + 1 :]), kwargs
        return kwargs[place], (place,), args, {**kwargs, place: None}

    def _check_durable(self, items: int | None, uploads: tuple[int | str, ...]) -> None:
        if self._journal_path is None:
            raise UsageError("options(durable=True) needs a journal: Client(..., journal=PATH)")
        if items is not None or uploads:
            raise UsageError("a stream cannot be durable: options(durable=True) is for calls with one reply")

    def _value(self, answer: Answer, call: Call) -> Any:
        if answer.kind == RESULT and answer.codec == "msgpack":
            try:
                return codecs.decode(answer.body, limits=self._limits)
            except DecodeError as error:
                raise unread(call, "its result", error) from error
        return value_of(answer, call, self._key, self._limits)

    def _item(self, item: Item, call: Call) -> Any:
        try:
            return codecs.decode(item.body, item.codec, limits=self._limits)
        except DecodeError as error:
            self._tell_soon(self._core.cancel, call)
            raise unread(call, "an item of its stream", error) from error

    def _leave(self, error: BaseException, call: Call, driver: Driver) -> None:
        """Waiting for this call was left with an error: nobody waits. Raises if it says nothing of the call."""
        if call.durable:
            self._unclaimed[call] = None
            self._tell_soon(self._core.abandon, call, call.ticket)
        else:
            self._tell_soon(self._core.cancel, call)
        if isinstance(error, Closed) or error is driver.failure:
            raise interrupted(error, call, self._key) from error

    def _patience(self, call: Call) -> float | None:
        """Until when to wait for a durable call, which itself has no deadline."""
        timeout = self._settings.timeout
        return inherited(None if timeout is None else time.monotonic() + timeout)

    def _claimed(self, item: tuple[Call, Answer]) -> tuple[Call, Any]:
        """An outcome that nobody waited for: the call, and a ticket that is resolved with it."""
        call, answer = item
        self._unclaimed.pop(call, None)
        ticket = self._open_driver.ticket()
        ticket.resolve(answer)
        return call, ticket

    def _not_yet(self, call: Call) -> NoReplyInTime:
        return NoReplyInTime(
            f"{call.method}() has no answer yet. It is in the journal and goes on, also after a restart: results() "
            f"brings its answer",
            request_id=self._request_id(call),
        )

    def _request_id(self, call: Call) -> str:
        return request_id(call, self._key)

    def _tell_now(self, verb: Callable[..., None], *args: Any) -> None:
        """Hand a verb to the core that somebody else waits for; if the client has ended, there is nothing to tell."""
        if self._driver is not None:
            with contextlib.suppress(Exception):
                self._driver.submit(verb, *args)

    def _encode_item(self, item: object) -> tuple[bytes, str]:
        return codecs.encode(item, self._codec, limits=self._limits), self._codec

    # ---- other settings over the same connection ---------------------------------------

    def options(
        self,
        *,
        timeout: float | None = UNSET,
        retries: int | None = UNSET,
        request_id: str = UNSET,
        headers: Headers = UNSET,
        durable: bool = UNSET,
    ) -> Self:
        """The same client with other settings for its calls. It costs next to nothing, and shares the connection:
        closing either closes both.

        Args:
            timeout: seconds that a call, or a whole stream, may take; None: no limit. Within a handler the time that
                its own caller has left bounds it as well.
            retries: how often a call may be sent again where that is safe; 0: never; None: as often as time allows.
            request_id: an id of your own. A call that bears the id of an earlier one gets the answer of that one, for
                as long as the server remembers it. Make it before the first try, and keep it.
            headers: text to text, for the handler; see `Request.headers`.
            durable: keep the call in the journal until its outcome is known, also across restarts. Such a call is
                not given up when its time runs out: `results` brings its answer.
        """
        found = self._settings
        if timeout is not UNSET:
            found = found._replace(timeout=check_seconds(timeout))
        if retries is not UNSET:
            found = found._replace(retries=check_retries(retries))
        if request_id is not UNSET:
            found = found._replace(request_id=_check_id(request_id))
        if headers is not UNSET:
            found = found._replace(
                headers=None if headers is None else codecs.check_headers(headers, "arguments") or None
            )
        if durable is not UNSET:
            if not isinstance(durable, bool):
                raise TypeError(f"durable must be True or False, got {durable!r}")
            if durable and self._journal_path is None:
                raise UsageError("options(durable=True) needs a journal: Client(..., journal=PATH)")
            found = found._replace(durable=durable)
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__
        twin._settings = found
        twin._root = self._root or self
        return twin


class Feed:
    """An upload, without the waiting: encodes items, and keeps to the limit that the server gave.

    Attributes:
        sent: how many items were handed over.
    """

    __slots__ = ("_client", "_waiting", "call", "sent")

    def __init__(self, client: ClientBase, call: Call) -> None:
        self._client = client
        self.call = call
        self.sent = 0

    @property
    def over(self) -> bool:
        """The call was answered: nobody wants more."""
        return self.call.done

    def may_send(self) -> bool:
        """Whether the server takes one more now."""
        return self.sent < self.call.upload_limit

    def ticket(self) -> Any:
        """What to wait for until it does, or the call is over."""
        client = self._client
        ticket = client._open_driver.ticket()
        client._open_driver.submit(client._core.await_upload, self.call, self.sent, ticket)
        return ticket

    def send(self, items: Iterable[object]) -> None:
        """Hand over items. Raises `EncodeError`."""
        client = self._client
        bodies = [client._encode_item(each) for each in items]
        self.sent += len(bodies)
        client._open_driver.submit(client._core.upload, self.call, bodies)

    def end(self) -> None:
        """That was all."""
        client = self._client
        client._tell_now(client._core.upload_end, self.call)

    def abort(self, error: BaseException) -> None:
        """There will be no end: the iterator raised."""
        client = self._client
        reason = f"{type(error).__name__}: {error}"[:1000]
        client._tell_now(client._core.upload_abort, self.call, reason.encode("utf-8", "backslashreplace").decode())
        client._tell_now(client._core.cancel, self.call)


def answered(ticket: Ticket, now: float) -> None:
    """A verb that does nothing: when its ticket is resolved, all that was handed over before it is done."""
    ticket.resolve(None)


def _read_all(journal: SqliteJournal) -> list[Call]:
    found: list[Call] = []
    first = 0
    try:
        while rows := journal.read(Read(REQUESTS, first, (1 << 63) - 1, READ_BYTES)):
            found += map(read_request, rows)
            first = rows[-1].key + 1
    except DecodeError as error:
        raise unreadable(error) from error
    return found


def check_seconds(timeout: float | None) -> float | None:
    """Raises for what is no number of seconds."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, or None, got {timeout!r}")
    if timeout != timeout:
        raise ValueError(f"timeout must be a number of seconds, or None, got {timeout!r}")
    return None if timeout > MOST_SECONDS else float(max(timeout, -1.0))


def check_retries(retries: int | None) -> int | None:
    """Raises for what is no number of retries."""
    if retries is not None and (type(retries) is not int or retries < 0):
        raise ValueError(f"retries must be a whole number of 0 or more, or None, got {retries!r}")
    return retries


def _check_id(request_id: str) -> str:
    if not isinstance(request_id, str):
        raise TypeError(f"request_id is text, got {request_id!r}")
    if not 1 <= len(request_id) <= MAX_ID:
        raise ValueError(f"request_id has 1 to {MAX_ID} characters, got {len(request_id)}")
    if not can_travel(request_id):
        raise ValueError(f"request_id must be text that can be encoded, got {request_id[:60]!r}")
    return request_id
