"""What a face may ask of a driver, whichever it is. No code: two classes satisfy it.

`IoThread` pumps its core in a thread of its own; `SharedPump` lets the callers' threads pump. Faces name neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

from zmqkit.events import Event
from zmqkit.protocol.core import Core
from zmqkit.transport.mailbox import Mailbox
from zmqkit.transport.tickets import Ticket

E = TypeVar("E", bound=Event)

DataKind = Literal["XPUB", "PUB", "XSUB", "PUSH", "PULL"]
"""The data endpoints of a peer: XPUB sends to whoever subscribed to it, XSUB subscribes and receives. PUSH and PULL are
those of plain pipelines."""


class Driver(Protocol):
    """Pumps one core. Every method may be called from any thread.

    Attributes:
        core: the state machine; touched by the driver only, once it is started.
        name: of the peer.
        addresses: what is bound, ports filled in; after `start`.
        data_addresses: which data endpoints are bound, ports filled in; after `start`.
        failure: the exception that ended the driver, if one did; every waiter is woken with it.
        ended: resolved when all is torn down: True if the core had finished.
    """

    core: Core
    name: str
    addresses: tuple[str, ...]
    data_addresses: tuple[str, ...]
    failure: BaseException | None
    ended: Ticket

    @property
    def mailbox(self) -> Mailbox[Any]:
        """What the core gives the user.

        Wait for it with `wait_items`, not with methods of its own: some drivers make the waiting thread work.
        """

    def start(self) -> None:
        """Bind, connect, and begin.

        Raises:
            AddressInUse: a bind address is taken.
            AddressError: an address cannot be bound, or read. After either nothing is left open, and the journal is
                still the caller's.
            Closed: it was started or closed before.
            Forked: it was made before a fork, in the parent.
        """

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        """Run ``fn(*args, now)`` where the core may be touched, soon: within a millisecond or so.

        What it raises is logged, and is the result of every `Ticket` among ``args``.
        Raises `Closed`, `Forked`, or the `failure`.
        """

    def post_taking(self, fn: Callable[..., object], *args: Any) -> None:
        """`post` by a thread that takes an item next: it need wake nobody else for what comes in by this."""

    def submit(self, fn: Callable[..., object], *args: Any) -> None:
        """The same, at once: for calls that somebody waits for."""

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        """The same, later: for what is one of many that come at once. Within some milliseconds, and no sooner than it
        must; `submit` of anything hurries it."""

    def alarm(self, seconds: float, fn: Callable[[float], object]) -> None:
        """Run ``fn(now)`` where the core may be touched, so many seconds from now, unless the driver has ended."""

    def ticket(self) -> Ticket:
        """A ticket for a verb to resolve; when the driver ends without, its waiters are told."""

    def wait(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """Block this thread for the result of one of this driver's tickets, at most ``timeout`` seconds (None: for
        ever). Returns the result, or raises it if it is an exception. Raises `WaitExpired` when out of time; then, and
        interrupted by Ctrl-C, the ticket is intact and can be waited for again.
        """

    def ask(self, ticket: Ticket, timeout: float | None, fn: Callable[..., object], *args: Any) -> Any:
        """`submit` and `wait` in one: quicker than both, for threads that do nothing between. Raises what they do.

        `Ticket.handed` tells whether it was handed over, if this raises.
        """

    def wait_items(self, timeout: float | None = None) -> bool:
        """Block this thread until there is something in the mailbox to take, or it is closed or stopped.

        At most ``timeout`` seconds; None: for ever. True if there is something (another may be quicker to take it).
        """

    def check_wait(self) -> None:
        """Raises `UsageError` where the core is pumped, in a callback: who waits there waits for himself.

        Everything here that waits looks for itself; a verb that hands something over first asks before.
        """

    async def wait_async(self, ticket: Ticket, timeout: float | None = None) -> Any:
        """`wait` for a task of asyncio or trio. Cancelled, the ticket is intact. No checkpoint when it is done."""

    async def ask_async(self, ticket: Ticket, fn: Callable[..., object], *args: Any) -> Any:
        """`submit` and `wait_async` in one. `Ticket.handed` tells whether it was handed over, if this raises."""

    async def wait_items_async(self, timeout: float | None = None) -> bool:
        """`wait_items` for a task of asyncio or trio. No checkpoint when there is something already."""

    def connect(self, address: str) -> None:
        """Connect to one more address, or count one more user of it. An address that cannot be read is logged."""

    def disconnect(self, address: str) -> None:
        """Take back one `connect`; the connection ends with its last user. Unknown addresses are ignored."""

    def connect_data(self, address: str) -> None:
        """Connect one more data endpoint, or count one more user of it: link ("d", address) of the core.

        An address that cannot be read is logged. `UsageError`: the driver was made without ``data=``.
        """

    def disconnect_data(self, address: str) -> None:
        """Take back one `connect_data`, as `disconnect` does."""

    def on(self, event_type: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call back for events of this type, where the core is pumped. What it raises is logged.

        Returns its removal.
        """

    def stats(self) -> dict[str, int | float]:
        """The core's counters, and the driver's as ``io_...``."""

    def begin_close(self, timeout: float | None, *, flush: float = ...) -> None:
        """Ask to close, without waiting; `ended` tells. The shortest of several timeouts counts.

        Args:
            timeout: seconds that the core has to finish; None: as long as it takes.
            flush: seconds that the sockets then have to send what it said last.
        """

    def close(self, timeout: float | None = None) -> bool:
        """Let the core finish, at most ``timeout`` seconds (None: as long as it takes), then tear everything down.

        Idempotent, from any thread; the shortest of several timeouts counts. Called where the core is pumped (a
        callback) it only asks. Returns True if the core had finished and all is torn down.
        """

    def become_forked(self) -> None:
        """This is the child of a fork: from now on everything raises `Forked`; nothing of the parent's is touched."""
