"""Runs one device in this process: its control socket, signals and commands, until it ends.

Knows one device. Everything that happens comes through one queue to the main thread, where signals may put as well.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

from zmqkit.cli.device_specs import Device
from zmqkit.cli.outcome import LOOK_SECONDS, Stopped
from zmqkit.devices.panel import DevicePanel
from zmqkit.errors import ZmqkitError

if TYPE_CHECKING:
    from zmqkit.devices.control import Control

log = logging.getLogger("zmqkit.devices")

DRAIN_S: Final = 8.0
"""Seconds that a device has to end: containers kill after 10."""

Work = Callable[[], object]


class Host:
    """One device, from opening to its end.

    Args:
        device: not opened yet.
        control: where to serve its control socket; None: nowhere.

    Attributes:
        panel: for whoever steers it by other ways; from `open` on.
        control_addresses: where it is steered, ports filled in.
    """

    def __init__(self, device: Device, control: str | None = None) -> None:
        self._device = device
        self._control: Control | None = None
        if control is not None:
            from zmqkit.devices.control import Control  # here: a server takes long to import where none is wanted

            self._control = Control(device, control, name=f"{device.name}-control")
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._runner = threading.Thread(target=self._run_device, name="zmqkit-device", daemon=True)
        self._stopping = False
        self.panel = DevicePanel(device)

    @property
    def control_addresses(self) -> tuple[str, ...]:
        return () if self._control is None else self._control.addresses

    def open(self) -> None:
        """Open the device and its control socket. Raises what they raise; then neither is open."""
        self._device.open()
        try:
            if self._control is not None:
                self._control.open()
        except BaseException:
            self._device.close(0)
            raise

    def soon(self, work: Work) -> None:
        """Have this done by the main thread, in `run`. From any thread or signal handler; does not wait."""
        self._work.put(work)

    def stop(self) -> None:
        """End the device, and with it `run`. From any thread or signal handler; does not wait."""
        self.soon(self._stop_device)

    def run(self) -> None:
        """Do what comes until the device has ended, by itself or because it was told to.

        Raises what ended the device, if it did not end by itself; `Stopped` at the second signal.
        """
        self._runner.start()
        patience_s = DRAIN_S
        try:
            while (work := self._next_work()) is not None:
                try:
                    work()
                except ZmqkitError as error:
                    log.warning("%s", error)
        except Stopped:
            patience_s = 0.0
            raise
        finally:
            self._device.stop()
            self._runner.join(patience_s)
            if self._control is not None:
                self._control.close(min(patience_s, 1.0))
        if self._runner.is_alive():
            log.warning("it has not ended within %g s, and is left", DRAIN_S)
        if self._error is not None:
            raise self._error

    def _next_work(self) -> Work | None:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._work.get(timeout=LOOK_SECONDS)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """While this lasts SIGINT and SIGTERM stop it, SIGUSR1 pauses it and SIGUSR2 resumes it.

        The second that is to stop it raises `Stopped`. What our parent set to be ignored stays ignored.
        """

        def end(number: int, frame: FrameType | None) -> None:
            if self._stopping:
                raise Stopped(number)
            self._stopping = True
            self.stop()

        handlers: dict[int, Callable[[int, FrameType | None], object]] = {
            signal.SIGINT: end,
            signal.SIGTERM: end,
            signal.SIGUSR1: lambda number, frame: self.soon(self._pause),
            signal.SIGUSR2: lambda number, frame: self.soon(self._resume),
        }
        kept = {}
        for number, handler in handlers.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                kept[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for number, before in kept.items():
                signal.signal(number, before)

    def _pause(self) -> None:
        self.panel.pause()
        log.info("paused")

    def _resume(self) -> None:
        self.panel.resume()
        log.info("resumed")

    def _stop_device(self) -> None:
        self._device.stop()

    def _run_device(self) -> None:
        try:
            self._device.run()
        except BaseException as error:
            self._error = error
        finally:
            self._work.put(None)
