"""Where handlers run, if not in the thread that took the job: in processes, in a user's executor, or under a time limit.

Knows handlers, processes and threads; no job, no puller, no event loop. What a handler raised comes back as it was
raised, with the traceback from over there as its cause. What could not be begun raises `NotTried`: that is nobody's
failure.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import multiprocessing
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol

from zmqkit import checks
from zmqkit.errors import UsageError

Handler = Callable[..., object]

log = logging.getLogger("zmqkit.pipeline")

STARTING: Final = 60.0
"""Seconds that a process may take to start and to find its handler."""

ENDING: Final = 1.0
"""Seconds that an idle process has to end by itself."""

MOST_ABANDONED: Final = 32
"""So many threads may run on beyond their time; then nothing more is begun until one of them ends."""


class NotTried(UsageError):
    """A handler could not be started: its job goes back untried, and the loop ends."""


class HandlerDied(RuntimeError):
    """The process in which a handler ran died over it."""


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
    """What to call in place of the handler, so long as the block runs. Plain functions only."""
    made: Hands | None = None
    if processes:
        packed = _packed(handler)
        made = Hands(lambda: Child(packed, time_limit))
    elif executor is not None:
        made = Hands(lambda: Submitted(executor, handler, time_limit))
    elif time_limit is not None:
        made = Hands(lambda: Timed(handler, time_limit))
    try:
        yield handler if made is None else made
    finally:
        if made is not None:
            made.close()


def check_places(
    handler: Handler, processes: int, executor: object, time_limit: float | None, *, whole: bool, coroutine: bool
) -> float | None:
    """The time limit in seconds. Raises for what does not go together, and for what cannot run elsewhere.

    Args:
        whole: the handler wants the job, or the batch, rather than bodies.
        coroutine: it is a coroutine function.
    """
    if type(processes) is not int or not 0 <= processes <= 10_000:
        raise ValueError(f"processes must be a whole number from 0 to 10000, got {processes!r:.100}")
    if executor is not None and not isinstance(executor, concurrent.futures.Executor):
        raise TypeError(f"executor must be a concurrent.futures.Executor, or None, got {executor!r:.100}")
    if processes and executor is not None:
        raise UsageError("processes= and executor= are two places for the same handler: give one of them")
    elsewhere = "processes=" if processes else "executor=" if executor is not None else ""
    if elsewhere and coroutine:
        raise UsageError(f"a coroutine runs on the event loop, and nowhere else: give a plain function, or no {elsewhere}")
    if elsewhere and whole:
        raise UsageError(f"a Job belongs to this process: with {elsewhere} a handler gets the body, so annotate it so")
    if processes:
        _packed(handler)
    if time_limit is None:
        return None
    found = checks.number("time_limit", time_limit, "a positive number of seconds, or None")
    if not 0 < found < 1e9:
        raise ValueError(f"time_limit must be a positive number of seconds, or None, got {time_limit!r}")
    return found


def late(time_limit: float, then: str) -> TimeoutError:
    """What a handler is told to have raised that took too long."""
    return TimeoutError(f"the handler took longer than time_limit={time_limit:g} s, {then}")


# ---- in a process of its own -------------------------------------------------------


def _packed(handler: Handler) -> bytes:
    try:
        return pickle.dumps(handler)
    except Exception as error:  # PicklingError, AttributeError, TypeError, and what __reduce__ raises
        shown = getattr(handler, "__qualname__", repr(handler))
        raise UsageError(
            f"{shown} cannot run in another process, which finds functions by module and name ({error}): define it at "
            f"the top of a module, or run it in threads (processes=0)"
        ) from None


class Child:
    """A process that runs a handler, again and again. It is started by the first call, and anew if it died.

    Args:
        packed: the handler, pickled.
        time_limit: seconds a call may take; then the process is killed. None: no limit.
    """

    def __init__(self, packed: bytes, time_limit: float | None) -> None:
        self._packed = packed
        self._time_limit = time_limit
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, argument: object) -> object:
        try:
            pipe = self._pipe
            if pipe is None or not self._handed(pipe, argument):
                pipe = self._start()
                if not self._handed(pipe, argument):
                    raise NotTried(f"the process for the handler ended as soon as it was started ({self._end()})")
            if not pipe.poll(self._time_limit):
                assert self._time_limit is not None
                raise late(self._time_limit, "and its process was killed")
            try:
                done, value = pipe.recv()
            except (EOFError, OSError):
                raise HandlerDied(f"the process that ran the handler died over it ({self._end()})") from None
        except BaseException:  # an interrupt, too: an answer that nobody waits for must not be the next one's
            self.close()
            raise
        if done:
            return value
        raise _rebuilt(*value)

    def _handed(self, pipe: Connection, argument: object) -> bool:
        """Whether it got the argument; False: it had died before."""
        try:
            pipe.send(argument)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _start(self) -> Connection:
        self.close()
        # Not by fork: threads run here, and a lock that one of them holds would be held there for ever.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._packed), name="zmqkit-handler", daemon=True)
        self._process, self._pipe = process, ours
        try:
            process.start()
        except OSError as error:
            raise NotTried(f"no process can be started for the handler: {error}") from error
        finally:
            theirs.close()
        trouble = "it does not answer"
        with contextlib.suppress(EOFError, OSError):
            if ours.poll(STARTING):
                trouble = ours.recv()
        if trouble:
            raise NotTried(f"the process for the handler could not be used: {trouble} ({self._end()})")
        return ours

    def _end(self) -> str:
        """How it ended."""
        process = self._process
        if process is None:
            return "it was ended"
        process.join(ENDING)
        code = process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    def close(self) -> None:
        """End the process, whatever it does."""
        pipe, process = self._pipe, self._process
        self._pipe = self._process = None
        if process is not None and process.pid is not None:
            process.kill()
            process.join()
        if pipe is not None:
            pipe.close()


def _serve(pipe: Connection, packed: bytes) -> None:
    """The process: answers each argument, until the other end of the pipe is gone."""
    # Ctrl-C goes to all processes of a terminal, and how to stop is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handler: Handler = pickle.loads(packed)
    except BaseException as error:
        pipe.send(f"it does not find the handler: {type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            argument = pipe.recv()
            pipe.send(_answer(handler, argument))


def _answer(handler: Handler, argument: object) -> tuple[bool, Any]:
    try:
        result = handler(argument)
        if isinstance(result, Iterator):
            result = Several(result)
        pickle.dumps(result)
        return True, result
    except BaseException as error:
        shown = "".join(traceback.format_exception(error))
        told = f"{type(error).__name__}: {error}"
        try:
            kept = pickle.dumps(error)
            pickle.loads(kept)  # some can be written, and not be read
        except Exception:
            kept = b""
        return False, (kept, told, shown)


class Several:
    """What a generator yielded over there, to be taken once as from an iterator."""

    def __init__(self, results: Iterator[object]) -> None:
        self._left = list(results)

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        if not self._left:
            raise StopIteration
        return self._left.pop(0)


class RemoteTraceback(Exception):
    """Where it was raised in the other process; the cause of what is raised here."""

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.shown = shown

    def __str__(self) -> str:
        return f'\n"""\n{self.shown}"""'


def _rebuilt(kept: bytes, told: str, shown: str) -> BaseException:
    error: BaseException | None = None
    if kept:
        with contextlib.suppress(Exception):
            error = pickle.loads(kept)
    if not isinstance(error, Exception):  # SystemExit over there is a failure, and does not end this process
        error = RuntimeError(told)
    error.__cause__ = RemoteTraceback(shown)
    return error


# ---- in a user's executor ----------------------------------------------------------


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


# ---- in a thread beside --------------------------------------------------------------


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
            raise late(self._time_limit, "and runs on: a thread cannot be stopped, a process can (processes=)") from None
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
                    answer.put((True, self._handler(argument)))
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
            if not any(each.is_alive() for each in left):
                return
            time.sleep(0)

    def close(self) -> None:
        """Let the thread end, after what it runs."""
        self._abandon()
