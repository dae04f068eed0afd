"""Effects once: what a handler changes in the user's database, and its reply, in one commit.

Knows the inbox; no core, no event loop. A transaction that a handler begins is committed when the handler has returned,
with the reply beside the effects: so whoever asks again is given that reply, also after a crash.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import anyio

from zmqkit.errors import CommitIndeterminate, DecodeError, Duplicate, JournalDamaged, JournalError, UsageError
from zmqkit.inbox import Connection, Inbox
from zmqkit.inbox import Transaction as Commit
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.outcomes import CODE_ID, failure, id_of, refused, unknown
from zmqkit.protocol import wire

PAUSES: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Seconds between two looks of a coroutine whether the inbox is free."""


class Effects:
    """The effects of one execution, and what the inbox knows of it.

    Args:
        inbox: the server's.
        execution: whose effects.
        limits: of what is encoded.
    """

    __slots__ = ("_commit", "_execution", "_inbox", "_known", "_limits")

    def __init__(self, inbox: Inbox, execution: Execution, limits: Limits) -> None:
        self._inbox = inbox
        self._execution = execution
        self._limits = limits
        self._commit: Commit | None = None
        self._known: Answer | None = None

    @property
    def id(self) -> str:
        """Under which it is recorded; a retry has the same."""
        execution = self._execution
        return execution.id or id_of(execution.client, execution.number)

    def recall(self) -> Answer | None:
        """What was answered before, if that was committed. Only who may have asked before is looked for.

        Raises `JournalError`.
        """
        execution = self._execution
        if execution.plain is not None or not (execution.id or execution.attempt > 1 or execution.only_look_up):
            return None
        return self._look_up()

    def _look_up(self) -> Answer | None:
        record = self._inbox.find(self.id)
        if record is None:
            return None
        try:
            method, kind, codec, body = wire.unpack(record.outcome or b"")
            answer = Answer(wire.number(kind, "kind"), bytes(body), wire.text(codec, "codec"))
        except (DecodeError, TypeError, ValueError) as error:
            raise JournalDamaged(f"the inbox {self._inbox.path} has a record that is none: {error}") from error
        if method != self._execution.method:
            return refused(CODE_ID, f"the request id {self.id!r} is that of a call of {method!r}")
        return answer

    # ---- the handler's part ----------------------------------------------------------

    def try_begin(self, *, wait: bool) -> Connection | None:
        """The connection to work with; None if another handler writes now, and `wait` is False."""
        if self._execution.items is not None:
            raise UsageError("a stream has no single reply to commit with its effects: return a value instead")
        commit = self._commit
        if commit is None:
            commit = self._inbox.begin(wait=wait)
            if commit is None:
                return None
            if self._execution.plain is None and not commit.record(self.id, self._execution.client.hex()):
                commit.rollback()
                self._known = self._look_up()
                raise Duplicate(f"{self.id} was done by another server that shares this inbox; its reply is given")
            self._commit = commit
        return commit.connection

    def roll_back(self) -> None:
        """None of it happened."""
        commit, self._commit = self._commit, None
        if commit is not None:
            commit.rollback()

    def settle(self, answer: Answer) -> Answer:
        """The handler is done: commit its effects with this answer. Returns what to answer in fact."""
        if self._known is not None:
            self.roll_back()
            return self._known
        commit, self._commit = self._commit, None
        if commit is None:
            return answer
        if answer.kind != calls.RESULT:
            commit.rollback()
            return answer
        method = self._execution.method
        try:
            if self._execution.plain is None:
                commit.answer(self.id, wire.pack([method, int(answer.kind), answer.codec, answer.body]))
            commit.commit()
        except CommitIndeterminate as error:
            return unknown("indeterminate", f"{method}() returned, but its commit was not confirmed: {error}")
        except (JournalError, UsageError) as error:
            words = f"{method}() returned, but its effects were not stored: {error}"
            return failure(type(error).__name__, words, limits=self._limits)
        finally:
            commit.rollback()  # nothing happens if it was committed
        return answer


class Transaction:
    """What ``with request.transaction() as db:`` enters; coroutines say ``async with``."""

    __slots__ = ("_effects", "_waits")

    def __init__(self, effects: Effects, *, waits: bool) -> None:
        self._effects = effects
        self._waits = waits

    def __enter__(self) -> Connection:
        connection = self._effects.try_begin(wait=self._waits)
        if connection is None:
            raise UsageError("another handler writes now, and waiting would stop the loop: say `async with`")
        return connection

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        if t is not None:
            self._effects.roll_back()

    async def __aenter__(self) -> Connection:
        tries = 0
        while (connection := self._effects.try_begin(wait=False)) is None:
            await anyio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        return connection

    async def __aexit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.__exit__(t, v, tb)
