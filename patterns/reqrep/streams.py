"""Streams at the server: items that an execution emits, items that a client uploads, and the credit of both.

Pure data; `zmqkit.patterns.reqrep.streaming` moves it.
"""

from __future__ import annotations

from typing import Any, Final

AHEAD: Final = 256
"""An execution may be so many items ahead of what went out, however many its client would take."""


class Flow:
    """The streams of one call.

    Attributes:
        granted: items that the client takes, all before included.
        waiters: (beyond, ticket) of who waits for more of them.
        failure: the body of an ERROR that ends the stream whatever its handler says; empty: none.
        uploading: items of an argument may still come.
        upload_granted: items that may come, all before included.
        uploaded: items that came.
    """

    __slots__ = ("failure", "granted", "upload_granted", "uploaded", "uploading", "waiters")

    def __init__(self, granted: int, *, uploading: bool) -> None:
        self.granted = granted
        self.waiters: list[tuple[int, Any]] = []
        self.failure = b""
        self.uploading = uploading
        self.upload_granted = 0
        self.uploaded = 0
