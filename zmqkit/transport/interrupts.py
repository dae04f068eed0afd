"""Keeps Ctrl-C, and whatever else Python's signal handlers raise, out of the middle of a core's turn.

Knows Python's signals and nothing of drivers. Handlers run in the main thread, between any two instructions; what they
raise would tear apart what the main thread is just doing to a core. So while it does that, handlers are put off: in
their place stands one that notes the signal, and the true one is called as soon as the turn is over. Elsewhere, and
above all while the thread sleeps, they are called at once.

The true handlers are put back after each section, not at the end of the program: asyncio and trio install their own
only where they find Python's default, and must not find ours.

In other threads nothing is done, as no handler runs there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any

try:
    # The plain functions below those of `signal`, which turn all they touch into enums: ten times the price.
    from _signal import getsignal, signal as install  # type: ignore[import-not-found, unused-ignore]  # isort: skip
except ImportError:  # not CPython
    from signal import getsignal
    from signal import signal as install

ELSEWHERE, FIRST, NESTED, WITHIN_OPEN = range(4)
"""What `enter` found, for `leave`: another thread; the first section; a closed one round it; one that is open."""

IDLE, CLOSED, OPEN = range(3)


class Guard:
    """The state of the main thread.

    Attributes:
        state: IDLE; CLOSED: handlers are put off; OPEN: within a section, but they are called at once. `open_up`
            stands before what sleeps, behind it a plain store: no handler runs between two instructions without a call.
    """

    __slots__ = ("called", "main", "noted", "signals", "state", "true")

    def __init__(self) -> None:
        self.state = IDLE
        self.called = False
        """A true handler was called since `put_off`."""
        self.main = threading.main_thread().ident
        self.signals: tuple[int, ...] = (int(signal.SIGINT),)
        """Those with handlers in Python, see `look_round`."""
        self.true: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self.noted: list[int] = []


guard = Guard()


def enter() -> int:
    """From here on no handler of this thread is called, until `leave`, or while `guard.state` is OPEN."""
    if get_ident() != guard.main:
        return ELSEWHERE
    state = guard.state
    if state != CLOSED:
        # While it is not CLOSED yet our handler calls the true one: an exception in here leaves all as it was.
        put_off()
        guard.state = CLOSED
    return state + 1


def put_off() -> None:
    """Put our handler in the place of those that there are; again, where one was changed since."""
    guard.called = False
    for number in guard.signals:
        handler = getsignal(number)
        if handler is not _note and callable(handler):
            guard.true[number] = handler
            install(number, _note)


def open_up() -> None:
    """Handlers are called from here on, also those of signals that came since the section began. Before what sleeps."""
    guard.state = OPEN
    if guard.noted:
        _handle()


def leave(found: int) -> None:
    """The section ends: whatever signal came is handled now, and may raise here."""
    if found == FIRST:
        guard.state = IDLE  # first: from here on handlers are called, and may raise
        try:
            _put_back()
        except BaseException:
            _put_back()
            raise
        if guard.noted:
            _handle()
    elif found == WITHIN_OPEN:
        open_up()


def look_round() -> None:
    """See which signals have handlers in Python by now. From any thread."""
    guard.signals = tuple(n for n in range(1, signal.NSIG) if n == signal.SIGINT or callable(getsignal(n)))


def _note(number: int, frame: FrameType | None) -> None:
    if guard.state == CLOSED:
        guard.noted.append(number)
    else:
        guard.called = True
        guard.true[number](number, frame)


def _put_back() -> None:
    for number, handler in guard.true.items():
        if getsignal(number) is _note:  # otherwise a handler, or a callback, has installed another one
            install(number, handler)


def _handle() -> None:
    while guard.noted:
        number = guard.noted.pop(0)
        guard.true[number](number, sys._getframe(1))


def _forked() -> None:
    guard.main = threading.main_thread().ident
    guard.noted.clear()


os.register_at_fork(after_in_child=_forked)
