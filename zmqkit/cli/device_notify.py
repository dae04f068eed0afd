"""What systemd is told, and asks, in plain datagrams: sd_notify(3) and sd_watchdog_enabled(3). Without it: nothing."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Final

log = logging.getLogger("zmqkit.devices")

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells the service manager that started this process how it is, if one did.

    Args:
        environment: of this process. What is for us is taken out of it: children must not speak for us.

    Attributes:
        watchdog_s: it wants to hear from us so often, in seconds; None: never.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        found = {name: environment.pop(name, "") for name in VARIABLES}
        self._path = found["NOTIFY_SOCKET"]
        self.watchdog_s: float | None = None
        microseconds, pid = found["WATCHDOG_USEC"], found["WATCHDOG_PID"]
        if self._path and microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid())):
            self.watchdog_s = int(microseconds) / 1e6

    def tell(self, **variables: str) -> bool:
        """Send ``READY="1"`` and the like. Whether somebody was told."""
        if not self._path:
            return False
        # One name in a line: what stands in a value must not look like another.
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in variables.items())
        place = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), place)
        except OSError as error:
            log.warning("systemd was not told %s: %s", ", ".join(variables), error.strerror or error)
            return False
        return True
