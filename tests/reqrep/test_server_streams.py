"""The server's core under virtual time: streams and uploads, and the credit of both."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reqrep.serving import Serving, Upload, refused
from zmqkit.options import Limits
from zmqkit.patterns.reqrep import calls, wire
from zmqkit.patterns.reqrep.calls import Answer, Execution, Item
from zmqkit.patterns.reqrep.streams import AHEAD

# ---- streams ---------------------------------------------------------------------


def emit(serving: Serving, execution: Execution, *bodies: bytes) -> None:
    serving.do("emit", execution, [(body, "msgpack") for body in bodies])


def test_a_stream_is_numbered_counted_and_not_kept() -> None:
    serving = Serving()
    serving.call(1, items=2)
    execution = serving.item()
    assert (execution.items, execution.limit) == (2, 2)
    emit(serving, execution, b"a", b"b")
    serving.do("await_limit", execution, 1, "there")
    serving.do("await_limit", execution, 2, "more")
    assert serving.server.replies == {"there": None}
    serving.send([[wire.GRANT, 1, None, 5]])
    assert execution.limit == 5
    assert "more" in serving.server.replies
    emit(serving, execution, b"c")
    serving.finish(execution, b"", calls.DONE)
    assert serving.take() == [
        ("ITEM", 1, 0, None, b"a"), ("ITEM", 1, 1, None, b"b"), ("ITEM", 1, 2, None, b"c"), ("END", 1, 3, b""),
    ]  # fmt: skip
    serving.call(1, items=2)
    assert serving.take()[0][:3] == ("UNKNOWN", 1, "dropped")
    assert serving.items() == []


def test_a_stream_that_nobody_waits_for_is_cancelled_and_its_waiters_wake() -> None:
    for end in ("cancel", "lost"):
        serving = Serving()
        serving.call(1, items=1)
        execution = serving.item()
        serving.do("await_limit", execution, 1, "ticket")
        if end == "cancel":
            serving.send([[wire.CANCEL, 1, None]])
        else:
            serving.pair.disconnect()
            serving.pair.advance(20.0)
        assert execution.cancelled
        assert "ticket" in serving.server.replies
        emit(serving, execution, b"late")
        serving.finish(execution, b"", calls.DONE)
        assert serving.core.running == 0


def test_a_stream_is_not_far_ahead_of_a_client_that_grants_without_end() -> None:
    serving = Serving(limits=Limits(queued_bytes=100_000))
    serving.call(1, items=1 << 40)
    execution = serving.item()
    assert execution.limit == AHEAD
    serving.pair.connected = False  # nothing arrives, and nobody has noticed
    sent = 0
    while sent < execution.limit and sent < 10_000:
        serving.core.emit(execution, [(b"x" * 1000, "msgpack")], serving.pair.now)
        serving.pair.turn()
        sent += 1
    assert sent < 60 + AHEAD
    assert execution.limit == sent
    serving.core.await_limit(execution, sent, "ticket", serving.pair.now)
    serving.pair.connected = True
    serving.pair.advance(3.0)
    assert "ticket" in serving.server.replies
    assert execution.limit > sent


def test_an_item_that_its_client_cannot_take_ends_the_stream() -> None:
    serving = Serving()
    (caller,) = serving.core._callers.values()
    caller.largest = 100
    serving.call(1, items=5)
    execution = serving.item()
    emit(serving, execution, b"a", b"x" * 101, b"b")
    assert execution.cancelled
    serving.finish(execution, b"", calls.DONE)
    got = serving.take()
    assert [each[0] for each in got] == ["ITEM", "ERROR"]


# ---- uploads ---------------------------------------------------------------------


def uploading(**more: Any) -> tuple[Serving, Execution, Upload]:
    serving = Serving(make_upload=Upload)
    serving.call(1, uploads=[0], **more)
    execution = serving.item()
    assert isinstance(execution.upload, Upload)
    assert execution.uploads == (0,)
    serving.do("grant_upload", execution, 2)
    assert serving.take() == [("GRANT", 1, 2, b"")]
    return serving, execution, execution.upload


def item(number: int, index: int) -> wire.Record:
    return [wire.ITEM, number, None, index, None]


def test_an_upload_comes_in_order_and_ends() -> None:
    serving, execution, upload = uploading()
    serving.send([item(1, 0), item(1, 1)], [b"a", b"b"])
    serving.do("grant_upload", execution, 1)
    serving.do("grant_upload", execution, 4)
    serving.send([item(1, 2), [wire.END, 1, None, 3]], [b"c", None])
    assert upload.got == [Item(b"a", "msgpack"), Item(b"b", "msgpack"), Item(b"c", "msgpack"), Answer(calls.DONE)]
    serving.finish(execution)
    assert serving.take() == [("GRANT", 1, 4, b""), ("RESULT", 1, None, b"result")]
    serving.send([item(1, 3)], [b"late"])
    assert serving.count("frames_bad") == 0


@pytest.mark.parametrize(
    "records",
    [
        [item(1, 0), item(1, 1), item(1, 2)],
        [item(1, 1)],
        [item(1, 0), [wire.END, 1, None, 2]],
        [[wire.ITEM, 1, None, 0, 7]],
        [[wire.ABORT, 1, None, 7]],
    ],
    ids=["beyond the credit", "a hole", "a wrong count", "no codec", "no reason"],
)
def test_an_upload_that_breaks_the_rules_is_broken_and_nothing_else(records: list[wire.Record]) -> None:
    serving, execution, upload = uploading()
    serving.send(records)
    assert isinstance(upload.got[-1], Answer)
    assert (upload.got[-1].kind, upload.got[-1].code) == (calls.UNKNOWN, "broken")
    assert serving.count("frames_bad") == 1
    serving.send([item(1, 9)])
    assert serving.count("frames_bad") == 1
    serving.finish(execution)
    assert serving.take() == [("RESULT", 1, None, b"result")]


def test_an_upload_that_is_aborted_cancelled_or_lost_ends_so() -> None:
    serving, execution, upload = uploading()
    serving.send([[wire.ABORT, 1, None, "the disk is gone"]])
    assert upload.got == [Answer(calls.UNKNOWN, code="aborted", message="the disk is gone")]
    assert not execution.cancelled
    serving, execution, upload = uploading()
    serving.send([[wire.CANCEL, 1, None]])
    assert (upload.got[-1].code, execution.cancelled) == ("cancelled", True)
    serving, execution, upload = uploading()
    serving.pair.disconnect()
    serving.pair.advance(20.0)
    assert (upload.got[-1].code, execution.cancelled) == ("cancelled", True)


def test_an_upload_to_a_server_that_takes_none_is_refused() -> None:
    serving = Serving()
    serving.call(1, uploads=[0])
    assert refused("arguments", serving) == [1]
