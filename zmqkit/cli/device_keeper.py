"""Keeps one device running in a process of its own: starts it, starts it again when it ends, kills it when it hangs.

::

    starting --> running --> waiting --> starting        it crashed, hung, or could not be opened: after a while, again
        |           |           |
        '-----------'-----------'------> ended           it was told to end

Knows a process and its lines (see `zmqkit.cli.device_child`); no other device, no socket. Runs on the daemon's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Literal

from zmqkit.cli.device_logs import DEVICE
from zmqkit.cli.device_specs import Spec
from zmqkit.cli.outcome import Failed, debugging
from zmqkit.devices.rates import Rates
from zmqkit.options import Backoff

log = logging.getLogger("zmqkit.devices")

BACKOFF: Final = Backoff(first=0.1, factor=2.0, cap=30.0)
"""Before a device is started again."""

STABLE_S: Final = 30.0
"""What ran for so long begins with a short wait again."""

START_S: Final = 30.0
"""What is not there by then hangs."""

HANG_S: Final = 15.0
"""What has not answered for so long hangs."""

ASK_S: Final = 3.0
"""Who asks what devices are, or has them paused, is told after so long which do not answer: one that hangs must not
keep the answers of all others from `zmqkit device ctl`, which waits for 5 seconds."""

PING_S: Final = 1.0
"""Counters are asked for so often: for the rates, and to see that it answers."""

LONGEST_LINE: Final = 1 << 20

State = Literal["starting", "running", "waiting", "ended"]

Described = dict[str, Any]

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class NoAnswer(Failed):
    """A device does not run, or did not answer in time."""


class Keeper:
    """One device and its process.

    Args:
        spec: what it is to be.
        rng: for the jitter of its backoff.
        starting: as many as this lets through start at a time: many at once would each take too long.
        hang_s: what has not answered for so long is killed.

    Attributes:
        spec: as given.
        state: see the top of this file.
        paused: whether it is to be paused; so it comes back after a crash.
        restarts: how often it was started again.
        error: why it does not run.
        tried: set when it has run, or failed to.
    """

    def __init__(self, spec: Spec, rng: random.Random, starting: asyncio.Semaphore, hang_s: float = HANG_S) -> None:
        self.spec = spec
        self.state: State = "starting"
        self.paused = False
        self.restarts = 0
        self.error = ""
        self.tried = asyncio.Event()
        self._rng = rng
        self._starting = starting
        self._hang_s = hang_s
        self._ask_s = min(ASK_S, hang_s)
        self._leaving = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._bound: Spec = spec
        """The same, with the ports that it had."""
        self._ready: dict[str, list[str]] = {}
        self._ready_at = 0.0
        self._failed = ""
        self._up = asyncio.Event()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._rates = Rates()
        self._task: asyncio.Task[None] | None = None

    # ---- for the daemon --------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"keep {self.spec.name}")

    async def stop(self, seconds: float) -> None:
        """End it, and wait for that: it has so long to drain, then it is killed."""
        self._leaving.set()
        self._signal(signal.SIGTERM)
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=seconds)
        if not done:
            self._say(logging.WARNING, "it has not ended within %g s, and is killed", seconds)
            self.kill()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """End its process at once."""
        self._signal(signal.SIGKILL)

    async def ask(self, verb: str, seconds: float) -> Any:
        """What its process answers.

        Raises:
            NoAnswer: it does not run, did not answer in time, or answered with an error.
        """
        process = self._process
        if self.state != "running" or process is None or process.stdin is None:
            raise NoAnswer(f"{self.spec.name} is {self.state}{f': {self.error}' if self.error else ''}")
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            process.stdin.write(_line({"ask": number, "verb": verb}))
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise NoAnswer(f"{self.spec.name} has not answered for {seconds:g} s") from None
        except (ConnectionError, RuntimeError) as error:  # its pipe broke, or is closed: it is ending
            raise NoAnswer(f"{self.spec.name} is ending") from error
        finally:
            self._asked.pop(number, None)

    async def describe(self) -> Described:
        """What it is and how it is, whether or not it runs."""
        known = {
            "name": self.spec.name,
            "kind": self.spec.kind,
            "state": self.state,
            "paused": self.paused,
            "pid": None if self._process is None else self._process.pid,
            "restarts": self.restarts,
            **({"error": self.error} if self.error else {}),
            **self._ready,
        }
        try:
            return {**known, **await self.ask("describe", self._ask_s), "control": self._ready.get("control", [])}
        except NoAnswer as error:
            return {**known, "error": str(error)}

    async def stats(self) -> Described:
        """Its counters, if it runs."""
        known = {"name": self.spec.name, "state": self.state, "restarts": self.restarts}
        try:
            return {**known, **await self._sample(self._ask_s), "rates": self._rates.per_second()}
        except NoAnswer as error:
            return {**known, "error": str(error)}

    async def set_paused(self, paused: bool) -> Described:
        """Pause or resume it, now or when it runs again."""
        self.paused = paused
        known = {"name": self.spec.name, "paused": paused}
        if self.state != "running":
            return {**known, "state": self.state}
        try:
            answer = await self.ask("pause" if paused else "resume", self._ask_s)
            self.paused = paused  # what was counted meanwhile may have said the opposite
            return {**known, **answer}
        except NoAnswer as error:
            return {**known, "error": str(error)}

    async def answers(self, seconds: float) -> bool:
        """Whether it answers, or is known not to run."""
        if self.state != "running":
            return True
        try:
            await self.ask("describe", seconds)
        except NoAnswer:
            return self.state != "running"
        return True

    # ---- its lives -------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._leaving.is_set():
            self._ready_at = 0.0
            self.state = "starting"
            self._up = asyncio.Event()
            if not await self._unless_leaving(self._starting.acquire()):
                break
            release = asyncio.create_task(self._give_turn())
            try:
                self.error = await self._live()
            except OSError as error:
                self.error = f"its process cannot be started: {error.strerror or error}"
            self._up.set()
            self.tried.set()
            await release
            if self._leaving.is_set():
                break
            ran_s = loop.time() - self._ready_at if self._ready_at else 0.0
            failures = 1 if ran_s >= STABLE_S else failures + 1
            delay = self._rng.uniform(0, BACKOFF.ceiling(failures))
            self._say(logging.WARNING, "%s; started again in %.2f s", self.error, delay)
            await self._unless_leaving(asyncio.sleep(delay))
            self.restarts += 1
        self.state = "ended"
        self._say(logging.INFO, "ended")

    async def _unless_leaving(self, awaited: Coroutine[Any, Any, object]) -> bool:
        """Whether this was over before it is to end; if not, it is cancelled."""
        work = asyncio.ensure_future(awaited)
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return work.done()
        finally:
            work.cancel()
            leaving.cancel()

    async def _give_turn(self) -> None:
        """Let the next one start, once this one has, or has ended."""
        try:
            await self._up.wait()
        finally:
            self._starting.release()

    async def _live(self) -> str:
        """From its start to its end: why it ended."""
        self._failed = ""
        self._rates = Rates()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "zmqkit.cli.device_child",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # A group of its own: Ctrl-C in the terminal is for the daemon, which lets it drain.
            process_group=0,
        )  # fmt: skip
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(_line({"spec": self._bound.to_json(), "paused": self.paused, "debug": debugging()}))
            if self._leaving.is_set():
                self._signal(signal.SIGTERM)
            beside = [
                asyncio.create_task(each)
                for each in (self._hear(process.stdout), self._relay(process.stderr), self._watch())
            ]
            status = await process.wait()
            # What it said last is heard before it is judged. Others may hold its pipes open.
            await asyncio.wait(beside[:2], timeout=1.0)
            for each in beside:
                each.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            return self._failed or _in_words(status)
        finally:
            self.state = "waiting"
            self._process = None
            if process.returncode is None:  # we are cancelled
                process.kill()
            process.stdin.close()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(NoAnswer(f"{self.spec.name} has ended"))

    async def _hear(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            try:
                told = json.loads(line)
            except ValueError:
                self._say(logging.WARNING, "its process said what is no report: %.200r", line)
                continue
            if "answer" in told:
                self._answered(told)
            elif "log" in told:
                self._log(told["log"])
            elif "failed" in told:
                self._failed = told["failed"]
            elif "ready" in told:
                self._came(told["ready"])

    def _came(self, ready: dict[str, list[str]]) -> None:
        self._ready = ready
        self._ready_at = asyncio.get_running_loop().time()
        self._bound = self.spec.settled(ready["control"], frontend=ready["frontend"], backend=ready["backend"])
        self.state = "running"
        self.error = ""
        self._up.set()
        at = "; ".join([f"{side} {', '.join(found)}" for side, found in ready.items() if found])
        again = f" again ({self.restarts})" if self.restarts else ""
        paused = ", paused" if self.paused else ""
        self._say(logging.INFO, "%s runs%s%s: %s", self.spec.kind, again, paused, at)
        self.tried.set()

    def _answered(self, told: dict[str, Any]) -> None:
        answer = self._asked.get(told["answer"])
        if answer is None or answer.done():
            return
        if "error" in told:
            answer.set_exception(NoAnswer(told["error"]))
        else:
            answer.set_result(told["value"])

    async def _relay(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._say(logging.WARNING, "%s", line.decode("utf-8", "replace"))

    async def _watch(self) -> None:
        """Kill it when it hangs."""
        try:
            async with asyncio.timeout(START_S):
                await self._up.wait()
        except TimeoutError:
            self._hangs(f"it was not there after {START_S:g} s")
            return
        while True:
            await asyncio.sleep(PING_S)
            try:
                await self._sample(self._hang_s)
            except NoAnswer as error:
                if self._process is None or self.state != "running":
                    return
                self._hangs(f"it {str(error).removeprefix(f'{self.spec.name} ')}")
                return

    def _hangs(self, why: str) -> None:
        self._failed = f"{why}, and was killed"
        self.kill()

    async def _sample(self, seconds: float) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("stats", seconds)
        found.pop("rates", None)
        self.paused = bool(found.get("paused", self.paused))  # it has signals, and perhaps control, of its own
        counters = {name: value for name, value in found.items() if isinstance(value, int | float)}
        self._rates.add(asyncio.get_running_loop().time(), counters)
        return found

    # ---- small things ----------------------------------------------------------------

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _log(self, entry: dict[str, Any]) -> None:
        message = str(entry.get("message", "")).removeprefix(f"{self.spec.name}: ")
        level = LEVELS.get(str(entry.get("level")), logging.ERROR)
        log.log(level, "%s", message, extra={DEVICE: self.spec.name, "traceback": entry.get("traceback")})

    def _say(self, level: int, message: str, *arguments: object) -> None:
        log.log(level, message, *arguments, extra={DEVICE: self.spec.name})


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines as they come; of a very long one the beginning."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        rest = rest[:LONGEST_LINE]
    if rest:
        yield rest


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _in_words(status: int) -> str:
    if status < 0:
        return f"its process was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"its process ended with exit status {status}"
