"""Scenarios of publish-subscribe over three faces. See `tests.pipeline.faces` for how one scenario runs over all."""

from __future__ import annotations

from typing import Any

import zmqkit
from tests.pipeline import faces
from tests.pipeline.faces import FACES, LOCAL, PATIENCE_S, Letterbox, bare, dress, in_place, listen
from zmqkit import Heartbeat, aio

faces.TWINS.update({getattr(zmqkit, name): getattr(aio, name) for name in ("Publisher", "Subscriber", "Message")})

QUICK = Heartbeat(interval=0.1)
"""For scenarios in which silence has to be noticed."""


class Face(faces.Face):
    """What a scenario gets: the classes of one face, and what else differs between them."""

    def Publisher(self, *args: Any, **kwargs: Any) -> Any:
        if not (args or "bind" in kwargs or "connect" in kwargs):
            args = (LOCAL,)
        return self._made("Publisher", args, kwargs)

    def Subscriber(self, *publishers: Any, **kwargs: Any) -> Any:
        """A subscriber of these publishers, which are open; or of addresses."""
        addresses = [each if isinstance(each, str) else each.addresses[0] for each in publishers]
        return self._made("Subscriber", addresses, kwargs)


async def take(sub: Any) -> Any:
    """The next message, which must come."""
    message = await sub.receive(PATIENCE_S)
    assert message is not None, "no message came"
    return message


async def bodies(sub: Any, count: int) -> list[Any]:
    """The bodies of the next messages."""
    return [(await take(sub)).body for _ in range(count)]


async def there(pub: Any, count: int = 1, **more: Any) -> None:
    """Wait until so many subscribers are there."""
    await pub.wait_for_subscribers(count, timeout=PATIENCE_S, **more)


__all__ = [
    "FACES",
    "LOCAL",
    "PATIENCE_S",
    "QUICK",
    "Face",
    "Letterbox",
    "bare",
    "bodies",
    "dress",
    "in_place",
    "listen",
    "take",
    "there",
]
