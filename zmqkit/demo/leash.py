"""What ties each process of the demo to the one that started it, and how it tells that one how far it is.

Standard input is the leash. A line ``go`` lets the process go on where it holds work in hand; the end of the input,
which comes too when the parent is killed, stops it. On standard output stands a line of JSON each time.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

STOP_S = 2.0
"""How long an orderly stop may take before the process just ends. What it has to lose is on the disk."""

TELL_S = 0.05
"""Between two lines about how far it is."""


class Leash:
    """The leash of this process.

    Args:
        stop: called when it ends, from another thread.

    Attributes:
        ended: set when it ends.
    """

    def __init__(self, stop: Callable[[], object]) -> None:
        self.ended = threading.Event()
        self._stop = stop
        self._go = threading.Event()
        self._told = 0.0

    def follow(self) -> None:
        """Begin to obey."""
        threading.Thread(target=self._obey, name="leash", daemon=True).start()

    def hold(self) -> None:
        """Hold work in hand, unfinished, until told to go on."""
        if not self._go.is_set():
            self.tell(holding=True)
            self._go.wait()

    def tell(self, **what: Any) -> None:
        """Tell the parent something."""
        os.write(1, json.dumps(what).encode() + b"\n")

    def tell_now_and_then(self, what: Callable[[], dict[str, Any]]) -> None:
        """Tell the parent how far it is, unless it was told just before."""
        if time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self.tell(**what())

    def _obey(self) -> None:
        while order := os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would end the process with a crash
            if b"go\n" in order:
                self._go.set()
        self._go.set()
        self.ended.set()
        self._stop()
        time.sleep(STOP_S)
        os._exit(1)
