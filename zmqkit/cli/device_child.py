"""A process of the daemon's that runs one device: ``python -m zmqkit.cli.device_child``. Not for people.

It is told on stdin and tells on stdout, an object of JSON a line. First comes what the device is to be, then commands::

    {"spec": {"name": ..., "kind": ..., "options": {...}}, "paused": false, "debug": false}
    {"ask": 7, "verb": "stats"}                        describe, stats, pause, resume, terminate

    {"ready": {"frontend": [...], "backend": [...], "control": [...]}}
    {"failed": "cannot bind ..."}                      it could not be opened, or did not end by itself; then it exits
    {"log": {"level": ..., "message": ...}}
    {"answer": 7, "value": {...}}                      or "error": in words

When stdin ends, its daemon is gone: it ends as well, for nobody would look after it. It imports neither typer nor rich,
so that a device is soon there again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from typing import IO, Any

from zmqkit.cli import device_logs
from zmqkit.cli.device_host import Host
from zmqkit.cli.device_specs import Spec
from zmqkit.errors import ZmqkitError

VERBS = ("describe", "stats", "pause", "resume", "terminate")


class Report:
    """Where this process tells what happens, a line each; from any thread."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def tell(self, **what: Any) -> None:
        line = json.dumps(what)
        # A daemon that is gone does not listen; stdin has told so, too.
        with self._lock, contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


def main() -> int:
    """Run one device to its end. The exit code: 0, or 1 if it could not be opened or was ended by an error."""
    # What others print must not look like a report of ours.
    report = Report(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline() or "null")
    if told is None:
        return 0  # the daemon ended while it started us
    device_logs.begin_with(device_logs.Calls(lambda entry: report.tell(log=entry)))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have had the daemon ignore it; nobody types it here
    spec = Spec.from_json(told["spec"])
    try:
        host = Host(spec.make(), spec.control)
        with host.signals():
            host.open()
            if told.get("paused"):
                host.panel.pause()
            (described,) = host.panel.describe()
            report.tell(
                ready={
                    "frontend": described["frontend"],
                    "backend": described["backend"],
                    "control": list(host.control_addresses),
                }
            )
            threading.Thread(target=_listen, args=(host, report), name="zmqkit-commands", daemon=True).start()
            host.run()
    except (ZmqkitError, OSError, TypeError, ValueError) as error:
        report.tell(failed=str(error) or type(error).__name__)
        return 1
    return 0


def _listen(host: Host, report: Report) -> None:
    """Take commands until there is nobody to give them."""
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["verb"] not in VERBS:
            report.tell(answer=asked["ask"], error=f"there is no verb {asked['verb']!r}")
            continue
        host.soon(lambda asked=asked: _answer(host, report, asked))  # type: ignore[misc]
    host.stop()


def _answer(host: Host, report: Report, asked: dict[str, Any]) -> None:
    try:
        (value,) = getattr(host.panel, asked["verb"])()
    except ZmqkitError as error:
        report.tell(answer=asked["ask"], error=str(error))
    else:
        report.tell(answer=asked["ask"], value=value)


if __name__ == "__main__":
    sys.exit(main())
