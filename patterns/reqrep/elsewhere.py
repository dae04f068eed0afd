"""Executions in other processes: what runs there, and the pool of them.

A function travels by its name, arguments and results as bytes of the codec. So nothing of ours is pickled but names and
bytes, and a result that cannot travel says so as it does everywhere.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import threading
from typing import Any, Final

from zmqkit.options import Limits
from zmqkit.patterns.reqrep.calls import Answer, Execution
from zmqkit.patterns.reqrep.handling import Handling
from zmqkit.patterns.reqrep.methods import Mark, Method, Methods
from zmqkit.patterns.reqrep.outcomes import CODE_DRAINING, refused, unknown
from zmqkit.peer.importable import Place, found_at, importable, place_of

TRIES: Final = 3
"""A pool in which a process died is replaced; whoever comes meanwhile tries the next one."""


class Pool:
    """Where a server's plain functions run, if not in its threads.

    Args:
        processes: how many; 0: `executor` is the user's own.
        executor: of the user; not shut down here.
    """

    def __init__(self, processes: int, executor: concurrent.futures.Executor | None) -> None:
        self._processes = processes
        self._given = executor
        self._own: concurrent.futures.ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, method: Method, execution: Execution, handling: Handling, tells: bool) -> Answer:
        """Execute there, and wait for it."""
        place = place_of(method.call)
        assert place is not None
        codec = "msgpack" if execution.plain is not None else handling.codec
        for _ in range(TRIES):
            try:
                executor = self._executor()
                future = executor.submit(
                    execute, place, method.name, execution.body, execution.codec, codec, handling.limits, tells
                )
                break
            except RuntimeError as error:  # it is broken, or was shut down: this call was not taken
                fault = error
                self._broken(executor)
            except concurrent.futures.CancelledError:
                return refused(CODE_DRAINING, "the server is being stopped")
        else:
            return refused("executor", f"its executor takes no more calls: {fault}")
        try:
            return Answer(*future.result())
        except concurrent.futures.BrokenExecutor as error:
            self._broken(executor)
            return unknown("died", f"the process that executed {method.name}() died: {error}")
        except concurrent.futures.CancelledError:
            return unknown("stopped", f"the server was stopped before {method.name}() was through")

    def _executor(self) -> concurrent.futures.Executor:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                if self._closed:
                    raise concurrent.futures.CancelledError("the server is closed")
                # Not by fork: threads run here, and a lock that one of them holds would be held there for ever.
                methods = multiprocessing.get_all_start_methods()
                context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
                self._own = concurrent.futures.ProcessPoolExecutor(self._processes, mp_context=context)
            return self._own

    def _broken(self, executor: concurrent.futures.Executor) -> None:
        with self._lock:
            if self._own is not executor:
                return
            self._own = None
        executor.shutdown(wait=False)

    def close(self) -> None:
        """End the processes, whatever they do: who drains has waited before."""
        with self._lock:
            self._closed = True
            own, self._own = self._own, None
        if own is None:
            return
        processes = list((getattr(own, "_processes", None) or {}).values())
        manager = getattr(own, "_executor_manager_thread", None)
        own.shutdown(wait=False, cancel_futures=True)
        for each in processes:
            with contextlib.suppress(Exception):
                each.join(0.2)
                if each.is_alive():
                    each.terminate()
        if manager is not None:
            # It gives the semaphores back. If this process ends meanwhile, multiprocessing complains that some leaked.
            manager.join(1.0)


def check_importable(method: Method) -> None:
    """Raises `UsageError` for a function that another process could not find."""
    importable(method.call, f"{method.name}()")


# ---- in the other process -----------------------------------------------------------

_handlings: dict[tuple[Any, ...], Handling] = {}


def execute(
    place: Place, name: str, body: bytes, codec: str, codec_out: str, limits: Limits, tells: bool
) -> tuple[Any, ...]:
    """Execute one call here; an `Answer` as a plain tuple."""
    key = (place, name, codec_out, limits, tells)
    handling = _handlings.get(key)
    if handling is None:
        methods = Methods()
        methods.add(found_at(place), Mark(), name)
        handling = _handlings[key] = Handling(methods, codec_out, limits, lambda _: tells, _no_upload)
    execution = Execution(b"", 0, name, body)
    execution.codec = codec
    ready = handling.prepare(execution)
    if isinstance(ready, Answer):
        return tuple(ready)
    try:
        value = ready.method.call(*ready.args, **ready.kwargs)
    except BaseException as error:
        return tuple(handling.failed(ready, error))
    return tuple(handling.result(ready, value))


def _no_upload(execution: Execution, method: Method) -> Any:
    raise TypeError(f"{method.name}() runs in another process, which takes no uploads")
