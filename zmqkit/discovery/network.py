"""One Zeroconf object on one set of interfaces, shared by all that this process announces and looks up there.

Everything it knows is changed only on Zeroconf's own loop thread; others read copies. The objects are made when first
needed, closed in the background when nobody needs them any more, and belong to the process that made them: a forked
child starts with none, and what it inherited is closed under it.

Names are unique by construction (a random label each), so the probing of RFC 6762, section 8.1, is left out and an
announcement is out at once. Questions are asked by multicast only: where several processes share port 5353 of one
address, an answer by unicast would reach a random one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import itertools
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from zeroconf import (
    DNSQuestionType,
    IPVersion,
    NotRunningException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

from zmqkit.discovery import interfaces
from zmqkit.discovery.records import Record
from zmqkit.errors import DiscoveryError

T = TypeVar("T")
log = logging.getLogger("zmqkit.discovery")

SERVICE = "_zmqkit._tcp.local."
_RECORD_TTL_S = 1200  # of a killed announcer's record; python-zeroconf takes nothing under 1,125
_ADDRESS_TTL_S = 120
_CALL_TIMEOUT_S = 5.0
_GOODBYE_TIMEOUT_S = 0.5
_RESOLVE_TIMEOUT_MS = 3000
_EXIT_TIMEOUT_S = 1.0
_MOST_RECORDS = 10_000
_TYPE_PTR = 12


@dataclasses.dataclass(slots=True)
class _Service:
    """What is known of one announced label; only the loop's thread changes it."""

    record: Record | None = None
    asking: bool = False
    again: bool = False
    """Something changed while it was asked about."""
    overdue_since: float | None = None
    """Its record ran out then, without a goodbye."""


