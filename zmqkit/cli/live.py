"""A pipeline's journal, whether a program has it open or not: the file, or the program's control socket.

Prints nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zmqkit.cli import closed
from zmqkit.errors import JournalBusy
from zmqkit.journal import SqliteJournal
from zmqkit.journal.lock import inspect

if TYPE_CHECKING:
    from zmqkit.patterns.pipeline.steering_sync import LiveJournal


@contextlib.contextmanager
def opened(path: Path) -> Iterator[SqliteJournal | LiveJournal]:
    """A journal to look into; one that a program of this host has open is asked there.

    Raises:
        JournalBusy: somebody has it who does not answer: on another host, of another user, or no pusher.
        JournalError: there is none, it is damaged, it is for something else...
    """
    with contextlib.ExitStack() as stack:
        journal: SqliteJournal | LiveJournal
        try:
            journal = stack.enter_context(closed.opened(path))
        except JournalBusy:
            live = _reached(path)
            if live is None:
                raise
            stack.callback(live.close, 0.0)
            journal = live
        yield journal


def _reached(path: Path) -> LiveJournal | None:
    # here: who looks into a closed file waits for no sockets
    from zmqkit.patterns.pipeline.steering_sync import reach
    from zmqkit.patterns.pipeline.steward import address_of

    file = os.path.realpath(path)
    holder, mark = inspect(f"{file}.lock")
    if holder is None or holder.host != socket.gethostname() or mark is None or not mark.journal:
        return None
    address = address_of(mark.journal, os.stat(file).st_uid)
    return None if address is None else reach(address, str(path))
