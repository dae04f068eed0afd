"""The outbox: messages that are sent if and only if a transaction of the user's is committed.

They are written down in the user's own database, and a thread moves them to the journal once they are committed there.
Knows the pusher without the waiting, and the inbox's files; no core.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Final

from zmqkit import codec as codecs
from zmqkit.errors import Closed, JournalBusy, JournalDamaged, JournalError, UsageError, WaitTimeout, ZmqkitError
from zmqkit.inbox import Connection
from zmqkit.inbox import outbox as files
from zmqkit.inbox.connections import BUSY_SECONDS
from zmqkit.inbox.outbox import OutboxFile, Outgone
from zmqkit.patterns.pipeline.effects import PAUSES
from zmqkit.patterns.pipeline.outgoing import NOTHING, Headers, Wanted, asked, plan_of, wanted
from zmqkit.patterns.pipeline.rows import Pack
from zmqkit.patterns.pipeline.wire import MAX_CODEC, MAX_SENT_AT
from zmqkit.peer.base import deadline_of, left_of
from zmqkit.transport.tickets import Ticket, WaitExpired, wait

log = logging.getLogger("zmqkit.pipeline")

PACK_BYTES: Final = 1 << 20
REMOVE_AFTER: Final = 5_000
"""While more waits, so many messages that the journal has are removed together."""
SHORTEST: Final = 0.005
LONGEST: Final = 1.0
"""Seconds between two looks whether a transaction that is not ours was committed; and after a failure."""


class Outbox:
    """Sends within a transaction.

    Attributes:
        connection: in whose transaction the messages are written down.
    """

    def __init__(self, pusher: Any, connection: Connection, path: str) -> None:
        self.connection = connection
        self._pusher = pusher
        self._path = path
        self._open = True
        self._sent_at = time.time_ns() // 1000
        """The same for all: they go to the journal together."""

    def send(
        self,
        body: object,
        /,
        *,
        id: str | None = None,
        key: str | None = None,
        priority: int = 0,
        delay: float | None = None,
        ttl: float | None = None,
        headers: Headers | None = None,
    ) -> str:
        """Write a message down. It is sent if and only if the transaction is committed. Returns its id.

        Args:
            body: what the codec takes.
            id, key, priority, delay, ttl, headers: as of `zmqkit.Pusher.send`; times count from now.

        Raises:
            EncodeError: it cannot travel.
            TypeError, ValueError: an argument is not what it should be.
            UsageError: the block is over.
            JournalError: the database cannot be written; the subclass and the message say why.
        """
        if not self._open:
            raise UsageError("this transaction has ended")
        pusher = self._pusher
        found = asked(id, key, priority, delay, ttl, headers)
        codec = pusher._codec
        data = codecs.encode(body, codec, limits=pusher._limits)
        uuid = pusher._journal.uuid
        name = found.id or f"{uuid[:16]}-{os.urandom(12).hex()}"
        message = Outgone(0, name, codec, self._sent_at, _options(found, time.time()), data)
        files.put(self.connection, self._path, uuid, message)
        return name


class OutboxTransaction:
    """What ``with push.transaction(db) as outbox:`` enters; with `zmqkit.aio` it is ``async with``."""

    def __init__(self, pusher: Any, db: Any, *, waits: bool) -> None:
        if pusher._plain:
            raise UsageError("plain=True keeps no ids, by which a message that is sent once more could be known")
        if pusher._journal_path is None:
            raise UsageError("push.transaction() needs a pusher with journal=: messages go there from the database")
        if not isinstance(db, (Connection, str, PathLike)):
            raise UsageError(
                f"push.transaction() takes a sqlite3.Connection, or the path of an SQLite file, got {type(db).__name__}"
            )
        if isinstance(db, (str, PathLike)) and os.fspath(db) in ("", ":memory:"):
            raise UsageError("messages in a database in memory could not be found again: give a file")
        self._pusher = pusher
        self._db = db
        self._waits = waits
        self._outbox: Outbox | None = None
        self._ours = False
        """It is for us to commit: nothing was open there before."""

    def _connect(self) -> tuple[Connection, str]:
        if self._outbox is not None:
            raise UsageError("this transaction was entered before: make a new one")
        db = self._db
        connection = db if isinstance(db, Connection) else files.connect(db)
        try:
            path = files.file_of(connection)
            self._pusher._outbox_relay().add(path)
        except BaseException:
            self._let_go(connection)
            raise
        return connection, path

    def _let_go(self, connection: Connection) -> None:
        if connection is not self._db:
            connection.close()

    def _try_begin(self, connection: Connection, path: str, *, wait: bool) -> bool:
        begun = False
        try:
            self._ours = not files.is_open(connection)
            if self._ours and not files.begin(connection, path, wait=wait):
                return False
            begun = True
            files.make_table(connection, path)
            self._outbox = Outbox(self._pusher, connection, path)
            return True
        except BaseException:
            if begun and self._ours:
                files.roll_back(connection)
            self._let_go(connection)
            raise

    def _end(self) -> Outbox:
        outbox = self._outbox
        assert outbox is not None  # it was entered
        outbox._open = False
        return outbox

    def _commit(self, outbox: Outbox) -> None:
        connection = outbox.connection
        if not self._ours:
            self._pusher._outbox_relay().expect(connection)
            return
        try:
            if not files.is_open(connection):
                raise UsageError(files.ENDED)
            files.commit(connection, outbox._path)
        finally:
            self._let_go(connection)
        self._pusher._outbox_relay().hurry()

    def _abandon(self, outbox: Outbox) -> None:
        if self._ours:
            files.roll_back(outbox.connection)
            self._let_go(outbox.connection)
        else:
            # Its owner decides, and may commit all the same.
            self._pusher._outbox_relay().expect(outbox.connection)

    def __enter__(self) -> Outbox:
        if not self._waits:
            raise UsageError("to wait for the database would stop the loop: say `async with`")
        self._pusher._start()
        self._try_begin(*self._connect(), wait=True)
        assert self._outbox is not None  # it waited
        return self._outbox

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        outbox = self._end()
        if t is not None:
            self._abandon(outbox)
        else:
            self._commit(outbox)

    async def __aenter__(self) -> Outbox:
        if self._waits:
            return self.__enter__()
        import anyio  # the sync face does without

        await self._pusher._start_async()
        connection, path = self._connect()
        deadline = time.monotonic() + BUSY_SECONDS
        tries = 0
        while not self._try_begin(connection, path, wait=False):
            try:
                if time.monotonic() > deadline:
                    raise JournalBusy(f"others write to {path} for longer than {BUSY_SECONDS:.0f} s")
                await anyio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            except BaseException:
                self._let_go(connection)
                raise
            tries += 1
        assert self._outbox is not None
        return self._outbox

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        if t is not None or self._waits or not self._ours:
            self.__exit__(t, v, tb)
            return
        from zmqkit.peer.aio import to_the_end

        await to_the_end(self._commit_async, self._end())  # not to be cancelled halfway

    async def _commit_async(self, outbox: Outbox) -> None:
        from zmqkit.peer.aio import in_thread

        if not await in_thread(self._commit_elsewhere, outbox):
            self._commit(outbox)

    def _commit_elsewhere(self, outbox: Outbox) -> bool:
        """In a worker thread: a sync takes its time. False: the user's connection is tied to its thread."""
        if not files.moves(outbox.connection):
            return False
        self._commit(outbox)
        return True


