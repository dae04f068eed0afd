"""A message without sockets, to try handlers of subscribers with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from zmqkit import codec as codecs
from zmqkit.patterns.pubsub import Message, Subscriber
from zmqkit.patterns.pubsub.parcels import Parcel
from zmqkit.patterns.pubsub.positions import Progress
from zmqkit.patterns.pubsub.topics import check_topic
from zmqkit.patterns.pubsub.wire import Data

NOWHERE = "inproc://zmqkit.testing"

PUBLISHER = "0" * 32
EPOCH = "0" * 32


def message(
    topic: str, body: Any, /, *, sequence: int = 1, headers: Mapping[str, str] | None = None
) -> Message[Any]:  # fmt: skip
    """A message that no socket brought, to be given to a handler.

    It behaves as one of a subscriber with a cursor: ``with message:`` and `Message.commit` work, and keep nothing. What
    is raised in the block comes out of it.

    Args:
        topic: what it is published to.
        body: travels through the codec, as in reality: a tuple arrives as a list.
        sequence: its offset.
        headers: what a publisher attached.

    Raises:
        ValueError: the topic cannot be one, or the sequence is below 1.
        EncodeError: the body, or a header, cannot travel.
    """
    if sequence < 1:
        raise ValueError(f"sequence must be 1 or more, got {sequence!r}")
    subscriber = _Alone(NOWHERE)
    data = codecs.encode(body, limits=subscriber._limits)
    kept = codecs.check_headers(headers) if headers else {}
    sent_at = int(datetime.now(UTC).timestamp() * 1e6)
    found = Data(
        check_topic(topic), bytes(8), range(sequence, sequence + 1), sequence - 1, sequence, sent_at, "msgpack",
        [len(data)], data, {0: kept} if kept else {},
    )  # fmt: skip
    return subscriber.brings(Parcel(PUBLISHER, EPOCH, found))


class _Alone(Subscriber[Any]):
    """A subscriber that is never opened."""

    def brings(self, parcel: Parcel) -> Message[Any]:
        self._progress = Progress()
        self._decode(parcel)
        found = self._make(parcel, 0)
        assert found is not None  # nothing of it was dealt with before
        return found  # type: ignore[no-any-return]

    def _keep(self, message: Any, *, wait: bool = False, lazily: bool = False) -> None:
        self._passed(message)

    def _give_back(self, parcel: Parcel, index: int, pause: float) -> None:
        """Nobody takes it again."""

    def _check_wait(self) -> None:
        """Nothing is waited for."""