class Network:
    """See the module. Get one by `acquire`, give it back by `release`."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.interfaces = addresses
        self.users = 0
        self._services: dict[str, _Service] = {}
        self._own: set[str] = set()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._keys = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heard_at = 0.0
        try:
            self._zeroconf = Zeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only, use_asyncio=False)
        except (OSError, RuntimeError) as error:
            raise DiscoveryError(
                f"names cannot be looked up or announced on {', '.join(addresses)}: {error}; is UDP port 5353 held "
                f"by a program that does not share it? static:// and env:// do without"
            ) from error
        assert self._zeroconf.loop is not None
        self._loop: asyncio.AbstractEventLoop = self._zeroconf.loop
        self._thread_id = 0
        self._descriptors: list[int] = []
        try:
            self.call(self._start())
        except BaseException:
            self._zeroconf.close()
            raise

    async def _start(self) -> None:
        self._thread_id = threading.get_ident()
        await self._zeroconf.async_wait_for_start()
        for reader in self._zeroconf.engine.readers:
            handle: socket.socket = reader.transport.get_extra_info("socket")
            self._descriptors.append(handle.fileno())
            if handle.getsockname()[0] == "0.0.0.0":
                interfaces.hear_only(handle, loopback=ipaddress.IPv4Address(self.interfaces[0]).is_loopback)
        self._zeroconf.async_add_listener(_Ear(self), None)
        self._browser = AsyncServiceBrowser(
            self._zeroconf, SERVICE, handlers=[self._on_service], question_type=DNSQuestionType.QM
        )

    # ---- from any thread ---------------------------------------------------------

    def records(self) -> list[Record]:
        """What is announced now, as far as it was heard."""
        return [service.record for service in list(self._services.values()) if service.record is not None]

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, on the loop's thread, whenever `records` changed; returns what ends it."""
        key = next(self._keys)
        self._listeners[key] = callback

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop

    def register(self, record: Record, port: int, hosts: list[str]) -> ServiceInfo:
        """Announce; returns what `unregister` takes. The first announcement is out when this returns."""
        label = f"{record.name[:40]}-{secrets.token_hex(8)}"
        info = ServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            port=port,
            properties=record.encode(),
            server=f"{label}.local.",
            host_ttl=_ADDRESS_TTL_S,
            other_ttl=_RECORD_TTL_S,
            parsed_addresses=hosts,
        )
        self.call(self._register(info))
        return info

    def unregister(self, info: ServiceInfo) -> None:
        """Say goodbye: once before this returns (it waits 0.5 s at most), twice more soon after."""
        goodbye = self._unregister(info)
        with contextlib.suppress(DiscoveryError):  # the loop is gone, or too busy; the record will run out
            self.call(goodbye, timeout_s=_GOODBYE_TIMEOUT_S)

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float = _CALL_TIMEOUT_S) -> T | None:
        """Run it on the loop's thread. Called on that very thread, it is only started, and None is returned."""
        if threading.get_ident() == self._thread_id:
            self._keep(self._loop.create_task(work))
            return None
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise DiscoveryError("discovery was shut down in this process") from error
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            raise DiscoveryError(
                f"multicast DNS did not get to work within {timeout_s:g} s: the machine is overloaded, or an "
                f"on_change callback blocks it"
            ) from error
        except NotRunningException as error:
            raise DiscoveryError("multicast DNS was shut down") from error

    def close(self) -> None:
        """Finish the goodbyes, then close; takes up to some 400 ms. Not for the loop's thread."""
        with contextlib.suppress(DiscoveryError):
            self.call(self._finish(), timeout_s=_EXIT_TIMEOUT_S)
        self._zeroconf.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's sockets without touching what is shared with it."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._descriptors:
            # The number stays taken, so that whoever closes it later closes nothing else.
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)

    # ---- on the loop's thread ----------------------------------------------------

    async def _register(self, info: ServiceInfo) -> None:
        self._own.add(info.name.lower())
        task = await self._zeroconf.async_register_service(info, cooperating_responders=True, strict=False)
        self._keep(task)
        await asyncio.sleep(0)

    async def _unregister(self, info: ServiceInfo) -> None:
        self._own.discard(info.name.lower())
        self._keep(await self._zeroconf.async_unregister_service(info))
        await asyncio.sleep(0)

    async def _finish(self) -> None:
        for info in self._zeroconf.registry.async_get_service_infos():
            await self._unregister(info)
        await self._browser.async_cancel()
        goodbyes = [task for task in self._tasks if task is not asyncio.current_task()]
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=_GOODBYE_TIMEOUT_S)

    def _keep(self, task: Any) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_service(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """The browser's handler. What said goodbye is gone before this is called for it."""
        if state_change is ServiceStateChange.Removed:
            if name in self._services:
                self._services[name].overdue_since = time.monotonic()
                self._ask(name)
        elif name in self._services or len(self._services) < _MOST_RECORDS:
            self._services.setdefault(name, _Service())
            self._ask(name)

    def heard(self, name: str, *, goodbye: bool) -> None:
        """A pointer to this label came in."""
        if name.lower() not in self._own:
            self._heard_at = time.monotonic()
        if goodbye:
            service = self._services.pop(name, None)
            if service is not None and service.record is not None:
                self._tell()
        else:
            for other, service in list(self._services.items()):
                if service.overdue_since is not None:
                    self._ask(other)

    def _ask(self, name: str) -> None:
        service = self._services[name]
        if service.asking:
            service.again = True
            return
        service.asking = True
        self._keep(self._loop.create_task(self._resolve(name, service)))

    async def _resolve(self, name: str, service: _Service) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        try:
            answered = await info.async_request(self._zeroconf, _RESOLVE_TIMEOUT_MS, DNSQuestionType.QM)
        except Exception:  # a record that python-zeroconf itself cannot digest
            log.debug("%s cannot be resolved", name, exc_info=True)
            answered = False
        service.asking = False
        if self._services.get(name) is not service:
            return
        if answered:
            if service.overdue_since is not None:
                service.overdue_since = None
                self.heard(name, goodbye=False)
            record = Record.decode(info.properties)
            if record != service.record:
                service.record = record
                self._tell()
        elif service.overdue_since is not None and self._heard_at >= service.overdue_since:
            # Others were heard since and it was not: it is gone. Where nobody can be heard, it is rather the network
            # that is away, and who was known is kept.
            del self._services[name]
            if service.record is not None:
                self._tell()
            return
        elif service.record is None:
            del self._services[name]  # a pointer to nothing; its owner's next announcement brings it back
            return
        if service.again:
            service.again = False
            self._ask(name)

    def _tell(self) -> None:
        for callback in list(self._listeners.values()):
            try:
                callback()
            except Exception:
                log.exception("a callback of discovery failed")


class _Ear(RecordUpdateListener):
    """Hears goodbyes, which a browser does not tell from records that ran out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        for update in records:
            record = update.new
            if record.type == _TYPE_PTR and record.name.lower() == SERVICE:
                expired = record.is_expired(now)
                if not expired or record.ttl == 0:
                    alias: str = record.alias  # type: ignore[attr-defined]
                    self._network.heard(alias, goodbye=expired)

    def async_update_records_complete(self) -> None:
        """Nothing is put off until then."""


# ---- one per process and set of interfaces ---------------------------------------

_lock = threading.Lock()
_networks: dict[tuple[str, ...], Network] = {}
_closing: set[threading.Thread] = set()
_open: set[Network] = set()
"""Also those that are being closed."""
_abandoned: list[Network] = []


def acquire(addresses: tuple[str, ...]) -> Network:
    """The process's network on these interfaces, made if there is none. Blocks for some 10 ms then.

    Raises:
        DiscoveryError: multicast cannot be used there.
    """
    with _lock:
        network = _networks.get(addresses)
        if network is None:
            network = _networks[addresses] = Network(addresses)
            _open.add(network)
        network.users += 1
        return network


def release(network: Network) -> None:
    """Give it back; the last one to do so has it closed, in the background."""
    with _lock:
        network.users -= 1
        if network.users or _networks.get(network.interfaces) is not network:
            return
        del _networks[network.interfaces]
        thread = threading.Thread(target=_close, args=(network,), name="zmqkit-discovery-close", daemon=True)
        _closing.add(thread)
        thread.start()


def wait_closed(timeout: float) -> bool:
    """Wait until all that was released is closed; whether it came to that within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with _lock:
        threads = list(_closing)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _close(network: Network) -> None:
    try:
        network.close()
    except Exception:
        log.warning("multicast DNS on %s did not close cleanly", ", ".join(network.interfaces), exc_info=True)
    finally:
        with _lock:
            _closing.discard(threading.current_thread())
            _open.discard(network)


def close_all() -> None:
    """At the end of the process: say goodbye to all who hear it, for 1 s at most."""
    with _lock:
        networks = list(_networks.values())
    for network in networks:
        network.users = 1
        release(network)
    wait_closed(_EXIT_TIMEOUT_S)


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for network in _open:
        network.abandon()
        _abandoned.append(network)  # never finalized: its loop's poller is shared with the parent
    _open.clear()
    _networks.clear()
    _closing.clear()


os.register_at_fork(after_in_child=_in_child)
