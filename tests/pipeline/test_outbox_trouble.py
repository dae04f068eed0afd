"""Outboxes that are not as they should be: other files, rows that are none, journals that refuse a message."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S
from zmqkit import JournalFull, Puller, Pusher, UsageError, WaitTimeout
from zmqkit.patterns.pipeline.rows import Pack
from zmqkit.transport.tickets import Ticket


def put(push: Pusher, path: Path, *bodies: object, **options: Any) -> None:
    with push.transaction(path) as outbox:
        for body in bodies:
            outbox.send(body, **options)


def come(pull: Puller[Any], count: int) -> list[Any]:
    """The next jobs' bodies; they are acked."""
    found: list[Any] = []
    for _ in range(count):
        job = pull.receive(PATIENCE_S)
        assert job is not None, f"only {found} came"
        with job:
            found.append(job.body)
    return found


def test_a_block_that_raised_in_a_transaction_of_ones_own_is_sent_if_that_is_committed(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "shop.db")) as db,
        Pusher(LOCAL, journal=tmp_path / "j.db") as push,
        Puller(push.addresses[0]) as pull,
    ):
        db.execute("create table orders (body)")
        with db:
            db.execute("insert into orders values (1)")
            with contextlib.suppress(ZeroDivisionError), push.transaction(db) as outbox:
                outbox.send("a")
                raise ZeroDivisionError
        push.flush(PATIENCE_S, until="journalled")
        assert push.stats()["waiting"] == 1, "committed, and nobody looks for it"
        assert come(pull, 1) == ["a"]


@pytest.mark.parametrize("ending", ["rollback", "commit"])
def test_after_an_end_of_ones_own_nothing_more_is_sent(tmp_path: Path, ending: str) -> None:
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push:
        put(push, tmp_path / "shop.db")  # makes the table

        def end_and_send() -> None:
            with push.transaction(tmp_path / "shop.db") as outbox:
                outbox.connection.execute(ending)
                outbox.send("in autocommit")

        with pytest.raises(UsageError, match="leave both to zmqkit"):
            end_and_send()
        push.flush(PATIENCE_S)
        assert push.stats()["sent"] == 0


def test_what_waits_in_a_file_in_the_place_of_another_is_sent(tmp_path: Path) -> None:
    shop = tmp_path / "shop.db"
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        put(push, shop, "old")
        assert come(pull, 1) == ["old"]
        for _ in range(2):  # the second one finds nothing, and then nobody looks any more
            push.flush(PATIENCE_S)
        shop.unlink()
        put(push, shop, "new")
        push.flush(PATIENCE_S, until="journalled")
        assert push.stats()["sent"] == 2, "it waits in the file, and flush did not see it"
        assert come(pull, 1) == ["new"]


def test_an_outbox_that_cannot_be_read_keeps_no_other_waiting_and_flush_tells(tmp_path: Path) -> None:
    first, second = tmp_path / "a.db", tmp_path / "b.db"
    with Pusher(LOCAL, journal=tmp_path / "j.db", linger=0) as push, Puller(push.addresses[0]) as pull:
        put(push, first, 1)
        put(push, second, 2)
        assert come(pull, 2) == [1, 2]
        for _ in range(2):
            push.flush(PATIENCE_S)
        first.write_bytes(b"no database" * 1000)
        put(push, second, 3)
        assert come(pull, 1) == [3]
        with pytest.raises(WaitTimeout, match=r"not in the journal after 0\.5 s: the outbox .*a\.db is not a database"):
            push.flush(0.5)
        first.unlink()
        assert push.flush(PATIENCE_S).acked == 3


def test_a_message_that_is_refused_does_not_double_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop.db"
    refused: list[Pack] = []
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        push.open()
        real = push._relay_pack

        def relay(pack: Pack) -> Ticket:
            if b"large" not in pack.blob or len(refused) == 3:
                return real(pack)
            refused.append(pack)
            ticket = Ticket()
            ticket.resolve(JournalFull("no room for this one"))
            return ticket

        monkeypatch.setattr(push, "_relay_pack", relay)
        monkeypatch.setattr("zmqkit.patterns.pipeline.outbox.LONGEST", 0.01)
        with push.transaction(shop) as outbox:  # of three priorities: handed over one by one
            for body, priority in (("before", 2), ("large", 1), ("behind", 0)):
                outbox.send(body, priority=priority)
        push.flush(PATIENCE_S, until="journalled")
        assert len(refused) == 3
        assert push.stats()["sent"] == 3, "something was stored twice"
        assert sorted(come(pull, 3)) == ["before", "behind", "large"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": "[]"}, {"options": "null"}, {"options": "[" * 100_000}, {"options": '{"due": NaN}'},
        {"options": '{"key": 5}'}, {"id": ""}, {"id": "x" * 1001}, {"codec": ""}, {"codec": "x" * 65},
        {"sent_at": -1}, {"sent_at": 1.5}, {"sent_at": "never"}, {"sent_at": 2**62}, {"body": "text"}, {"body": 5},
        {"body": 1 << 40},
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_named_and_what_stands_before_it_is_sent(tmp_path: Path, wrong: dict[str, Any]) -> None:
    shop = tmp_path / "shop.db"
    row = {"id": "mine", "codec": "json", "sent_at": 1, "options": "{}", "body": b"1"} | wrong
    with Pusher(LOCAL, journal=tmp_path / "j.db", linger=0) as push, Puller(push.addresses[0]) as pull:
        put(push, shop)
        with closing(sqlite3.connect(shop)) as db:
            with db, push.transaction(db) as outbox:
                db.execute("update sqlite_sequence set seq = 0")
                outbox.send("before")
                columns = ", ".join(row)
                marks = ", ".join("?" * len(row))
                db.execute(
                    f"insert into zmqkit_outbox (pusher, {columns}) select max(pusher), {marks} from zmqkit_outbox",
                    tuple(row.values()),
                )
                outbox.send("behind")
            assert come(pull, 1) == ["before"]
            with pytest.raises(WaitTimeout, match=r"has a row that is none, number 2: .*Mend or delete it"):
                push.flush(0.2)
            with db:
                db.execute("delete from zmqkit_outbox where n = 2")
        assert come(pull, 1) == ["behind"]
        assert push.flush(PATIENCE_S).acked == 2


def test_flush_may_wait_for_ever(tmp_path: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        put(push, tmp_path / "shop.db", 1)
        assert come(pull, 1) == [1]
        assert push.flush(float("inf")).acked == 1


@pytest.mark.parametrize("how", ["after a chdir", "by a link"])
def test_what_is_left_is_found_whatever_the_journal_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = "j.db"
    if how == "by a link":
        (tmp_path / "elsewhere" / "j.db").symlink_to(tmp_path / "j.db")
        journal = "elsewhere/j.db"
    with Pusher(LOCAL, journal=journal, linger=0) as push:
        monkeypatch.chdir(tmp_path / "elsewhere")
        put(push, tmp_path / "shop.db")
        push._outbox_relay().end()  # what comes now waits for the next opening
        put(push, tmp_path / "shop.db", "left")
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        assert come(pull, 1) == ["left"]
