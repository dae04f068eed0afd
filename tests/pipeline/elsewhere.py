"""Handlers that other processes find by module and name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zmqkit import Outgoing, Reject, Retry


class Awkward(Exception):
    """An exception that can be pickled, and not be read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def note(body: dict[str, Any]) -> None:
    """Writes down which process had it; does what else the body asks for."""
    with Path(body["file"]).open("a") as file:
        file.write(f"{os.getpid()} {body['n']}\n")
    what = body.get("do")
    if what == "raise":
        raise LookupError("not here")
    if what == "awkward":
        raise Awkward("this", "that")
    if what == "exit":
        raise SystemExit(3)
    if what == "reject":
        raise Reject("never")
    if what == "retry once" and len(Path(body["file"]).read_text().splitlines()) == 1:
        raise Retry(delay=0, reason="again")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(3600)


def note_many(bodies: list[dict[str, Any]]) -> None:
    """The same for a batch."""
    for body in bodies:
        note(body)


def triple(n: int) -> Iterator[Any]:
    """Three outputs, one with headers."""
    yield n
    yield Outgoing(n + 1, headers={"by": str(os.getpid())})
    yield n + 2


def unpickled(n: int) -> object:
    """What only its own process can hold."""
    return lambda: n
