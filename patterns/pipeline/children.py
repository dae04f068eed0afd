"""A process that runs a handler, again and again; and what handlers may be said to have raised.

Knows processes; no job, no puller, no event loop. The handler travels by its name, bodies and what comes of them over a
pipe of `multiprocessing`. What a handler raised comes back as it was raised, with the traceback from over there as its
cause. What could not be begun raises `NotTried`: that is nobody's failure.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from zmqkit.errors import UsageError
from zmqkit.peer.importable import Place, found_at

Handler = Callable[..., object]

STARTING: Final = 60.0
"""Seconds that a process may take to start and to find its handler."""

ENDING: Final = 1.0
"""Seconds until a process is gone that closed its end of the pipe."""


class NotTried(UsageError):
    """A handler could not be started: its job goes back untried, and the loop ends."""


class HandlerDied(RuntimeError):
    """The process in which a handler ran died over it."""


def whole(result: object) -> object:
    """What a handler returned; of a generator all that it yields, so that it has run where it is to run."""
    return iter(list(result)) if isinstance(result, Iterator) else result


def late(time_limit: float, then: str) -> TimeoutError:
    """What a handler is told to have raised that took too long."""
    return TimeoutError(f"the handler took longer than time_limit={time_limit:g} s, {then}")


class Child:
    """A process that runs a handler, again and again. It is started by the first call, and anew if it died.

    Args:
        place: of the handler.
        time_limit: seconds a call may take; then the process is killed. None: no limit.
    """

    def __init__(self, place: Place, time_limit: float | None) -> None:
        self._place = place
        self._time_limit = time_limit
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, argument: object) -> object:
        try:
            told, error, result = self._ask(argument)
        except BaseException:  # an interrupt, too: an answer that nobody waits for must not be the next one's
            self._drop()
            raise
        if told is None:
            return result
        error.__cause__ = RemoteTraceback(told)
        raise error

    def _ask(self, argument: object) -> tuple[str | None, Exception, object]:
        """The traceback of what it raised, if it did, and that; else what it returned."""
        pipe = self._pipe
        if pipe is None or not self._handed(pipe, argument):
            pipe = self._start()
            if not self._handed(pipe, argument):
                raise NotTried(f"the process for the handler ended as soon as it was started ({self._end()})")
        if not pipe.poll(self._time_limit):
            assert self._time_limit is not None
            raise late(self._time_limit, "and its process was killed")
        try:
            told = pipe.recv()
            if told is None:
                return None, Exception(), pipe.recv()
            line = pipe.recv()
            return told, _exception_from(pipe) or RuntimeError(line), None
        except (EOFError, OSError):
            raise HandlerDied(f"the process that ran the handler died over it ({self._end()})") from None

    def _handed(self, pipe: Connection, argument: object) -> bool:
        """Whether it got the argument; False: it had died before."""
        try:
            pipe.send(argument)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _start(self) -> Connection:
        self._drop()
        # Not by fork: threads run here, and a lock that one of them holds would be held there for ever.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        pipes: tuple[Connection, Connection] = context.Pipe()
        ours, theirs = pipes
        process = context.Process(target=_serve, args=(theirs, self._place), name="zmqkit-handler", daemon=True)
        self._process, self._pipe = process, ours
        try:
            process.start()
        except OSError as error:
            raise NotTried(f"no process can be started for the handler: {error}") from error
        finally:
            theirs.close()
        trouble = 'it does not answer; does the program start under if __name__ == "__main__":'
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
        """End the process, whatever it does. Whoever waits for it is told, by the end of its pipe."""
        process = self._process
        if process is not None and process.pid is not None:
            process.kill()
            process.join()

    def _drop(self) -> None:
        """End the process, and forget it. In the thread that called it only: nobody else reads from its pipe."""
        self.close()
        pipe, self._pipe, self._process = self._pipe, None, None
        if pipe is not None:
            pipe.close()


def _exception_from(pipe: Connection) -> Exception | None:
    """What the handler raised, if it can be made again here."""
    try:
        error = pipe.recv()
    except (EOFError, OSError):
        raise
    except Exception:  # some can be pickled, and not be read; they raise what they like
        return None
    return error if isinstance(error, Exception) else None


def _serve(pipe: Connection, place: Place) -> None:
    """The process: answers each argument, until the other end of the pipe is gone."""
    # Ctrl-C goes to all processes of a terminal, and how to stop is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        handler: Handler = found_at(place)
    except BaseException as error:
        pipe.send(f"it does not find the handler: {type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            _answer(pipe, handler, pipe.recv())


def _answer(pipe: Connection, handler: Handler, argument: object) -> None:
    """None and the result; or the traceback, a line, and the exception, if that can travel."""
    try:
        packed = ForkingPickler.dumps(whole(handler(argument)))
    except BaseException as error:
        pipe.send("".join(traceback.format_exception(error)))
        pipe.send(f"{type(error).__name__}: {error}")
        try:
            pipe.send(error if isinstance(error, Exception) else None)  # an exit over there is a failure, no more
        except Exception:  # it cannot be pickled, each kind in its own way
            pipe.send(None)
    else:
        pipe.send(None)
        pipe.send_bytes(packed)


class RemoteTraceback(Exception):
    """Where it was raised in the other process; the cause of what is raised here."""

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.shown = shown

    def __str__(self) -> str:
        return f'\n"""\n{self.shown}"""'
