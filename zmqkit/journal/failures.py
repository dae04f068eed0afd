"""Errors of SQLite and of the system, as ours. Knows no journal."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import apsw

from zmqkit.errors import JournalError, JournalFull
from zmqkit.journal import layout

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


def no_room(path: str, doing: str) -> JournalFull:
    """No room: the refusal, with what to do."""
    return JournalFull(
        f"{path}: no room on the disk for {doing}; nothing of it was stored, and what was confirmed is safe. "
        "Make room there; storing works again as soon as there is some."
    )


@contextlib.contextmanager
def errors_of(path: str, doing: str) -> Iterator[None]:
    """While this lasts, whatever SQLite and the system raise is a `JournalError` that says what was being done."""
    try:
        yield
    except (apsw.FullError, OSError) as error:
        if isinstance(error, apsw.FullError) or error.errno in FULL_ERRNOS:
            raise no_room(path, doing) from error
        raise JournalError(f"{path}: {doing} it failed ({error})") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise JournalError(
            f"{path}: {doing} it failed, another program has it open with SQLite ({error}); close it there"
        ) from error
    except (apsw.IOError, apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as error:
        raise JournalError(f"{path}: {doing} it failed ({error})") from error
    except (apsw.Error, UnicodeDecodeError) as error:
        raise layout.damaged(path, str(error)) from error