class Relay:
    """Moves committed messages to the journal, in a thread of its own.

    Args:
        pusher: whose journal; not kept alive.
        journal: its path.
        uuid: the journal's.
    """

    def __init__(self, pusher: Any, journal: str, uuid: str) -> None:
        self._wake = threading.Event()
        self._pusher = weakref.ref(pusher, lambda _: self._wake.set())
        self._journal = journal
        self._uuid = uuid
        self._lock = threading.Lock()
        self._files = {path: OutboxFile(path, uuid) for path in files.files_beside(journal)}
        self._expected: list[Connection] = []
        self._asked = 0
        """How often somebody wanted a pass..."""
        self._passed = 0
        """...and up to which of these one was made, and found nothing left."""
        self._told = threading.Condition(self._lock)
        self._ending = False
        self._thread: threading.Thread | None = None
        self.trouble: ZmqkitError | None = None
        """Why the last pass has left messages where they were; None: it has not."""
        if self._files:
            self.hurry()

    def add(self, path: str) -> None:
        """Messages may wait in this file from now on."""
        with self._lock:
            if path in self._files:
                return
            try:
                files.remember_files(self._journal, [*self._files, path])
            except OSError as error:
                raise JournalError(f"{self._journal}-outboxes cannot be written: {error}") from error
            self._files[path] = OutboxFile(path, self._uuid)

    def hurry(self) -> None:
        """Something was committed."""
        with self._lock:
            self._asked += 1
            self._begin()
        self._wake.set()

    def expect(self, connection: Connection) -> None:
        """Something will be committed there, or rolled back."""
        with self._lock:
            self._expected.append(connection)
        self.hurry()

    def drain(self, seconds: float | None) -> bool:
        """Wait until all that was committed before is in the journal; so long at most. False: it is not."""
        if self._thread is None:
            return True
        self.hurry()
        most = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        with self._told:
            asked = self._asked
            return self._told.wait_for(lambda: self._passed >= asked or self._ending, most) and not self._ending

    def flush(self, seconds: float | None) -> float | None:
        """`drain`, and return the seconds left. Raises `WaitTimeout` if something is left behind, `Closed`."""
        deadline = deadline_of(seconds)
        if not self.drain(seconds):
            if self._ending:
                raise Closed("the pusher was closed; what is left in an outbox is sent by the next opening")
            why = "" if self.trouble is None else f": {self.trouble}"
            raise WaitTimeout(f"messages of an outbox are not in the journal after {seconds} s{why}")
        return left_of(deadline)

    def end(self) -> None:
        """Stop; what is left waits for the next opening."""
        with self._told:
            self._ending = True
            self._told.notify_all()
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # ---- the thread ------------------------------------------------------------------

    def _begin(self) -> None:
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._run, name="zmqkit outbox", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._go_round()
        finally:
            for each in self._files.values():
                each.close()
            with self._told:
                self._ending = True
                self._told.notify_all()

    def _go_round(self) -> None:
        pause: float | None = 0.0
        while not self._ending and self._pusher() is not None:
            if pause is None or pause > 0:
                self._wake.wait(pause)
            self._wake.clear()
            with self._lock:
                asked, waiting = self._asked, list(self._files.values())
                # First who is open, then what is committed: nothing can fall in between.
                self._expected = [each for each in self._expected if files.is_open(each)]
                expecting = bool(self._expected)
            before = pause
            try:
                moved, trouble = self._pass(waiting)
            except (Closed, ReferenceError):
                return
            if trouble is not None:
                if self._ending:
                    return
                self._tell(trouble)
                pause = LONGEST
                continue
            self.trouble = None
            with self._told:
                self._passed = asked
                self._told.notify_all()
            pause = None
            if moved:
                pause = SHORTEST
            elif expecting:
                pause = min(2 * (before or SHORTEST / 2), LONGEST)
            if self._asked != asked:
                pause = 0.0

    def _tell(self, trouble: ZmqkitError) -> None:
        """Say it, once; it is tried again and again."""
        if self.trouble is None or str(self.trouble) != str(trouble):
            log.warning("messages of an outbox are not in the journal yet: %s", trouble)
        self.trouble = trouble

    def _pass(self, waiting: Sequence[OutboxFile]) -> tuple[int, ZmqkitError | None]:
        """Look at each file, whatever is wrong with others. Returns how many messages moved, and what went wrong."""
        moved, trouble = 0, None
        for each in waiting:
            try:
                moved += self._move(each)
            except (Closed, ReferenceError):
                raise
            except ZmqkitError as error:
                trouble = trouble or error
        return moved, trouble

    def _move(self, file: OutboxFile) -> int:
        """All that waits in one file. Returns how many messages."""
        count, after = 0, 0
        done: list[Outgone] = []
        try:
            while not self._ending and (messages := file.read(after)):
                stored, error = self._hand_over(messages)
                count += len(stored)
                done += [each._replace(body=b"") for each in stored]
                if error is not None:
                    raise error
                after = stored[-1].n
                # To remove them is to wait for whoever writes there: not for each thousand while more comes in.
                if len(done) >= REMOVE_AFTER:
                    removed, done = done, []
                    file.remove(removed)
        finally:
            # From the journal's commit up to here a crash leaves both: it is sent once more, under the same ids.
            if done:
                file.remove(done)
        return count

    def _hand_over(self, messages: Sequence[Outgone]) -> tuple[list[Outgone], ZmqkitError | None]:
        """Give messages to the journal, and wait. Returns those that it has then, and why it has not the others."""
        pusher = self._pusher()
        if pusher is None:
            raise Closed("the pusher is gone")
        packs = packs_of(messages)
        tickets = [pusher._relay_pack(pack) for pack in packs]
        stored: list[Outgone] = []
        failed: ZmqkitError | None = None
        first = 0
        for at, pack in enumerate(packs):
            error = self._await(pusher, tickets[at:])
            if error is None:
                stored += messages[first : first + len(pack)]
            failed = failed or error
            first += len(pack)
        return stored, failed

    def _await(self, pusher: Any, tickets: Sequence[Ticket]) -> ZmqkitError | None:
        """Wait for the first of these. Returns why it was not stored; None: it was."""
        while True:
            try:
                wait(tickets[0], LONGEST)
                return None
            except WaitExpired:
                if self._ending:  # there is no room, and nobody waits for it any more
                    for ticket in reversed(tickets):
                        pusher._withdraw_soon(ticket)
                    return Closed("the pusher was closed before it had room")
            except ZmqkitError as error:
                return error


