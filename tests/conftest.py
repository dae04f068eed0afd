"""What all tests share: nothing leaves this machine, and nothing that a test started outlives it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.preloaded import Preloaded

# No test is timed: on a busy machine an example may take as long as it likes. One that fails is printed to be replayed.
hypothesis.settings.register_profile("untimed", deadline=None, print_blob=True)
hypothesis.settings.load_profile("untimed")

LEAK_GRACE_S = 5.0
"""How long threads and processes that are on their way out may take after a test."""

TASKS = "/proc/self/task"
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 1 << 30

# For this process and for all that tests start: announce and browse on the loopback interface only.
os.environ["ZMQKIT_INTERFACES"] = "127.0.0.1"
os.environ.pop("ZMQKIT_INSECURE", None)

# A shell starts what runs in its background with SIGINT ignored, and children inherit that. Ours must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "test_every_seed_is_safe", "test_what_was_confirmed_settles", "test_every_call_ends", "test_no_job_is_lost",
    "test_nothing_is_lost_in_silence", "test_a_page_runs", "test_a_large_backlog",
)  # fmt: skip
"""Tests that take ten seconds and more: they begin first, so that none runs alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; all else stays in its order."""
    items.sort(key=lambda item: not item.name.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the collector of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread of zmqkit's, a child process, or a handler of Ctrl-C behind.

    What stood before the test, because a fixture of wider scope made it, may stand after it.
    """
    threads_before = set(_zmqkit_threads())
    children_before = set(_children())
    yield
    deadline = time.monotonic() + LEAK_GRACE_S
    for thread in set(_zmqkit_threads()) - threads_before:
        thread.join(max(0.0, deadline - time.monotonic()))
    threads = sorted(thread.name for thread in set(_zmqkit_threads()) - threads_before)
    children = _wait_for_children(children_before, deadline)
    assert not threads, f"the test left threads running: {', '.join(threads)}"
    assert not children, f"the test left processes behind: {'; '.join(children)}"
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert handler is signal.default_int_handler, f"the test left a handler of SIGINT behind: {handler!r}"


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Starts commands and programs without importing everything anew."""
    server = Preloaded()
    yield server
    server.close()


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory, if there is room: where nobody cuts the real power, no sync need be waited for."""
    there = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(prefix="zmqkit-", dir=MEMORY if there else None) as folder:
        yield Path(folder)


def _zmqkit_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("zmqkit")]


def _wait_for_children(before: set[int], deadline: float) -> list[str]:
    while True:
        left = [f"{pid} ({command})" for pid, command in _children().items() if pid not in before]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)  # a process that nobody may wait for gives no event


def _children() -> dict[int, str]:
    """The live children of this process and their command lines; ended ones that wait to be reaped are left out.

    Empty where there is no /proc. multiprocessing's own helpers live as long as the interpreter, on purpose.
    """
    children = {}
    for pid in _pids_of_children():
        entry = Path("/proc", pid)
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) != os.getpid() or state in "ZX":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        if "resource_tracker" not in command and "forkserver" not in command:
            children[int(pid)] = command[:200]
    return children


def _pids_of_children() -> set[str]:
    """As the kernel lists them, where it does; else all processes. To look at each costs milliseconds, twice a test."""
    found: set[str] = set()
    for _ in range(2):  # one that ends while the list is read may hide another
        for task in os.listdir(TASKS) if os.path.isdir(TASKS) else ():
            try:
                listed = os.open(f"{TASKS}/{task}/children", os.O_RDONLY)
            except FileNotFoundError:
                if os.path.exists(f"{TASKS}/{task}/stat"):  # a kernel without these lists; else the thread has ended
                    return {entry.name for entry in Path("/proc").glob("[0-9]*")}
                continue
            try:
                found.update(os.read(listed, 1 << 16).decode().split())
            except OSError:
                continue  # the thread ended while we looked
            finally:
                os.close(listed)
    return found
