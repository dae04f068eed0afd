"""Data links: what is subscribed over each, and which fence is waited for (docs/protocol.md, 14.3).

Pure. Of a connecting link each connection is a new one, which knows nothing of the subscriptions over the last one. A
bound one is always up, and tells whoever connects all that is subscribed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zmqkit.patterns.pubsub import wire
from zmqkit.patterns.pubsub.topics import BEATS, Filter, private_topic, wire_prefixes
from zmqkit.protocol.core import Frames, Link

if TYPE_CHECKING:
    from zmqkit.patterns.pubsub.streams import Stream

Sends = list[tuple[Link, Frames]]


class DataLink:
    """One data endpoint.

    Attributes:
        address: as the driver names it.
        bound: others connect to it.
        hint: how publishers may connect to our recovery channel, if we bind one.
        up: there is a connection.
        quiet: no topics are subscribed: the streams are followed by feeds.
        number: of the private topic that is subscribed; 0: none.
        private: its name.
        filter: whose prefixes are subscribed.
        prefixes: those.
        streams: by the name that their frames bear: those whose fence came over this link.
        spare: streams that come over another link, too.
        before: of the last connection: the one stream that there was, if it was one.
        fenced: some fence of this number came.
        tries: fences that were asked for in vain.
        told: that nobody answers was told.
    """

    __slots__ = (
        "address", "before", "bound", "fenced", "filter", "hint", "link", "number", "prefixes", "private", "quiet",
        "spare", "streams", "told", "tries", "up",
    )  # fmt: skip

    def __init__(self, address: str, *, bound: bool, quiet: bool, hint: str = "") -> None:
        self.address = address
        self.link: Link = ("d", address)
        self.bound = bound
        self.hint = hint
        self.up = False
        self.quiet = quiet
        self.number = 0
        self.private = ""
        self.filter: Filter | None = None
        self.prefixes: set[bytes] = set()
        self.streams: dict[bytes, Stream] = {}
        self.spare: dict[bytes, Stream] = {}
        self.before: Stream | None = None
        self.fenced = False
        self.tries = 0
        self.told = False

    def cleared(self) -> None:
        """The connection is gone, and all that was subscribed over it."""
        self.up = self.fenced = False
        self.private = ""
        self.filter = None
        self.prefixes = set()
        self.streams = {}
        self.spare = {}

    def subscribe(self, filter: Filter, instance: bytes, number: int, sends: Sends) -> None:
        """Subscribe what the topics need, then a new private topic: its fence proves that all before it is in force.

        What is needed no longer is unsubscribed by `trim`.
        """
        if not self.quiet and self.filter is not filter:
            wanted = prefixes_of(filter)
            self._send(sorted(wanted - self.prefixes), True, sends)
            self.prefixes |= wanted
            self.filter = filter
        if not self.private:
            self._send([BEATS], True, sends)
        old, self.private, self.number = self.private, wire.private_name(instance, number, self.hint), number
        self.fenced = False
        self._send([private_topic(self.private)], True, sends)
        if old:
            self._send([private_topic(old)], False, sends)

    def trim(self, sends: Sends) -> None:
        """Unsubscribe what no topic needs; all of it, if quiet."""
        wanted = set() if self.quiet or self.filter is None else prefixes_of(self.filter)
        self._send(sorted(self.prefixes - wanted), False, sends)
        self.prefixes = wanted
        if self.quiet:
            self.filter = None

    def _send(self, prefixes: Iterable[bytes], on: bool, sends: Sends) -> None:
        sends.extend((self.link, [wire.subscription(each, on)]) for each in prefixes)


def prefixes_of(filter: Filter) -> set[bytes]:
    """What is subscribed for these topics."""
    return {prefix for pattern in filter for prefix in wire_prefixes(pattern)}


def is_data(link: object) -> bool:
    """Whether a link is of the data plane."""
    return type(link) is tuple and bool(link) and link[0] == "d"
