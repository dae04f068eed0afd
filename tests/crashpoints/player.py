"""Who uses the pipeline in these tests: does one thing after another, and writes down what it did and was told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from tests.crashpoints.history import Step, What, known
from tests.crashpoints.stage import Stage
from zmqkit.errors import Closed, CommitIndeterminate, JournalError, LeaseLost, PartlySent, ZmqkitError
from zmqkit.patterns.pipeline import Job, Outgoing, Receipt
from zmqkit.transport.tickets import WaitExpired

NOT_STORED: Final = ("not stored", "nothing was stored", "nothing of it was stored")
"""So an error says that it knows."""


CHILDREN: Final = {"e1": "e5", "e2": "e6"}
"""Messages that are sent in the transaction of another one's effect."""


class Missing(AssertionError):
    """What the next step is about is not there."""


class RolledBack(Exception):
    """A handler changed its mind."""


class Player:
    """The user of one stage after another.

    Args:
        make: opens a stage.
        steps: what was done before, which is gone on with.

    Attributes:
        stage: the one that is open.
        jobs: those in hand, by body; one that was sent again by the outbox may be there twice.
        receipts: by body; of this life.
        steps: all that was done and told.
    """

    def __init__(self, make: Callable[[], Stage], steps: list[Step] | None = None) -> None:
        self._make = make
        self.steps: list[Step] = [] if steps is None else steps
        self.jobs: dict[str, list[Job[str]]] = {}
        self.receipts: dict[str, Receipt] = {}
        self.stage = make()

    def note(self, what: What, name: str, text: str = "", **more: Any) -> None:
        """Write a step down."""
        self.steps.append(Step(what, name, text, **more))

    def restart(self) -> None:
        """Both processes end in good order, and begin again."""
        self.jobs.clear()
        self.receipts.clear()
        self.stage.close()
        self.stage = self._make()

    def begin_pulling(self) -> None:
        """Let a puller come; the one before says goodbye."""
        self.jobs.clear()
        self.stage.begin_pulling()

    def pass_time(self, seconds: float) -> None:
        """Let time go on."""
        self.stage.pass_time(seconds)

    def relay(self) -> None:
        """Let the outbox's thread do its work."""
        self.stage.relay()

    def sync(self) -> None:
        """Have the journal synced."""
        self.stage.journal.sync()

    # ---- sending -------------------------------------------------------------------

    def send(self, name: str, **wanted: Any) -> None:
        """Send one message."""
        self.note("send", name, wanted.get("id", ""), key=wanted.get("key", ""), ttl="ttl" in wanted)
        try:
            receipt = self.stage.push.send(name, **wanted)
        except JournalError as error:
            if not isinstance(error, CommitIndeterminate) and any(words in str(error) for words in NOT_STORED):
                self.note("refused", name)
            raise
        self.receipts[name] = receipt
        self.note("stored", name, receipt.id)

    def send_many(self, *names: str, **wanted: dict[str, Any]) -> None:
        """Send several at once, which share a row if they can.

        Args:
            names: those that want nothing but their turn.
            wanted: what others want, by name.
        """
        bodies = [*names, *(Outgoing(name, **its) for name, its in wanted.items())]
        for name in (*names, *wanted):
            its = wanted.get(name, {})
            self.note("send", name, its.get("id", ""), key=its.get("key", ""), ttl="ttl" in its)
        stored = 0
        try:
            stored = self.stage.push.send_many(bodies)
        except PartlySent as error:
            stored = error.confirmed
            raise
        finally:
            for name in (*names, *wanted)[:stored]:
                self.note("stored", name)

    def send_again(self, name: str) -> None:
        """Send a message once more under its id: it is not stored twice."""
        facts = known(self.steps)[name]
        if not facts.confirmed:
            raise Missing(f"{name} was not confirmed")
        (id,) = facts.ids
        receipt = self.stage.push.send(f"{name}, again", id=id)
        assert receipt.id == id

    def look(self, name: str) -> None:
        """Note what became of a message, if its receipt tells."""
        receipt = self.receipts.get(name)
        if receipt is None:
            raise Missing(f"{name} was not sent in this life")
        try:
            receipt.wait(timeout=0)
        except ZmqkitError:
            return
        if receipt.outcome is not None:
            self.note(receipt.outcome, name)

    # ---- handling ------------------------------------------------------------------

    def take(self) -> None:
        """Take all jobs that are here."""
        if self.stage.pull is None:
            self.begin_pulling()
        while (job := self.stage.take()) is not None:
            self.jobs.setdefault(job.body, []).append(job)

    def _in_hand(self, name: str) -> Job[str]:
        jobs = self.jobs.get(name)
        if not jobs:
            raise Missing(f"{name} was not delivered")
        job = jobs.pop(0)
        if not jobs:
            del self.jobs[name]
        return job

    def ack(self, name: str) -> None:
        """It is done, and had no effect that counts."""
        self.note("ack", name)
        try:
            self._in_hand(name).ack(wait=True)
        except (LeaseLost, WaitExpired):
            return
        self.note("acked", name)

    def effect(self, name: str, *, fails: bool = False) -> None:
        """Its effect, in a transaction of the inbox; with that of some goes another message.

        Args:
            name: of the message.
            fails: the handler raises at its end; nothing of it happened, and it comes again.
        """
        job, child = self._in_hand(name), CHILDREN.get(name, "")
        if not fails:
            self.note("effect", name)
        if child:
            self.note("outbox", child, of=name)
        with job:
            with job.transaction() as database:
                database.execute("insert into effects (name, id) values (?, ?)", (name, job.id))
                if child:
                    with self.stage.push.transaction(database) as outbox:
                        outbox.send(child)
                if fails:
                    self.note("nack", name, f"RolledBack: {name}")
                    raise RolledBack(name)
            self.note("effected", name)
            if child:
                self.note("outboxed", child)

    def claim(self, name: str) -> None:
        """Its effect, in a transaction of the user's own that claims the job."""
        job = self._in_hand(name)
        self.note("effect", name)
        with contextlib.closing(sqlite3.connect(self.stage.database)) as connection, job:
            if job.claim(connection):
                connection.execute("insert into effects (name, id) values (?, ?)", (name, job.id))
            connection.commit()
            self.note("effected", name)

    def nack(self, name: str) -> None:
        """It failed."""
        self.note("nack", name, f"{name} failed")
        self._in_hand(name).nack(reason=f"{name} failed")

    def reject(self, name: str) -> None:
        """It can never succeed."""
        self.note("reject", name, f"{name} is nonsense")
        self._in_hand(name).reject(f"{name} is nonsense")

    # ---- the outbox ----------------------------------------------------------------

    def outbox(self, *names: str, fails: bool = False, **wanted: Any) -> None:
        """Send in a transaction of the user's own; or roll it back."""
        for name in names:
            self.note("outbox", name, key=wanted.get("key", ""))
        try:
            with self.stage.push.transaction(self.stage.database) as outbox:
                ids = [outbox.send(name, **wanted) for name in names]
                outbox.connection.execute("create table if not exists orders (name)")
                outbox.connection.execute("insert into orders values (?)", names[:1])
                if fails:
                    raise RolledBack
        except RolledBack:
            for name in names:
                self.note("rolled back", name)
            return
        for name, id in zip(names, ids, strict=True):
            self.note("outboxed", name, id)

    # ---- dead letters --------------------------------------------------------------

    def dead(self) -> dict[str, str]:
        """The dead letters: their ids, by body."""
        found = {each.body: each.id for each in self.stage.push.dead_letters()}
        for name in found:
            self.note("dead", name)
        return found

    def retry(self, *names: str) -> None:
        """Send dead letters again; all of them if none is named."""
        found = self.dead()
        wanted = [name for name in found if name in names or not names]
        for name in wanted:
            self.note("retry", name)
        if wanted:
            self.stage.push.dead_letters().retry(*[found[name] for name in wanted])

    def drop(self, name: str) -> None:
        """Throw a dead letter away."""
        id = self.dead().get(name)
        if id is None:
            raise Missing(f"{name} is no dead letter")
        self.note("drop", name)
        assert self.stage.push.dead_letters().drop(id) == 1
        self.note("dropped", name)

    # ---- when something fails ------------------------------------------------------

    def reopen(self, tries: int = 5) -> None:
        """Give up what is open, and open it again; on a failing disk that may take a few tries."""
        self.jobs.clear()
        self.receipts.clear()
        self.stage.drop()
        for left in reversed(range(tries)):
            try:
                self.stage = self._make()
            except (JournalError, Closed):
                if not left:
                    raise
            else:
                return

    def own_ids(self, last: int) -> list[str]:
        """Bodies of those that were confirmed, of the last so many that were sent under ids of their own."""
        facts = known(self.steps)
        own = list(dict.fromkeys(step.name for step in self.steps if step.what == "send" and step.text))
        return [name for name in own[-last:] if facts[name].confirmed]
