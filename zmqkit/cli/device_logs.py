"""What devices log, as lines of text or JSON, one a record. Knows no device."""

from __future__ import annotations

import contextlib
import datetime
import enum
import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, Final, Literal

from zmqkit.cli.outcome import debugging, one_line

Format = Literal["text", "json"]

LONGEST: Final = 8_000
"""Characters of one record."""

DEVICE: Final = "device"
"""The attribute of a record that names the device which it is about."""


class LogForm(enum.StrEnum):
    """In which form logs are."""

    TEXT = "text"
    JSON = "json"


class Lines(logging.Handler):
    """Writes records to a stream: as text for people, or an object of JSON for programs.

    Args:
        form: which of them.
        stream: where to; default: stderr, whatever that is then.
        device: whom records are about that do not say it themselves.
    """

    def __init__(self, form: Format, stream: IO[str] | None = None, device: str | None = None) -> None:
        super().__init__(logging.DEBUG)
        self._form = form
        self._stream = stream
        self._device = device

    def emit(self, record: logging.LogRecord) -> None:
        entry = entry_of(record, self._device)
        line = json.dumps(entry, ensure_ascii=False) if self._form == "json" else text_of(entry)
        # Nobody has to listen: a closed stderr must not end what carries others' messages.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream or sys.stderr, flush=True)


def entry_of(record: logging.LogRecord, device: str | None = None) -> dict[str, Any]:
    """A record as JSON has it: at, level, message, and device and traceback where there are some."""
    entry: dict[str, Any] = {
        "at": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    about = getattr(record, DEVICE, None) or device
    if about is not None:
        entry["device"] = about
    entry["message"] = one_line(record.getMessage()[:LONGEST])
    if record.exc_info is not None and record.exc_info[1] is not None:
        entry["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-LONGEST:]
    return entry


def text_of(entry: dict[str, Any]) -> str:
    """The same as a line; a traceback stands below it, where it is wanted."""
    about = f"{entry['device']}: " if "device" in entry else ""
    below = f"\n{entry['traceback'].rstrip()}" if debugging() and "traceback" in entry else ""
    return f"zmqkit: {about}{entry['message']}{below}"


def begin(form: Format, device: str | None = None) -> None:
    """Let what zmqkit logs in this process appear on stderr in this form, instead of in any other.

    From warnings up; of devices, what happens to them too.
    """
    begin_with(Lines(form, device=device))


def begin_with(handler: logging.Handler) -> None:
    """The same with a handler of one's own."""
    log = logging.getLogger("zmqkit")
    for each in list(log.handlers):
        log.removeHandler(each)
    handler.setLevel(logging.DEBUG)
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if debugging() else logging.WARNING)
    logging.getLogger("zmqkit.devices").setLevel(logging.DEBUG if debugging() else logging.INFO)


class Calls(logging.Handler):
    """Hands each record's entry to a function."""

    def __init__(self, take: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(logging.DEBUG)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(entry_of(record))
