"""What a server finds in its journal when it opens it: replies, calls whose end is not known, floors.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqkit.errors import DecodeError
from zmqkit.patterns.reqrep.ledger import Ledger
from zmqkit.patterns.reqrep.rows import FLOOR, CallRow, read_call, unreadable
from zmqkit.patterns.reqrep.window import DONE, STARTED, Entry, ReplyWindow
from zmqkit.protocol.core import Row


def restore(rows: Sequence[Row], window: ReplyWindow, ledger: Ledger) -> None:
    """Put what the log ``calls`` held into the window.

    Raises:
        JournalDamaged: a row cannot be read. To go on without it might be to execute a call twice.
    """
    floors: dict[bytes, CallRow] = {}
    for row in rows:
        try:
            found = read_call(row)
        except DecodeError as error:
            raise unreadable(error) from error
        ledger.found(found.key)
        if found.kind == FLOOR:
            if found.client not in floors or floors[found.client].number < found.number:
                floors[found.client] = found
        else:
            _restore_entry(found, window)
    for key, floor in floors.items():
        client = window.clients.get(key)
        if client is None:
            window.remember_floor(key, floor.number, floor.key)
        else:
            client.evicted, client.row = floor.number, floor.key


def _restore_entry(found: CallRow, window: ReplyWindow) -> None:
    client = window.client(found.client)
    if found.number in client.entries and found.answer is None:
        return  # a reply tells more than a start
    state = STARTED if found.answer is None else DONE
    entry = Entry(client, found.number, found.id, found.method, state)
    entry.key = found.key
    if found.answer is not None:
        entry.answer = found.answer
    window.restore(entry)
