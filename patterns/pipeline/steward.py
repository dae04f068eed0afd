"""The face of a pusher's control socket: where it is, and how what is asked there is answered.

Knows the pusher's face, its journal, and the system's folders for sockets. A thread answers, while there is something
to answer; it waits as users' threads do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from zmqkit.errors import DecodeError, UsageError, ZmqkitError
from zmqkit.patterns.pipeline.dead import DeadLettersBase, Sorting
from zmqkit.patterns.pipeline.steering import Answer, Request, Sought
from zmqkit.protocol.core import Read
from zmqkit.transport.sockets import answers
from zmqkit.transport.tickets import wait

log = logging.getLogger("zmqkit.pipeline")

PAGE_BYTES: Final = 1 << 20
MOST_WAITING: Final = 100
"""So many questions wait to be answered; others are told to come again."""
LONGEST_PATH: Final = 100
"""A local socket's path has 107 bytes at most on Linux, 103 elsewhere."""


def address_for(uuid: str) -> str | None:
    """Where the control socket of a journal may be bound, in a folder that is this user's alone; None: nowhere.

    A file that a killed process left there is taken over; whoever has the journal is alone.
    """
    for folder in folders_of(os.geteuid()):
        path = os.path.join(folder, uuid)
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if _is_private(folder, os.geteuid()) and len(os.fsencode(path)) <= LONGEST_PATH and not answers(path):
                if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
                    continue  # somebody put something else there
                return f"ipc://{path}"
    log.info("no control socket: there is no folder for it that is this user's alone")
    return None


def address_of(uuid: str, user: int) -> str | None:
    """Where the control socket of a user's open journal is, or was; None: there is none."""
    for folder in folders_of(user):
        path = os.path.join(folder, uuid)
        with contextlib.suppress(OSError):
            if _is_private(folder, user) and stat.S_ISSOCK(os.lstat(path).st_mode):
                return f"ipc://{path}"
    return None


def folders_of(user: int) -> Iterator[str]:
    """Where a user's control sockets may be, the best one first."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    for base in (given, f"/run/user/{user}"):
        if base and os.path.isabs(base) and os.path.isdir(base):
            yield os.path.join(base, "zmqkit")
    yield f"/tmp/zmqkit-{user}"


def _is_private(folder: str, user: int) -> bool:
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077


def make_private(address: str) -> None:
    """The socket itself is the user's alone, too."""
    with contextlib.suppress(OSError):
        os.chmod(address.removeprefix("ipc://"), 0o600)


def remove(address: str) -> None:
    """The socket goes with its journal, while that is still ours: the next one who opens it binds anew."""
    with contextlib.suppress(OSError):
        os.unlink(address.removeprefix("ipc://"))


class Steward:
    """Answers what is asked at the control socket of one pusher. It is the ticket that its core resolves.

    Args:
        pusher: whose; not kept alive by this.
    """

    def __init__(self, pusher: Any) -> None:
        self._pusher = weakref.ref(pusher)
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._works = False

    def resolve(self, request: Request) -> bool:
        """A question came. Runs in the I/O thread."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                pusher = self._pusher()
                if pusher is not None:
                    self._tell(
                        pusher, request, Answer(request.ask.number, "too much is asked at a time: ask once more")
                    )
                return True
            self._waiting.append(request)
            if self._works:
                return True
            self._works = True
        threading.Thread(target=self._work, name="zmqkit-steward", daemon=True).start()
        return True

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._works = False
                    return
                request = self._waiting.popleft()
            pusher = self._pusher()
            if pusher is None:
                return
            self._tell(pusher, request, self._answer(pusher, request))
            del pusher

    @staticmethod
    def _tell(pusher: Any, request: Request, answer: Answer) -> None:
        driver = pusher._driver
        if driver is not None:
            with contextlib.suppress(UsageError, ZmqkitError):  # it closes: whoever asked sees that
                driver.post(pusher._core.steered_answer, request.session, answer)

    @staticmethod
    def _answer(pusher: Any, request: Request) -> Answer:
        number = request.ask.number
        verb = VERBS.get(request.ask.verb)
        try:
            if verb is None:
                return Answer(number, f"this pusher does not know the verb {request.ask.verb!r}")
            return verb(pusher, number, Sought.of(request.ask.arguments))
        except (ZmqkitError, DecodeError, ValueError) as error:
            return Answer(number, f"{type(error).__name__}: {error}")
        except Exception as error:
            log.exception("%s: %s could not be answered", pusher.name, request.ask.verb)
            return Answer(number, f"it failed: {type(error).__name__}: {error}")


def _totals(pusher: Any, number: int, sought: Sought) -> Answer:
    totals = pusher._journal.totals(sought.log)
    return Answer(number, value=list(totals))


def _read(pusher: Any, number: int, sought: Sought) -> Answer:
    size = min(sought.size_bytes, PAGE_BYTES)
    rows = pusher._journal.read(Read(sought.log, max(1, sought.first), sought.last, size))
    return Answer(number, rows=rows)


def _retry(pusher: Any, number: int, sought: Sought) -> Answer:
    return Answer(number, value=sort(DeadLettersBase(pusher), sought.ids, again=True))


def _drop(pusher: Any, number: int, sought: Sought) -> Answer:
    return Answer(number, value=sort(DeadLettersBase(pusher), sought.ids, again=False))


def _release(pusher: Any, number: int, sought: Sought) -> Answer:
    count = wait(pusher._ask(pusher._core.release, sought.inbox), None)
    return Answer(number, "no such inbox is known" if count is None else "", count)


VERBS: Final[dict[str, Callable[[Any, int, Sought], Answer]]] = {
    "totals": _totals,
    "read": _read,
    "retry": _retry,
    "drop": _drop,
    "release": _release,
}
"""What may be asked of a pusher."""


def sort(letters: DeadLettersBase, ids: tuple[str, ...], *, again: bool) -> int:
    """Send letters again, or drop them; no ids: all of them. Blocks. Returns how many."""
    sorting = Sorting(letters, ids, again=again)
    while not sorting.over(page := wait(letters._ask_page(sorting.after), None)):
        asked = sorting.ask(page)
        if asked is not None:
            for ticket in sorting.go_on(page, wait(asked, None)):
                sorting.stored(wait(ticket, None))
    return sorting.done
