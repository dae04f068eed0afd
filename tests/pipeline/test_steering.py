"""The control socket of a pusher with a journal: who reaches it, what is asked there, and what strangers may say."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.scenes import until
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, bare, handle, take
from tests.pipeline.test_dead_letters import bury, seen
from tests.protocol.cores import CorePair, Host
from zmqkit import JournalError, Puller, Pusher
from zmqkit.errors import DecodeError
from zmqkit.events import BadFrame
from zmqkit.patterns.pipeline import steering_sync, steward
from zmqkit.patterns.pipeline.hands import PusherSettings
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.patterns.pipeline.steering import (
    MOST_IDS,
    Answer,
    Ask,
    Sought,
    SteeringCore,
    read_answer,
    read_ask,
)
from zmqkit.patterns.pipeline.steering_sync import LiveJournal, parts_of, reach
from zmqkit.protocol import wire as session_wire
from zmqkit.protocol.core import Read, Row
from zmqkit.protocol.local import Local


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where control sockets are, for this test alone. Of a short name: the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="zk-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / "zmqkit"


def path_of(push: Any) -> Path:
    assert push._control is not None
    return Path(push._control.removeprefix("ipc://"))


def reached(push: Any) -> LiveJournal:
    journal = reach(push._control, "jobs.db")
    assert journal is not None
    return journal


# ---- where it is -------------------------------------------------------------------------


def test_it_is_the_users_alone_is_no_address_and_goes_with_the_journal(tmp_path: Path, runtime: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        path = path_of(push)
        assert path.parent == runtime
        assert push._journal is not None
        assert path.name == push._journal.uuid
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert len(push.addresses) == 1
        assert push.addresses[0].startswith("tcp://")
    assert not path.exists()
    with Pusher(LOCAL) as push:
        assert push._control is None


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path, runtime: Path) -> None:
    program = (
        f"import zmqkit\npush = zmqkit.Pusher({LOCAL!r}, journal='jobs.db').open()\nprint('open', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        child.send_signal(signal.SIGKILL)
    (left,) = runtime.iterdir()
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        assert path_of(push) == left
        with reached(push) as journal:
            assert journal.totals("messages").rows == 0


@pytest.mark.parametrize(
    "trouble", ["open to others", "a file", "a link", "too long", "somebody listens", "in the way"]
)
def test_where_no_socket_can_be_the_journal_opens_without_one(
    tmp_path: Path, runtime: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steward, "folders_of", lambda user: iter([str(runtime)]))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if trouble == "open to others":
        runtime.mkdir(mode=0o700)
        runtime.chmod(0o755)
    elif trouble == "a file":
        runtime.write_text("x")
    elif trouble == "a link":
        runtime.symlink_to(tmp_path / "elsewhere")
    elif trouble == "too long":
        monkeypatch.setattr(steward, "LONGEST_PATH", len(str(runtime)) + 32)
    Pusher(LOCAL, journal=tmp_path / "jobs.db").open().close()
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        assert push._journal is not None
        uuid = push._journal.uuid
    other = socket.socket(socket.AF_UNIX)
    try:
        if trouble == "somebody listens":
            other.bind(str(runtime / uuid))
            other.listen()
        elif trouble == "in the way":
            (runtime / uuid).write_text("somebody's")
        with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
            assert push._control is None
            with Puller[Any](push.addresses[0]) as pull:
                push.send("x")
                job = pull.receive(PATIENCE_S)
                assert job is not None
                job.ack(wait=True)
    finally:
        other.close()


def test_a_folder_of_somebody_else_is_not_trusted(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(runtime / "uuid"))
        assert steward.address_of("uuid", os.geteuid()) == f"ipc://{runtime / 'uuid'}"
        assert steward.address_of("uuid", os.geteuid() + 1) is None
        runtime.chmod(0o777)
        assert steward.address_of("uuid", os.geteuid()) is None


# ---- what is asked there -----------------------------------------------------------------


async def test_letters_are_looked_at_sent_again_and_dropped_while_the_pusher_is_at_work(
    face: Face, tmp_path: Path
) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        async with face.Puller(push.addresses[0]) as pull:
            await bury(push, pull, list(range(10)))
            ids = [each.id async for each in push.dead_letters()]
            with reached(push) as journal:
                assert journal.totals("dead").weight == 10
                rows = journal.read(Read("dead", 1, 2**63 - 1, 1))
                assert len(rows) == 1
                assert len(journal.read(Read("dead", 1, 2**63 - 1, 2**63 - 1))) == 10
                assert journal.read(Read("dead", rows[0].key, rows[0].key, 1)) == rows
                assert journal.drop(ids[0], ids[1], "nobody") == 2
                assert journal.retry(ids[2]) == 1
                assert await handle(pull, 1) == [2]
                assert journal.retry() == 7
                assert (journal.retry(), journal.drop()) == (0, 0)
            assert sorted(await handle(pull, 7)) == list(range(3, 10))
            assert (await push.flush(PATIENCE_S)).acked == 8
        assert await seen(push) == []


async def test_what_cannot_be_done_is_answered_and_the_pusher_goes_on(face: Face, tmp_path: Path) -> None:
    async with face.Pusher(LOCAL, journal=tmp_path / "jobs.db") as push, face.Puller(push.addresses[0]) as pull:
        with reached(push) as journal:
            for verb, arguments, why in (
                ("sing", {}, "does not know the verb 'sing'"),
                ("totals", {"log": "nowhere"}, "ValueError"),
                ("totals", {"log": 7}, "DecodeError"),
                ("read", {"log": "dead", "first": -1}, "DecodeError"),
                ("retry", {"ids": [1]}, "ids are texts"),
                ("retry", {"ids": "all"}, "ids are texts"),
                ("drop", {"ids": ["x"] * (MOST_IDS + 1)}, "ids are texts"),
            ):
                with pytest.raises(JournalError, match=why):
                    journal._asked(verb, **arguments)
            assert journal.drop(*map(str, range(MOST_IDS + 1))) == 0, "in two questions"
        await push.send("x")
        async with await take(pull):
            pass
        assert (await push.flush(PATIENCE_S)).acked == 1


def test_who_asks_a_pusher_that_has_closed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        journal = reached(push)
    with journal, pytest.raises(JournalError, match="has just closed it"):
        journal.totals("dead")
    monkeypatch.setattr(steering_sync, "PATIENCE_S", 0.05)
    assert reach(f"ipc://{tmp_path}/nobody", "jobs.db") is None


def test_over_any_other_address_nobody_steers(tmp_path: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        bad: list[BadFrame] = []
        push.on(BadFrame, bad.append)
        with LiveJournal(push.addresses[0], "jobs.db") as journal:
            until(lambda: bad)
            until(lambda: not journal._core.sessions)
            with pytest.raises(JournalError, match="just closed"):
                journal._asked("drop")
        assert any("control socket" in each.reason for each in bad)


def test_pullers_have_no_business_at_the_socket(tmp_path: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        bad: list[BadFrame] = []
        push.on(BadFrame, bad.append)
        push.send("x")
        for dead_letters in (False, True):
            with Puller[Any](push._control or "", dead_letters=dead_letters) as pull:
                until(lambda: bad)
                assert pull.receive(0.05) is None
                bad.clear()
        with Puller[Any](push.addresses[0]) as pull:
            job = pull.receive(PATIENCE_S)
            assert job is not None
            job.ack(wait=True)


def test_a_program_that_ends_without_closing_leaves_no_socket(tmp_path: Path, runtime: Path) -> None:
    program = f"import zmqkit\npush = zmqkit.Pusher({LOCAL!r}, journal='jobs.db', linger=0).open()"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    assert list(runtime.iterdir()) == []


def test_garbage_at_the_socket_harms_nobody(tmp_path: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "jobs.db") as push:
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(10_000), b"\xff" + bytes(8) + b"\x7f\x03" + bytes(53)):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(path_of(push)))
                stranger.sendall(data)
        with reached(push) as journal:
            assert journal.totals("dead").rows == 0


# ---- the cores ---------------------------------------------------------------------------


class Steering:
    """Somebody who steers, at a pusher."""

    def __init__(self, address: str = "x") -> None:
        def make_pusher(said: Local, rng: random.Random) -> PusherCore:
            core = PusherCore(said, PusherSettings(origin="o", epoch=b"e" * 16, durable=True), rng)
            core.steered.address, core.steered.steward = address, "steward"
            return core

        accepts = frozenset({"pull", "steer"})
        self.pusher = Host("pusher", make_pusher, role="push", accepts=accepts, about={"epoch": b"e" * 16})
        self.asker = Host("asker", SteeringCore, role="steer", accepts=frozenset({"push"}))
        self.pair = CorePair(self.asker, self.pusher)


def test_a_question_is_answered_and_the_next_one_may_be_asked() -> None:
    both = Steering()
    for number in (1, 2):
        both.pair.call(both.asker, "ask", "totals", {"log": "dead"}, number)
        both.pair.flow()
        request = both.pusher.replies.pop("steward")
        assert (request.ask.verb, request.ask.arguments) == ("totals", {"log": "dead"})
        answer = Answer(number, value=[1], rows=[Row(3, 1, b"abc"), Row(4, 1, b"")])
        both.pair.call(both.pusher, "steered_answer", request.session, answer)
        both.pair.flow()
        assert both.asker.replies[number] == answer


def test_two_questions_at_a_time_are_refused_and_an_answer_to_nobody_is_passed_over() -> None:
    both = Steering()
    both.pair.call(both.asker, "ask", "drop", {}, "first")
    both.pair.flow()
    session = both.pusher.replies.pop("steward").session
    both.pair.call(both.asker, "ask", "drop", {}, "second")
    both.pair.flow()
    assert "steward" not in both.pusher.replies
    both.pair.call(both.pusher, "steered_answer", session, Answer(77))
    both.pair.call(both.pusher, "steered_answer", b"nobody", Answer(1))
    both.pair.flow()
    assert not both.asker.replies


def test_who_came_by_another_address_has_no_session_for_long() -> None:
    both = Steering(address="ipc:///run/zmqkit/uuid")
    assert not list(both.pusher.core.sessions)
    both.pair.call(both.asker, "ask", "drop", {}, "ticket")
    assert isinstance(both.asker.replies["ticket"], JournalError)


@pytest.mark.parametrize(
    "head",
    [
        [1, 2, 3],
        [32, 1, "totals"],
        [32, -1, "totals", {}],
        [32, 1, "t" * 33, {}],
        [32, 1, b"totals", {}],
        [32, 1, "totals", []],
        [33, 1, "totals", {}],
        "totals",
    ],
)
def test_what_is_no_question_is_refused(head: Any) -> None:
    with pytest.raises(DecodeError):
        read_ask([session_wire.pack(head)])


@pytest.mark.parametrize(
    ("head", "blob"),
    [
        ([33, 1, "", None], b""),
        ([33, 1, "", None, [[1, 1, 2]]], b"x"),
        ([33, 1, "", None, [[1, 1]]], b""),
        ([33, 1, "", None, [[1, 1, -1]]], b""),
        ([33, 1, 7, None, []], b""),
        ([32, 1, "", None, []], b""),
    ],
)
def test_what_is_no_answer_is_refused(head: Any, blob: bytes) -> None:
    with pytest.raises(DecodeError):
        read_answer([session_wire.pack(head), blob])


def test_questions_and_answers_come_as_they_went() -> None:
    ask = Ask(7, "read", {"log": "dead", "first": 1})
    assert read_ask(ask.pack()) == ask
    answer = Answer(7, "no", [1, 2], [Row(1, 2, b"abc")])
    assert read_answer(answer.pack()) == answer
    assert Sought.of({}) == Sought("", 0, 0, 0, (), b"")


def test_ids_that_do_not_fit_into_one_question_go_in_several() -> None:
    assert parts_of([]) == [[]]
    many = [f"{n:020}" for n in range(25_000)]
    large = ["é" * 1000] * 1000
    for ids in (many, large, [*large, *many], ["x" * (1 << 19)]):
        parts = parts_of(ids)
        assert [each for part in parts for each in part] == ids
        assert all(0 < len(part) <= MOST_IDS for part in parts)
        assert all(len(part) == 1 or sum(len(each.encode()) for each in part) <= 1 << 18 for part in parts)
    assert parts_of(["\ud800", "a"]) == [["a"]]
    assert parts_of(["\ud800"]) == []  # not [[]], which would be all letters


def test_more_ids_than_a_header_holds_are_looked_for(tmp_path: Path) -> None:
    with Pusher(LOCAL, journal=tmp_path / "j.db") as push, Puller(push.addresses[0]) as pull:
        push.send("a", id="mine")
        pull.receive().reject("no")
        push.flush(PATIENCE_S)
        journal = reach(str(bare(push)._control), "j.db")
        assert journal is not None
        with journal:
            assert journal.drop(*(f"{n:01000}" for n in range(5000)), "\ud800", "mine") == 1
            assert journal.drop("\ud800") == 0
