"""Frames of one turn of a publisher, put together again (docs/protocol.md, 14.2).

Pure. What was published in one turn is one group: a frame for each topic. The frames of a group come in the order of
their first offsets; so one that ends with the group's last offset, without a gap, is the last of them. Otherwise a beat
says that the group is complete, or something of a later group.
"""

from __future__ import annotations

from zmqkit.patterns.pubsub.wire import FRAME_BYTES, FRAME_MESSAGES, Data

GROUP_MESSAGES = 200_000
GROUP_BYTES = 64 * 1024 * 1024
"""A group is handed on as it is when it is larger, whatever its publisher still adds. Many publishers share that."""


class Groups:
    """Gathers the frames of the group that is incomplete.

    Attributes:
        frames: of it.
        last: its last offset.
    """

    __slots__ = ("_bytes", "_messages", "_most_bytes", "_most_messages", "frames", "last")

    def __init__(self) -> None:
        self.frames: list[Data] = []
        self.last = 0
        self._most_messages, self._most_bytes = GROUP_MESSAGES, GROUP_BYTES
        self._messages = self._bytes = 0

    def share(self, streams: int) -> None:
        """So many streams gather groups: each may take its part of the memory."""
        self._most_messages = max(FRAME_MESSAGES, GROUP_MESSAGES // streams)
        self._most_bytes = max(FRAME_BYTES, GROUP_BYTES // streams)

    def add(self, data: Data) -> list[list[Data]]:
        """The next frame. Returns the groups that are complete now, in their order."""
        complete = []
        if self.frames and data.group_last != self.last:
            complete.append(self.take())
        self.frames.append(data)
        self.last = data.group_last
        self._messages += len(data.lengths)
        self._bytes += len(data.blob)
        if ends_group(data) or self._messages > self._most_messages or self._bytes > self._most_bytes:
            complete.append(self.take())
        return complete

    def beat(self, offset: int) -> list[Data]:
        """All up to this offset was sent. Returns the frames of the group that is complete with it, or none."""
        return self.take() if self.frames and offset >= self.last else []

    def take(self) -> list[Data]:
        """Its frames, complete or not; forgets them."""
        frames, self.frames = self.frames, []
        self._messages = self._bytes = 0
        return frames


def ends_group(data: Data) -> bool:
    """Whether nothing of its group comes after this frame."""
    offsets = data.offsets
    return type(offsets) is range and offsets[-1] == data.group_last
