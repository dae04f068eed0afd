"""The processes that send: `Push` from memory, `Send` from an outbox; and what they do when their journal was restored.

Each remembers what it did in its histories. What it sent under ids of its own it can send again, in any life: an id
that the journal knows is not stored twice, and one that came through before is dropped by the sinks' inbox.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import zmqkit
from tests.chaos.copies import lay
from tests.chaos.peers import EFFECTS, Peer

MAX_WAITING = (30, 100, 300)
"""So many items of each pusher may be on their way: it is never idle, and what is left at the end soon settles."""
AGAIN_AT_ONCE = 50
MAX_OUTPUTS = 3
KEYS = 20
SETTLE_WAIT_S = 1.0
"""How long a pusher that watches one item settle does so."""
NONE = "-"


class Item(NamedTuple):
    """What is sent, as it stands in a history."""

    name: str
    outputs: int
    own: bool
    """Its id is its name; else zmqkit makes one."""
    key: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.outputs} {'own' if self.own else NONE} {self.key or NONE}"

    @classmethod
    def read(cls, words: Sequence[str]) -> Item:
        """The reverse of ``str``."""
        name, outputs, own, key = words
        return cls(name, int(outputs), own == "own", None if key == NONE else key)

    @property
    def body(self) -> dict[str, Any]:
        """What travels."""
        return {"item": self.name, "outputs": self.outputs}

    @property
    def id(self) -> str | None:
        """What is given to `send`."""
        return self.name if self.own else None


class Push(Peer):
    """Sends items as fast as they settle, in all the ways there are."""

    def __call__(self) -> None:
        """Work until told to finish, then until all has settled."""
        pusher = self._open()
        with pusher:
            self.history.record(f"opened {' '.join(pusher.addresses)}")
            self.follow_the_leash(pusher)
            self.tell(f"open {' '.join(pusher.addresses)}")
            self._make_good(pusher)
            sent = 0
            while not self.finish.is_set():
                items = [self._item(sent + number) for number in range(1, 1 + self._how_many())]
                sent += len(items)
                self._send(pusher, items)
                self.busy()
                self.finish.wait(self.rng.random() * 0.02)
            settled = pusher.flush()
            self.history.record(f"drained {settled.acked} {settled.dead}")
        self.tell("done")

    def _item(self, number: int) -> Item:
        rng = self.rng
        outputs = 0 if rng.random() < 0.01 else rng.randint(1, MAX_OUTPUTS)
        key = f"key-{rng.randrange(KEYS)}" if rng.random() < 0.1 else None
        return Item(f"{self.name}.{self.life}.{number}", outputs, rng.random() < 0.7, key)

    def _how_many(self) -> int:
        return 1 if self.rng.random() < 0.6 else self.rng.randint(2, 40)

    def _send(self, pusher: zmqkit.Pusher, items: list[Item]) -> None:
        names = [item.name for item in items]
        self.history.record(*[f"sending {item}" for item in items])
        if self.plant == "boastful-pusher":
            self.history.record(*[f"confirmed {name}" for name in names])
            self.finish.wait(0.05)
        receipt = None
        timeout = self.rng.random() * 0.05 if self.rng.random() < 0.2 else None
        priority = self.rng.choice((0, 0, 1, -1))
        try:
            if len(items) == 1:
                item = items[0]
                receipt = pusher.send(item.body, id=item.id, key=item.key, priority=priority, timeout=timeout)
            else:
                pusher.send_many(
                    [zmqkit.Outgoing(item.body, id=item.id, key=item.key, priority=priority) for item in items],
                    timeout=timeout,
                )
            outcome = ["confirmed"] * len(names)
        except zmqkit.Full:
            outcome = ["refused"]
        except zmqkit.WaitTimeout:
            outcome = ["unsure"]
        except zmqkit.PartlySent as error:
            outcome = ["confirmed"] * error.confirmed + ["unsure"] * (len(names) - error.confirmed)
        lines = [f"{what} {name}" for what, name in zip(outcome, names, strict=True)]
        now = pusher.stats()
        self.history.record(*lines, f"settled {now['acked']} {now['dead']}")
        if receipt is not None and self.rng.random() < 0.1:
            self._watch(receipt, names[0])

    def _watch(self, receipt: zmqkit.Receipt, name: str) -> None:
        """See one item settle, and write down how much had been counted by then."""
        with contextlib.suppress(zmqkit.WaitTimeout):
            receipt.wait(timeout=SETTLE_WAIT_S)
            with closing(sqlite3.connect(self.folder / EFFECTS, timeout=60.0)) as effects:
                (counted,) = effects.execute("select coalesce(max(n), 0) from effects").fetchone()
            self.history.record(f"{receipt.outcome} {name} {counted}")

    # ---- opening -------------------------------------------------------------------

    def _open(self) -> zmqkit.Pusher:
        """Open the pusher, as an operator would who reads what a refused journal says."""
        self._finish_returning()
        while True:
            pusher = zmqkit.Pusher(
                journal=self._journal,
                max_waiting=MAX_WAITING[self.index % len(MAX_WAITING)],
                **self.common(self.address, f"{self.run}-items"),
            )
            try:
                pusher.open()
                break
            except zmqkit.AddressInUse:
                if self.devices:
                    raise
                self.address = "tcp://127.0.0.1:*"  # somebody took the port while nobody held it
            except zmqkit.JournalRolledBack as error:
                if not self._note("restored").exists() and not self._note("resending").exists():
                    raise
                self._go_back_or_on(error)
        if self._note("restored").exists():  # and nothing was said of it
            told = json.loads(self._note("restored").read_text())
            self.history.record(f"unnoticed {told['life']}")
            self._note("restored").unlink()
        return pusher

    @property
    def _journal(self) -> Path:
        return self.folder / f"{self.name}.journal"

    def _note(self, what: str) -> Path:
        """A file that tells later lives what was begun."""
        return self.folder / f"{self.name}.{what}"

    def _go_back_or_on(self, error: zmqkit.JournalRolledBack) -> None:
        restored = self._note("restored")
        if restored.exists():
            told = json.loads(restored.read_text())
            self.history.record(f"rolledback {told['life']} {told['way']} {error.commits}")
            if told["way"] == "back":
                restored.rename(self._note("returning"))
                self._finish_returning()
                return
            restored.write_text(json.dumps({**told, "found": self.life}))
            restored.rename(self._note("resending"))
        Path(f"{self._journal}.lock").unlink()

    def _finish_returning(self) -> None:
        """Put back the journal in whose place a copy was."""
        if self._note("returning").exists():
            lay(self.folder / "copies" / f"{self.name}.newest", self._journal)
            self._note("returning").unlink()

    # ---- sending again -------------------------------------------------------------

    def _make_good(self, pusher: zmqkit.Pusher) -> None:
        """Send again what the life before was about to, and all that went with a journal that was lost."""
        resending = self._note("resending")
        if resending.exists():
            told = json.loads(resending.read_text())
            lost = range(told["life"] + 1, told["found"])
            if self.plant != "careless-pusher":
                self._send_again(pusher, lost)
            resending.unlink()
        elif self.life > 1 and self.rng.random() < 0.5:
            self._send_again(pusher, range(self.life - 1, self.life), unknown=True)

    def _send_again(self, pusher: zmqkit.Pusher, lives: range, *, unknown: bool = False) -> None:
        """Send what these lives sent.

        Args:
            unknown: only that of which they had not heard whether it was stored; else all, and say what cannot be sent
                again because its id is not known: it is lost, or it came through.
        """
        sent: dict[str, Item] = {}
        said: dict[str, str] = {}
        wanted: dict[str, Item] = {}
        for life in range(1, lives.stop):
            for kind, *words in self._told(life):
                if kind == "sending":
                    sent[words[0]] = Item.read(words)
                elif kind in ("confirmed", "refused", "unsure"):
                    said[words[0]] = kind
                if kind in ("sending", "again") and life in lives:
                    wanted[words[0]] = sent[words[0]]
        if unknown:
            wanted = {name: item for name, item in wanted.items() if item.own and said.get(name) in (None, "unsure")}
        else:
            wanted = {name: item for name, item in wanted.items() if said.get(name) != "refused"}
        self.history.record(*[f"abandoned {item.name}" for item in wanted.values() if not item.own])
        own = [item for item in wanted.values() if item.own]
        for at in range(0, len(own), AGAIN_AT_ONCE):
            some = own[at : at + AGAIN_AT_ONCE]
            self.history.record(*[f"repeating {item.name}" for item in some])
            pusher.send_many([zmqkit.Outgoing(item.body, id=item.id, key=item.key) for item in some])
            self.history.record(*[f"again {item.name}" for item in some])
            self.busy()

    def _told(self, life: int) -> list[list[str]]:
        path = self.folder / f"{self.name}.{life}.history"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [line.split(" ") for line in whole.decode().splitlines()]


class Send(Push):
    """Sends items if and only if a transaction of its own is committed: its database says what was ordered."""

    def _make_good(self, pusher: zmqkit.Pusher) -> None:
        """The outbox does so. What went into a lost journal it cannot; such a journal was put back."""

    def _send(self, pusher: zmqkit.Pusher, items: list[Item]) -> None:
        names = [item.name for item in items]
        self.history.record(*[f"sending {item}" for item in items])
        gives_up = self.rng.random() < 0.1
        database = self.folder / f"{self.name}.db"
        if self.plant == "hasty-sender":
            for item in items:
                pusher.send(item.body, id=item.id)
        with (
            contextlib.suppress(_GivenUp),
            closing(sqlite3.connect(database, timeout=60.0)) as db,
            pusher.transaction(db) as outbox,
        ):
            for item in items:
                db.execute("insert into orders values (?, ?)", (item.name, item.outputs))
                if self.plant != "hasty-sender":
                    outbox.send(item.body, id=item.id, key=item.key)
            if gives_up:
                raise _GivenUp
        outcome = "refused" if gives_up else "confirmed"
        now = pusher.stats()
        self.history.record(*[f"{outcome} {name}" for name in names], f"settled {now['acked']} {now['dead']}")
        # There is no end to what a database takes: wait until the journal has it, and it has room.
        pusher.flush(until="journalled")
        self._wait_for_room(pusher)

    def _wait_for_room(self, pusher: zmqkit.Pusher) -> None:
        while pusher.stats()["waiting"] > MAX_WAITING[1] and not self.finish.wait(0.02):
            pass


class _GivenUp(Exception):
    """Take all of it back."""