# ---- as rows, and back -----------------------------------------------------------------


def _options(found: Wanted, now: float) -> dict[str, Any]:
    """What a message has besides its body, with wall times instead of spans."""
    if found is NOTHING:
        return {}
    every = {
        "once": found.id is not None,
        "key": found.key,
        "priority": found.priority,
        "due": now + found.delay if found.delay else None,
        "expires": now + found.ttl if found.ttl else None,
        "headers": found.headers,
    }
    return {name: value for name, value in every.items() if value}


def _read(message: Outgone, now: float) -> Wanted:
    """Back from there. What is in the past already is due, or expires, at once. Raises what `wanted` raises."""
    options = message.options
    due, expires = options.get("due"), options.get("expires")
    if not 1 <= len(message.codec) <= MAX_CODEC:
        raise ValueError(f"codec must have 1 to {MAX_CODEC} characters, got {len(message.codec)}")
    if not 0 <= message.sent_at <= MAX_SENT_AT:
        raise ValueError(f"sent_at must be microseconds since 1970, got {message.sent_at}")
    return wanted(
        message.id,
        options.get("key"),
        options.get("priority", 0),
        None if due is None else max(due - now, 0.0),
        None if expires is None else max(expires - now, 1e-6),
        options.get("headers"),
    )


def packs_of(messages: Sequence[Outgone]) -> list[Pack]:
    """Messages as the core takes them: neighbours of one transaction together; up to one that is none.

    Raises `JournalDamaged` if that is the first.
    """
    packs: list[Pack] = []
    group: list[tuple[Outgone, Wanted]] = []
    size = 0
    before: object = None
    now = time.time()
    for each in messages:
        try:
            found = _read(each, now)
        except (TypeError, ValueError, ZmqkitError) as error:
            if before is not None:
                break  # these first
            raise JournalDamaged(
                f"the outbox has a row that is none, number {each.n}: {error}. Mend or delete it; what stands "
                "behind it waits"
            ) from error
        alike = (each.codec, each.sent_at, found.priority, each.options.get("due"), each.options.get("expires"))
        if group and (alike != before or size + len(each.body) > PACK_BYTES):
            packs.append(_pack(group))
            group, size = [], 0
        before = alike
        group.append((each, found))
        size += len(each.body)
    if group:
        packs.append(_pack(group))
    return packs


def _pack(group: list[tuple[Outgone, Wanted]]) -> Pack:
    first, its = group[0]
    keys = {at: found.key for at, (_, found) in enumerate(group) if found.key is not None}
    return Pack(
        first.codec,
        first.sent_at,
        [len(each.body) for each, _ in group],
        b"".join(each.body for each, _ in group),
        {at: each.id for at, (each, _) in enumerate(group)},
        {at: found.headers for at, (_, found) in enumerate(group) if found.headers},
        dated=True,
        plan=plan_of(keys, its, any(each.options.get("once") for each, _ in group)),
    )
