"""Tasks without a task group, on asyncio and trio: plain ones there, system tasks here.

Who starts one catches all that it raises. Knows event loops, and nothing of calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from zmqkit.transport.waiters import in_trio

_tasks: set[asyncio.Task[None]] = set()
"""asyncio itself holds tasks weakly."""


class Loop:
    """The running event loop, as other threads may reach it, and as tasks are started in it."""

    def __init__(self) -> None:
        self._trio: Any = None
        self._asyncio: asyncio.AbstractEventLoop | None = None
        if in_trio():
            import trio

            self._trio = trio.lowlevel.current_trio_token()
        else:
            self._asyncio = asyncio.get_running_loop()

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Call `fn` in the loop's thread, from any thread. If the loop has ended, nothing happens."""
        with contextlib.suppress(Exception):  # RuntimeError, trio.RunFinishedError: nobody is there
            if self._asyncio is not None:
                self._asyncio.call_soon_threadsafe(fn)
            else:
                self._trio.run_sync_soon(fn)

    def start(self, fn: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str) -> None:
        """Start a task, from within the loop. It must catch what it raises."""
        if self._asyncio is not None:
            task = self._asyncio.create_task(fn(*args), name=name)
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
        else:
            import trio

            trio.lowlevel.spawn_system_task(fn, *args, name=name, context=contextvars.copy_context())
