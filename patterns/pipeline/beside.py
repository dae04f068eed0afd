"""Handlers in a user's executor, and in threads that are left alone when they take too long.

Knows threads and executors; no job, no puller, no event loop.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
from typing import Any, Final

from zmqkit.patterns.pipeline.children import Handler, NotTried, late, whole

log = logging.getLogger("zmqkit.pipeline")

MOST_ABANDONED: Final = 32
"""So many threads may run on beyond their time; then nothing more is begun until one of them ends."""


class Submitted:
    """Runs a handler in an executor, which is the user's: it is not shut down here."""

    def __init__(self, executor: concurrent.futures.Executor, handler: Handler, time_limit: float | None) -> None:
        self._executor = executor
        self._handler = handler
        self._time_limit = time_limit

    def __call__(self, argument: object) -> object:
        try:
            future = self._executor.submit(self._handler, argument)
        except Exception as error:  # it is shut down, or broken: each kind has its own way to say so
            raise NotTried(f"the executor takes no more work: {type(error).__name__}: {error}") from error
        try:
            return future.result(self._time_limit)
        except concurrent.futures.CancelledError:
            raise NotTried("the executor was shut down before it began") from None
        except TimeoutError:
            if future.done() or self._time_limit is None:
                raise  # the handler's own
            then = "and was not begun" if future.cancel() else "and runs on: an executor does not stop what it runs"
            raise late(self._time_limit, then) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Nothing is ours."""


class Timed:
    """Runs a handler in a thread of its own, and leaves it there if it takes too long: no thread can be stopped."""

    _abandoned: set[threading.Thread] = set()  # noqa: RUF012 - of the whole process
    _lock = threading.Lock()

    def __init__(self, handler: Handler, time_limit: float) -> None:
        self._handler = handler
        self._time_limit = time_limit
        self._work: queue.SimpleQueue[Any] | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, argument: object) -> object:
        self._await_abandoned()
        if self._work is None:
            self._work = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._loop, args=(self._work,), name="zmqkit-limited", daemon=True)
            self._thread.start()
        answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._work.put((argument, answer))
        try:
            done, value = answer.get(timeout=self._time_limit)
        except queue.Empty:
            self._abandon()
            log.warning("a handler takes longer than %g s, and runs on; what it returns is ignored", self._time_limit)
            raise late(self._time_limit, "and runs on: processes can be stopped (processes=), threads cannot") from None
        except BaseException:
            self._abandon()
            raise
        if done:
            return value
        try:
            raise value
        finally:
            del value  # or its traceback would hold itself

    def _loop(self, work: queue.SimpleQueue[Any]) -> None:
        try:
            while (task := work.get()) is not None:
                argument, answer = task
                try:
                    answer.put((True, whole(self._handler(argument))))
                except BaseException as error:
                    answer.put((False, error))
                del task, argument, answer
        finally:
            with self._lock:
                self._abandoned.discard(threading.current_thread())

    def _abandon(self) -> None:
        work, thread = self._work, self._thread
        self._work = self._thread = None
        if work is not None and thread is not None:
            with self._lock:
                self._abandoned.add(thread)
            work.put(None)

    def _await_abandoned(self) -> None:
        while True:
            with self._lock:
                left = list(self._abandoned)
            if len(left) < MOST_ABANDONED:
                return
            left[0].join(0.1)

    def close(self) -> None:
        """Let the thread end, after what it runs."""
        self._abandon()
