"""Closing: by several at a time, and of peers that nobody closes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zmqkit
from tests.pipeline.faces import LOCAL, PATIENCE_S, Face, Letterbox, handle, take
from zmqkit import Settled, Unsettled, events

# ---- by several at a time ------------------------------------------------------------


async def test_a_second_close_waits_for_the_end_of_the_first(face: Face) -> None:
    push = await face.Pusher(LOCAL).open()
    async with face.Puller(push.addresses[0]) as pull:
        await push.send("x")
        job = await take(pull)
        ended: Letterbox[tuple[str, bool]] = Letterbox(face)

        async def close(name: str, timeout: float | None) -> None:
            await push.close(timeout)
            ended.put((name, push._driver.ended.done))

        async with face.together() as start:
            start(close, "first", None)
            await face.until(lambda: push.closed)
            start(close, "second", None)
            await face.until(lambda: len(push._close_ended._waiters) == 1, "the second waits")
            await close("bounded", 0.01)
            assert ended.all == [("bounded", False)]
            await job.ack()
            await ended.next()
            assert {await ended.next(), await ended.next()} == {("first", True), ("second", True)}
    await push.close(None)  # later there is nothing to wait for


async def test_leaving_a_block_waits_for_a_close_by_another(face: Face) -> None:
    async with face.Puller(bind=LOCAL) as pull, face.together() as start:
        async with face.Pusher(connect=pull.addresses[0]) as push:
            await push.send("x")
            job = await take(pull)
            start(push.close)
            await face.until(lambda: push.closed)
            await job.ack()
        assert push._driver.ended.done


async def test_both_sides_of_a_worker_have_ended_when_a_second_close_returns(face: Face) -> None:
    async with face.Pusher(LOCAL) as push, face.Puller(bind=LOCAL) as pull:
        worker = face.Worker(lambda body: body, source=push.addresses[0], sink=pull.addresses[0])
        await worker.open()
        async with face.together() as start:
            for _ in range(3):
                start(worker.close)
            await worker.close()
            assert [side._driver.ended.done for side in worker._sides] == [True, True]


def test_a_close_that_a_signal_handler_makes_during_a_close_returns() -> None:
    ended = threading.Event()
    with zmqkit.Puller[Any](bind=LOCAL) as pull:
        push = zmqkit.Pusher(connect=pull.addresses[0]).open()
        push.send("x")
        job = pull.receive(PATIENCE_S)
        assert job is not None

        def handler(*_: object) -> None:
            push.close(None)
            ended.set()
            job.ack()

        def interrupt() -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not push._driver._desk.waiting and time.monotonic() < deadline:  # type: ignore[union-attr]
                time.sleep(0.001)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handler)
        other = threading.Thread(target=interrupt)
        try:
            other.start()
            push.close(PATIENCE_S)
        finally:
            other.join(PATIENCE_S)
            signal.signal(signal.SIGUSR1, before)
        assert ended.is_set()
        assert push.stats()["acked"] == 1


# ---- without its journal -------------------------------------------------------------


def remove_folder(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()
    path.parent.rmdir()


def replace(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("do_away_with", [remove_folder, Path.unlink, replace])
async def test_what_lay_in_a_journal_that_is_gone_is_not_called_safe(
    face: Face, tmp_path: Path, caplog: pytest.LogCaptureFixture, do_away_with: Callable[[Path], object]
) -> None:
    path = tmp_path / "folder" / "jobs.db"
    path.parent.mkdir()
    push = await face.Pusher(LOCAL, journal=path).open()
    await push.send_many(range(3))
    do_away_with(path)
    with pytest.raises(Unsettled, match=r"3 messages not settled, and its journal .* what waited is lost") as lost:
        await push.close(0)
    assert lost.value.count == 3
    assert "what waited is lost" in caplog.text
    assert push._driver.ended.done


# ---- by nobody -----------------------------------------------------------------------


async def test_a_peer_that_nobody_closes_warns_and_gives_everything_back(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    before = descriptors()
    for _ in range(2):  # the second finds in the journal what the first was sent
        push = await face.Pusher(LOCAL, journal=path, name="forgotten").open()
        push.on(events.PeerLost, lambda _: None)
        pull = await face.Puller(push.addresses[0], announce="forgotten-too").open()
        await push.wait_for_peers(1, timeout=PATIENCE_S)
        await push.send("x")
        drivers = [push._driver, pull._driver]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del push, pull
            gc.collect()
        told = sorted(str(each.message) for each in caught if each.category is ResourceWarning)
        assert len(told) == 2, told
        assert told[0].startswith("unclosed <zmqkit.patterns.pipeline.")
        assert f"not settled, kept in {path}" in told[1]
        for driver in drivers:
            await face.until(lambda driver=driver: driver.ended.done, "it ends")  # type: ignore[misc]
    await face.until(lambda: not [each for each in threading.enumerate() if each.name.startswith("zmqkit-forgotten")])
    async with face.Pusher(LOCAL, journal=path) as again, face.Puller(again.addresses[0]) as pull:
        assert await handle(pull, 2) == ["x", "x"]
        assert await again.flush(PATIENCE_S) == Settled(acked=2)
    await face.until(lambda: descriptors() <= before + 8, "descriptors leak")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_a_peer_with_a_job_in_hand_is_not_forgotten(face: Face) -> None:
    async with face.Pusher(LOCAL) as push:
        await push.send("x")
        pull = await face.Puller(push.addresses[0]).open()
        driver = pull._driver
        job = await take(pull)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del pull
            gc.collect()
        await job.ack(wait=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del job
            gc.collect()
        assert [each.category for each in caught] == [ResourceWarning]
        await face.until(lambda: driver.ended.done)
        assert await push.flush(PATIENCE_S) == Settled(acked=1)


def test_a_peer_that_was_never_opened_is_dropped_in_silence() -> None:
    with warnings.catch_warnings(), zmqkit.Pusher(LOCAL):
        warnings.simplefilter("error")
        zmqkit.Pusher(LOCAL)
        zmqkit.Worker(print, source="tcp://127.0.0.1:9")
        with pytest.raises(zmqkit.UsageError):
            zmqkit.Pusher()
        gc.collect()


THREAD = """
import sys, threading, zmqkit
pull = zmqkit.Puller(sys.argv[1]).open()
def loop():
    for job in pull:
        with job:
            print(job.body, flush=True)
            if job.body == "end":
                pull.stop()
    pull.close()
threading.Thread(target=loop).start()
"""


def test_a_loop_in_a_thread_goes_on_when_the_main_thread_has_ended_until_it_is_stopped() -> None:
    with zmqkit.Pusher(LOCAL) as push:
        command = [sys.executable, "-c", THREAD, push.addresses[0]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            push.send_many(["x", "end"])
            out, _ = program.communicate(timeout=PATIENCE_S)
        assert (out, program.returncode) == ("x\nend\n", 0)
        assert push.flush(PATIENCE_S) == Settled(acked=2)
