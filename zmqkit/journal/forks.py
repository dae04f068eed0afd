"""What becomes of open journals when the process forks. Knows only that they can be held still.

SQLite does not bear being carried over a fork. The parent goes on as before; in the child every use of the parent's
journal raises `Forked`, at once. And no thread may be inside SQLite while the process forks, or the child would
inherit its mutexes locked and could never open a journal of its own.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

HOLD_S = 10.0
"""How long a fork waits for a commit under way; a disk that does not answer must not keep it for ever."""


class Forkable(Protocol):
    """What is told of forks."""

    def before_fork(self, timeout_s: float) -> bool:
        """Be still until one of the others is called; False if that could not be had in time."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Be of no more use, and touch nothing."""


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[Forkable] = []


def watch(journal: Forkable) -> None:
    """Tell it of forks from now on."""
    _watched.add(journal)


def forget(journal: Forkable) -> None:
    """Tell it no more."""
    _watched.discard(journal)


def _before() -> None:
    _held.extend([journal for journal in list(_watched) if journal.before_fork(HOLD_S)])


def _after_in_parent() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


def _after_in_child() -> None:
    _held.clear()
    for journal in list(_watched):
        journal.after_fork_in_child()
    _watched.clear()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
