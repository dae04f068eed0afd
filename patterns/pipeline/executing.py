"""Where handlers run, if not in the thread that took the job: in processes, in a user's executor, under a time limit.

Knows the places; no job, no puller, no event loop.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from zmqkit import checks
from zmqkit.errors import UsageError
from zmqkit.patterns.pipeline.beside import Submitted, Timed
from zmqkit.patterns.pipeline.children import Child, Handler, HandlerDied, NotTried
from zmqkit.peer.importable import check_main, importable


class Hand(Protocol):
    """Runs one handler at a time."""

    def __call__(self, argument: object) -> object:
        """Run it, and return or raise what it does. Raises `TimeoutError` if it takes too long."""

    def close(self) -> None:
        """End what it holds, and what it runs if that can be ended. From any thread."""


class Hands:
    """As many hands as are needed at a time; called as the handler would be, from any thread.

    Args:
        make: makes one more.
    """

    def __init__(self, make: Callable[[], Hand]) -> None:
        self._make = make
        self._idle: list[Hand] = []
        self._all: list[Hand] = []
        self._closed = False
        self._lock = threading.Lock()

    def __call__(self, argument: object) -> object:
        with self._lock:
            if self._closed:
                raise NotTried("the puller was stopped")
            hand = self._idle.pop() if self._idle else None
            if hand is None:
                hand = self._make()
                self._all.append(hand)
        try:
            return hand(argument)
        except HandlerDied:
            if self._closed:  # by `close`: nobody's failure
                raise NotTried("the puller was stopped before the handler was through") from None
            raise
        finally:
            with self._lock:
                self._idle.append(hand)

    def close(self) -> None:
        """End them, whatever they do."""
        with self._lock:
            self._closed = True
            hands, self._all = self._all, []
        for hand in hands:
            hand.close()


@contextlib.contextmanager
def executing(
    handler: Handler, processes: int, executor: concurrent.futures.Executor | None, time_limit: float | None
) -> Iterator[Handler]:
    """What to call in place of the handler, so long as the block runs; coroutines are called as they are.

    Raises `UsageError` where no processes may be started.
    """
    made: Hands | None = None
    if processes:
        check_main()
        place = importable(handler, shown_name(handler))
        made = Hands(lambda: Child(place, time_limit))
    elif executor is not None:
        made = Hands(lambda: Submitted(executor, handler, time_limit))
    elif time_limit is not None and not _is_coroutine(handler):
        made = Hands(lambda: Timed(handler, time_limit))
    try:
        yield handler if made is None else made
    finally:
        if made is not None:
            made.close()


def check_places(
    handler: Handler, processes: int, executor: object, time_limit: float | None, *, whole: bool = False
) -> float | None:
    """The time limit in seconds. Raises for what does not go together, and for what cannot run elsewhere.

    Args:
        whole: the handler wants the job, or the batch, rather than bodies.
    """
    coroutine = _is_coroutine(handler)
    if type(processes) is not int or not 0 <= processes <= 10_000:
        raise ValueError(f"processes must be a whole number from 0 to 10000, got {processes!r:.100}")
    if executor is not None and not isinstance(executor, concurrent.futures.Executor):
        raise TypeError(f"executor must be a concurrent.futures.Executor, or None, got {executor!r:.100}")
    if processes and executor is not None:
        raise UsageError("processes= and executor= are two places for the same handler: give one of them")
    elsewhere = "processes=" if processes else "executor=" if executor is not None else ""
    if elsewhere and coroutine:
        raise UsageError(f"a coroutine runs on the event loop only: give a plain function, or leave {elsewhere} out")
    if elsewhere and whole:
        raise UsageError(f"a Job belongs to this process: with {elsewhere} a handler gets the body, so annotate it so")
    if processes:
        importable(handler, shown_name(handler))
    if time_limit is None:
        return None
    found = checks.number("time_limit", time_limit, "a positive number of seconds, or None")
    if not 0 < found < 1e9:
        raise ValueError(f"time_limit must be a positive number of seconds, or None, got {time_limit!r}")
    return found


def _is_coroutine(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)


def shown_name(handler: Handler) -> str:
    """A handler's name, for messages."""
    return getattr(handler, "__qualname__", repr(handler))
