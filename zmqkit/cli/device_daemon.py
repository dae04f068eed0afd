"""Many devices under one roof: each in a process of its own, one control socket for all, one file that says which.

::

    daemon --- Keeper "orders" --- process     stdin, stdout: see `zmqkit.cli.device_child`
       |------ Keeper "prices" --- process
       '------ Control, in threads of its own; what it is asked for is done on the daemon's loop

A crash is one device's matter; see `zmqkit.cli.device_keeper`. Knows keepers, the file and the service manager.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from zmqkit.cli import device_file, device_logs
from zmqkit.cli.device_file import Config
from zmqkit.cli.device_keeper import HANG_S, Described, Keeper
from zmqkit.cli.device_notify import Notifier
from zmqkit.cli.outcome import Failed
from zmqkit.devices.control import Control
from zmqkit.devices.panel import Panel, check_name
from zmqkit.errors import ServiceError, ZmqkitError

log = logging.getLogger("zmqkit.devices")

DRAIN_S: Final = 8.0
"""Seconds that devices have to end: containers kill after 10."""

ANSWER_S: Final = 20.0
"""What is asked over the control socket is given up after so long."""

T = TypeVar("T")


class Daemon(Panel):
    """Runs what a file says until it is told to end.

    Args:
        path: of the file; read again at SIGHUP.
        config: what it says now.
        notifier: tells the service manager.
        log_format: instead of the file's.
    """

    def __init__(
        self, path: Path, config: Config, notifier: Notifier, log_format: device_logs.Format | None = None
    ) -> None:
        self._path = path
        self._config = config
        self._notifier = notifier
        self._log_format = log_format
        self._hang_s = HANG_S if notifier.watchdog_s is None else min(HANG_S, notifier.watchdog_s / 3)
        self._keepers: dict[str, Keeper] = {}
        self._control: Control | None = None
        self._rng = random.SystemRandom()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._beside: set[asyncio.Task[Any]] = set()

    # ---- running ---------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, or until it is told so over its control socket.

        Raises:
            ZmqkitError: the control socket cannot be bound. Nothing was started.
        """
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._starting = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        with self._handling():
            await self._open_control(self._config.control)
            try:
                for spec in self._config.specs.values():
                    self._begin(Keeper(spec, self._rng, self._starting, self._hang_s))
                self._soon(self._get_ready())
                if self._notifier.watchdog_s is not None:
                    self._soon(self._beat(self._notifier.watchdog_s))
                await self._stopping.wait()
            finally:
                self._notifier.tell(STOPPING="1", STATUS="devices are ending")
                await self._end()

    def stop(self) -> None:
        """End all devices and then `run`. On the loop only."""
        self._stopping.set()

    def _begin(self, keeper: Keeper) -> None:
        self._keepers[keeper.spec.name] = keeper
        keeper.start()

    async def _end(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await asyncio.gather(*(each.stop(DRAIN_S) for each in self._keepers.values()))
        await self._close_control()

    async def _get_ready(self) -> None:
        """Tell the service manager once every device has been tried: one that cannot start keeps nobody waiting."""
        for keeper in list(self._keepers.values()):
            await keeper.tried.wait()
        self._notifier.tell(READY="1", STATUS=self._status())
        log.info("ready: %s", self._status())

    async def _beat(self, watchdog_s: float) -> None:
        """Tell the service manager that all is well, as long as it is: devices that should answer do."""
        period_s = watchdog_s / 2
        while True:
            began = time.monotonic()
            keepers = list(self._keepers.values())
            answered = await asyncio.gather(*(each.answers(period_s * 0.9) for each in keepers))
            silent = [each.spec.name for each, well in zip(keepers, answered, strict=True) if not well]
            if silent:
                log.warning("no answer from %s: systemd's watchdog is not told that all is well", ", ".join(silent))
            else:
                self._notifier.tell(WATCHDOG="1", STATUS=self._status())
            await asyncio.sleep(max(0.0, began + period_s - time.monotonic()))

    def _status(self) -> str:
        states = [each.state for each in self._keepers.values()]
        waiting = [
            f"{each.spec.name}: {each.error}"
            for each in self._keepers.values()
            if each.state in ("waiting", "starting") and each.error
        ]
        count = states.count("running")
        return "; ".join([f"{count} of {len(states)} device{'s' * (len(states) != 1)} running", *waiting[:5]])

    # ---- signals ---------------------------------------------------------------------

    @contextlib.contextmanager
    def _handling(self) -> Iterator[None]:
        assert self._loop is not None
        handlers: dict[int, Callable[[], object]] = {
            signal.SIGINT: self._interrupted,
            signal.SIGTERM: self._interrupted,
            signal.SIGHUP: lambda: self._soon(self._reload()),
            signal.SIGUSR1: lambda: self._soon(self._set_paused(None, True)),
            signal.SIGUSR2: lambda: self._soon(self._set_paused(None, False)),
        }
        # A shell has what it runs in the background ignore SIGINT, and nohup SIGHUP: it stays so, but for SIGHUP, by
        # which nothing is ended here.
        kept = [number for number in handlers if number == signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
        for number in kept:
            self._loop.add_signal_handler(number, handlers[number])
        try:
            yield
        finally:
            for number in kept:
                self._loop.remove_signal_handler(number)

    def _interrupted(self) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("told to end a second time: devices are killed")
            for keeper in self._keepers.values():
                keeper.kill()
        self.stop()

    # ---- the file, read again --------------------------------------------------------

    async def _reload(self) -> None:
        """Make things as the file says now. What is the same there goes on untouched."""
        async with self._reloading:
            self._notifier.tell(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))
            try:
                config = await asyncio.to_thread(device_file.read, self._path)
            except Failed as error:
                for line in str(error).splitlines():
                    log.error("%s", line)
                log.error("%s has mistakes: all stays as it was", self._path)
            else:
                await self._become(config)
            finally:
                self._notifier.tell(READY="1", STATUS=self._status())

    async def _become(self, config: Config) -> None:
        if self._log_format is None and config.log != self._config.log:
            device_logs.begin(config.log)
        over = {
            name: keeper
            for name, keeper in self._keepers.items()
            if config.specs.get(name) != keeper.spec or keeper.state == "ended"
        }
        # First the old ones give their addresses back.
        await asyncio.gather(*(each.stop(DRAIN_S) for each in over.values()))
        for name in over:
            del self._keepers[name]
        fresh = [spec for name, spec in config.specs.items() if name not in self._keepers]
        for spec in fresh:
            self._begin(Keeper(spec, self._rng, self._starting, self._hang_s))
        if config.control != self._config.control:
            await self._close_control()
            try:
                await self._open_control(config.control)
            except ZmqkitError as error:
                log.error("there is no control now: %s", error)
                config = Config(config.specs, None, config.log, config.bound)
        self._config = config
        gone = sorted(over.keys() - config.specs.keys())
        changed = sorted(over.keys() & config.specs.keys())
        added = sorted(spec.name for spec in fresh if spec.name not in over)
        words = [f"{what} {', '.join(names)}" for what, names in
                 (("added", added), ("changed", changed), ("removed", gone)) if names]  # fmt: skip
        log.info("%s was read again: %s", self._path, "; ".join(words) or "nothing is different")
        for spec in fresh:
            keeper = self._keepers.get(spec.name)
            if keeper is not None:
                await keeper.tried.wait()

    # ---- control ---------------------------------------------------------------------

    async def _open_control(self, address: str | None) -> None:
        if address is None:
            return
        control = Control(self, address, name="control")
        await asyncio.to_thread(control.open)
        self._control = control
        log.info("control at %s", ", ".join(control.addresses))

    async def _close_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            await asyncio.to_thread(control.close)

    # Each of these is called from one of control's threads.

    def describe(self, device: str | None = None) -> list[Described]:
        return self._done(self._each(device, Keeper.describe))

    def stats(self, device: str | None = None) -> list[Described]:
        return self._done(self._each(device, Keeper.stats))

    def pause(self, device: str | None = None) -> list[Described]:
        return self._done(self._set_paused(device, True))

    def resume(self, device: str | None = None) -> list[Described]:
        return self._done(self._set_paused(device, False))

    def terminate(self, device: str | None = None) -> list[Described]:
        return self._done(self._terminate(device))

    async def _set_paused(self, device: str | None, paused: bool) -> list[Described]:
        found = await self._each(device, lambda keeper: keeper.set_paused(paused))
        log.info("%s: %s", "paused" if paused else "resumed", ", ".join(each["name"] for each in found) or "no device")
        return found

    async def _terminate(self, device: str | None) -> list[Described]:
        meant = self._meant(device)
        if device is None:
            self.stop()
        else:
            for keeper in meant:
                self._soon(keeper.stop(DRAIN_S))
        return [{"name": each.spec.name, "state": "ending"} for each in meant]

    async def _each(self, device: str | None, ask: Callable[[Keeper], Awaitable[Described]]) -> list[Described]:
        return list(await asyncio.gather(*map(ask, self._meant(device))))

    def _meant(self, device: str | None) -> Iterable[Keeper]:
        check_name(device, list(self._keepers))
        return list(self._keepers.values()) if device is None else [self._keepers[device]]

    def _done(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What it gives, once the loop has done it; from another thread."""
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(ANSWER_S)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            raise ServiceError("ending", "the daemon is ending, or has too much to do") from None

    def _soon(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Have it done beside everything else; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._beside.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s", error, exc_info=error)


def run(path: Path, log_format: device_logs.Format | None = None) -> None:
    """Run what a file says until SIGTERM or SIGINT.

    Raises:
        Failed: the file cannot be read, or has mistakes.
        ZmqkitError: the control socket cannot be bound.
    """
    config = device_file.read(path)
    device_logs.begin(log_format or config.log)
    asyncio.run(Daemon(path, config, Notifier(os.environ), log_format).run())
