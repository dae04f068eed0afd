"""A device in a process of its own, steered from here.

It shares no interpreter with the program that began it: its speed is its own, and what ends it ends nothing else. The
two speak over the child's stdin and stdout, a line of JSON a verb and a line an answer. The child ends when its stdin
does, so none is left behind when the program dies, however it dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import warnings
from types import TracebackType
from typing import Any, Self

from zmqkit import devices, errors
from zmqkit.checks import timeout as check_timeout
from zmqkit.devices.device import Carries, Device
from zmqkit.devices.sides import Side, read
from zmqkit.errors import Closed, Forked, UsageError, WaitTimeout, ZmqkitError
from zmqkit.options import Heartbeat, Limits
from zmqkit.peer.base import LINGER

log = logging.getLogger("zmqkit.devices")

STARTING = 20.0
"""Seconds that a child has to import what it needs, and to open the device."""

ANSWERING = 10.0
"""Seconds that a child has for any other verb."""

MARGIN = 3.0
"""Seconds that a child has to end, besides those that its device may linger."""

KINDS = ("Queue", "Forwarder", "Streamer", "Proxy")
_SIDES = ("frontend", "backend", "plain_frontend", "plain_backend")
_PROGRAM = "from zmqkit.devices.processes import serve; serve()"


class DeviceProcess:
    """A device in a child process, with the verbs of a device here.

    ::

        with DeviceProcess(Queue, "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556") as queue:
            ...
            print(queue.stats())

    Constructing starts nothing. Every method may be called from any thread. What the child logs goes to stderr.

    Args:
        kind: `Queue`, `Forwarder`, `Streamer` or `Proxy`.
        *sides: as that takes them.
        **given: as that takes them.

    Raises:
        UsageError, TypeError, ValueError: what the device itself would raise.
    """

    def __init__(self, kind: type[Device], *sides: Any, **given: Any) -> None:
        if kind not in [getattr(devices, name) for name in KINDS]:
            raise TypeError(f"kind must be {', '.join(KINDS)}, as in DeviceProcess(Queue, ...), got {kind!r}")
        made = kind(*sides, **given)  # what is wrong with it is told here; nothing is opened
        self.name = made.name
        given = {**dict(zip(_SIDES, sides, strict=False)), **given, "name": self.name}
        self._given = {"kind": kind.__name__, "given": {name: _plain(name, value) for name, value in given.items()}}
        self._linger: float | None = given.get("linger", LINGER)
        self._lock = threading.Lock()
        """One verb at a time."""
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._closed = False
        self._described: dict[str, Any] = {}

    # ---- what a device has -----------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Of the child; None before opening."""
        return self._child.pid if self._child is not None else None

    @property
    def closed(self) -> bool:
        """Whether it was closed. It cannot be opened again."""
        return self._closed

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child is not None and not self._closed and self._child.poll() is None

    @property
    def addresses(self) -> tuple[str, ...]:
        """What is bound on both sides, ports filled in; empty before opening."""
        return (*self.frontend_addresses, *self.backend_addresses)

    @property
    def frontend_addresses(self) -> tuple[str, ...]:
        """What is bound on the frontend, ports filled in; empty before opening."""
        return tuple(self._described.get("frontend", ()))

    @property
    def backend_addresses(self) -> tuple[str, ...]:
        """What is bound on the backend, ports filled in; empty before opening."""
        return tuple(self._described.get("backend", ()))

    @property
    def control_address(self) -> str | None:
        """Where it is steered from outside, besides; None without."""
        address: str | None = self._described.get("control")
        return address

    @property
    def paused(self) -> bool:
        """Whether nothing is let through, as it was after the last verb."""
        return bool(self._described.get("paused"))

    @property
    def carries(self) -> Carries | None:
        """Whose messages these are; asked of the child while it runs."""
        if self.alive:
            self._say("describe")
        carries: Carries | None = self._described.get("carries")
        return carries

    def open(self) -> Self:
        """Start the child, and open the device there.

        Raises:
            AddressInUse, DiscoveryError...: what opening the device raised there.
            WaitTimeout: the child was not ready in `STARTING` seconds.
            Closed: it was closed, or the child has ended.
        """
        with self._lock:
            self._check()
            if self._child is not None:
                return self
            self._owner = os.getpid()
            self._child = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is for this program, which then closes the device
            )
            try:
                self._exchange(self._given, STARTING)
            except BaseException:
                self._end(0.0)
                self._child = None
                raise
        return self

    def pause(self) -> None:
        """Let nothing through until `resume`; see `zmqkit.devices.Device.pause`."""
        self._say("pause")

    def resume(self) -> None:
        """Go on after `pause`."""
        self._say("resume")

    def stats(self) -> dict[str, int | float]:
        """Counters by name, since opening; empty before. Once closed, as they were asked for last."""
        if self.alive:
            self._say("stats")
        return dict(self._described.get("stats", {}))

    def wait(self, timeout: float | None = None) -> int:
        """Block until the child has ended, by `close` or by itself. Returns its exit code; 0 is in order.

        Raises:
            WaitTimeout: it still runs after so many seconds.
        """
        check_timeout(timeout)
        self.open()
        assert self._child is not None
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(f"{self.name} still runs after {timeout} s, as process {self.pid}") from None

    def close(self, timeout: float | None = -1.0) -> None:
        """Close the device, and wait for the child's end. Idempotent; in a forked child it does nothing.

        Args:
            timeout: seconds, instead of `linger`; None: no bound.
        """
        if timeout != -1.0:
            check_timeout(timeout)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._child is not None and self._owner == os.getpid():
                self._end(self._linger if timeout == -1.0 else timeout)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        child = getattr(self, "_child", None)
        if child is None or self._closed or self._owner != os.getpid() or sys.is_finalizing():
            return
        self._closed = True
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            child.kill()
            self._shut()
            child.wait()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"process {self.pid}" if self._child is not None else "not open"
        return f"<zmqkit.devices.DeviceProcess {self._given['kind']} {self.name} ({state})>"

    # ---- the conversation --------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"{self.name} was closed: make a new one")
        if self._owner not in (0, os.getpid()):
            raise Forked(f"{self.name} belongs to the parent process {self._owner}; open a new one in the child")

    def _say(self, verb: str) -> None:
        self.open()
        with self._lock:
            self._check()
            self._exchange({"verb": verb}, ANSWERING)

    def _exchange(self, said: dict[str, Any], patience: float) -> None:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(said).encode() + b"\n")
            child.stdin.flush()
            answer = self._read(child, patience)
        except BrokenPipeError:
            answer = None
        except BaseException:
            child.kill()  # what it answers from now on would be taken for the answer to something else
            raise
        if answer is None:
            raise Closed(f"{self.name}: process {child.pid} ended by itself, with exit code {child.wait()}")
        if "error" in answer:
            raise _error(answer["error"], answer["message"])
        self._described = {**self._described, **answer}

    def _read(self, child: subprocess.Popen[bytes], patience: float) -> dict[str, Any] | None:
        """One answer; None: there will be none."""
        assert child.stdout is not None
        deadline = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            # A line is written at once, and shorter than a pipe's buffer.
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise WaitTimeout(f"{self.name}: process {child.pid} did not answer within {patience} s: it is killed")
        line = child.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def _end(self, linger: float | None) -> None:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            child.stdin.write(json.dumps({"verb": "close", "timeout": linger}).encode() + b"\n")
            child.stdin.flush()
        try:
            child.wait(None if linger is None else linger + MARGIN)
        except subprocess.TimeoutExpired:
            log.warning("%s: process %d does not end, and is killed", self.name, child.pid)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            self._shut()

    def _shut(self) -> None:
        assert self._child is not None
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # something unsaid was left in its buffer
                pipe.close()


