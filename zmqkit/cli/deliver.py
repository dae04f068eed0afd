"""A pusher at work in a command, from opening to the last word: shared by ``push`` and ``journal serve``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from zmqkit import Pusher
from zmqkit.cli import show
from zmqkit.cli.outcome import Code, Failed, Stopped, code_of, raise_on_signals, say, tell
from zmqkit.errors import Unsettled, WaitTimeout, ZmqkitError
from zmqkit.events import JobDead
from zmqkit.peer.base import deadline_of, left_of

LINGER_S = 5.0
"""How long to go on serving after a signal, unless --linger says otherwise."""

DEAD_TOLD = 20
"""So many dead letters are told one by one."""

REFRESH_HZ = 8

SETTLED = ("acked", "dead", "expired")

NOT_DUE_S = 0.2
"""How often to look whether what was sent with a delay is due."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be done with a pusher.

    Attributes:
        pusher: not open yet.
        journal: the file that keeps what waits; None: memory.
        work: sends, or waits for whatever it waits for; called once the pusher is open. It may raise.
        wait: after it, wait until all is settled.
        timeout_s: ... for at most so long; None: as long as it takes.
        linger_s: how long to go on serving what waits before leaving it; None: what is usual.
        until_signal: a signal is the usual way to end this, not an interruption.
    """

    pusher: Pusher
    journal: Path | None
    work: Callable[[Pusher], object]
    wait: bool
    timeout_s: float | None
    linger_s: float | None
    until_signal: bool = False

    def run(self, *, as_json: bool) -> int:
        """Do it, tell the outcome, and return the exit code."""
        problem: BaseException | None = None
        with _dead_letters(self.pusher), raise_on_signals():
            self.pusher.open()
            stats = self.pusher.stats()
            found = int(stats["waiting"] + sum(map(stats.__getitem__, SETTLED)))  # some may have settled already
            try:
                for address in self.pusher.addresses:
                    say(f"bound {address}")
                with self._progress(found):
                    self._work()
            except (ZmqkitError, OSError, Stopped) as error:
                problem = error
            self._close(problem)
        return self._conclude(found, problem, as_json)

    def _work(self) -> None:
        trouble: Failed | None = None
        try:
            self.work(self.pusher)
        except Failed as error:
            # The input is bad from here on. What stood before it is delivered as usual.
            trouble = error
        if self.wait:
            try:
                self._flush()
            except WaitTimeout as error:
                late = Failed(f"out of time after {self.timeout_s:g} s", Code.TIMEOUT)
                if self.left:  # with --timeout 0 nobody had the time to see that nothing is
                    raise trouble or late from error
        if trouble is not None:
            raise trouble

    def _flush(self) -> None:
        """Wait until all is settled, what is not due yet included."""
        deadline = deadline_of(self.timeout_s)
        while self.pusher.flush(left_of(deadline)).not_due:
            left = left_of(deadline)
            if left == 0:
                raise WaitTimeout("some messages are not due yet")
            time.sleep(NOT_DUE_S if left is None else min(NOT_DUE_S, left))

    def _close(self, problem: BaseException | None) -> None:
        stopped = isinstance(problem, Stopped)
        linger_s = self.linger_s if self.linger_s is not None else LINGER_S if stopped else 0.0
        if stopped and linger_s:
            say(f"stopping; what waits is served for {linger_s:g} s more, unless another signal comes")
        # What was left behind is told in the words of this command line.
        with warnings.catch_warnings(), contextlib.suppress(Unsettled):
            warnings.simplefilter("ignore", RuntimeWarning)
            self.pusher.close(linger_s)

    @property
    def left(self) -> int:
        """How many messages are not settled."""
        return int(self.pusher.stats()["waiting"])

    def _conclude(self, found: int, problem: BaseException | None, as_json: bool) -> int:
        stats = self.pusher.stats()
        sent, left = int(stats["sent"]), self.left
        acked, dead, expired = (int(stats[name]) for name in SETTLED)
        if problem is not None and not isinstance(problem, Stopped):
            tell(problem)
        if as_json:
            journal = None if self.journal is None else str(self.journal)
            show.print_json(
                {"found": found, "sent": sent, "acked": acked, "dead": dead, "expired": expired, "waiting": left,
                 "journal": journal}
            )  # fmt: skip
        else:
            before = f"{found} found, " if found else ""
            late = f", {expired} expired" if expired else ""
            say(f"{before}{sent} sent: {acked} acked, {dead} dead{late}, {left} waiting")
        if left and self.journal is None:
            say("what waits is lost, or its ack was not heard: --journal PATH would keep it")
        elif left:
            say(f"deliver what waits with: zmqkit journal serve {self.journal} ADDRESS")
        if problem is not None and not (self.until_signal and isinstance(problem, Stopped)):
            return code_of(problem)
        return Code.FAILED if dead or expired or (left and self.journal is None) else Code.OK

    @contextlib.contextmanager
    def _progress(self, found: int) -> Iterator[None]:
        """A bar on stderr, if that is a terminal: how much of what was sent is settled."""
        if not sys.stderr.isatty():
            yield
            return
        # here: it takes a terminal to wait for it
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        began = time.monotonic()

        def look() -> Group:
            stats = self.pusher.stats()
            total = found + int(stats["sent"])
            done = int(sum(map(stats.__getitem__, SETTLED)))
            rate = done / max(time.monotonic() - began, 1e-3)
            dead = int(stats["dead"])
            words = f"{total:,} sent  {done:,} settled  {dead:,} dead  {rate:,.0f}/s"
            return Group(ProgressBar(total=max(total, 1), completed=done, width=60), Text(words))

        console = Console(stderr=True)
        with Live(console=console, get_renderable=look, refresh_per_second=REFRESH_HZ, transient=True):
            yield


@contextlib.contextmanager
def _dead_letters(pusher: Pusher) -> Iterator[None]:
    """Tell each dead letter and why, up to a bound, and how many more there were."""
    told = 0
    lock = threading.Lock()

    def note(event: JobDead) -> None:
        nonlocal told
        with lock:
            told += 1
            if told > DEAD_TOLD:
                return
        say(f"dead letter {event.id}: {event.reason}")

    remove = pusher.on(JobDead, note)
    try:
        yield
    finally:
        remove()
        if told > DEAD_TOLD:
            say(f"and {told - DEAD_TOLD} more")