def _plain(name: str, value: Any) -> Any:
    """An argument as JSON knows it."""
    if name in _SIDES and value is not None:
        value = read(name, value)
    if isinstance(value, Side | Limits | Heartbeat):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {each: _plain(each, found) for each, found in fields.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The reverse."""
    made = dict(given)
    for name in _SIDES:
        if made.get(name) is not None:
            limits = made[name]["limits"]
            made[name] = Side(**{**made[name], "limits": None if limits is None else Limits(**limits)})
    for name, kind in (("limits", Limits), ("heartbeat", Heartbeat)):
        if made.get(name) is not None:
            made[name] = kind(**made[name])
    return made


def _error(kind: str, message: str) -> Exception:
    """What was raised in the child, as far as it is one of ours."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, ZmqkitError):
        with contextlib.suppress(TypeError):  # one that is made of more than words
            return found(message)
    return UsageError(f"{kind}: {message}")


# ---- in the child --------------------------------------------------------------------


def serve() -> None:
    """The child's program: open the device that is named, and do what is said until there is no more."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints, prints no answers
    device: Device | None = None
    # SIGTERM ends it as a device of its own would: it may be the last that its machine says.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for line in sys.stdin.buffer:
            said = json.loads(line)
            if said.get("verb") == "close":
                if device is not None:
                    device.close(said["timeout"])
                return
            try:
                if device is None:
                    device = getattr(devices, said["kind"])(**_arguments(said["given"])).open()
                    threading.Thread(target=_follow, args=(device,), name="zmqkit-device-process", daemon=True).start()
                answer = _do(device, said.get("verb"))
            except Exception as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            answers.write(json.dumps(answer).encode() + b"\n")
    finally:
        if device is not None:
            device.close()


def _do(device: Device, verb: str | None) -> dict[str, Any]:
    if verb == "pause":
        device.pause()
    elif verb == "resume":
        device.resume()
    answer: dict[str, Any] = {
        "frontend": device.frontend_addresses,
        "backend": device.backend_addresses,
        "control": device.control_address,
        "paused": device.paused,
        "carries": device.carries,
    }
    return {**answer, "stats": device.stats()} if verb == "stats" else answer


def _follow(device: Device) -> None:
    """End this process when the device ends by itself, or is ended over its control socket."""
    code = 0
    try:
        device.run()
    except Exception:
        log.exception("%s ended by itself", device.name)
        code = 1
    os._exit(code)
