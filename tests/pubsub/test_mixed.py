"""Frames that hold messages of several topics, and when there may be such."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import topics, wire
from zmqkit.patterns.pubsub.coverage import Coverage, in_common
from zmqkit.patterns.pubsub.wire import Data, Mixed

LINK = ("d", "tcp://127.0.0.1:1")
OTHER = ("d", "ipc://other")


def mixed(**changes: Any) -> Mixed:
    made = Mixed(
        prefix="a.", stream=b"8 bytes!", offsets=range(5, 8), previous=[4, 0], group_last=7, sent_at=1_000_000,
        codec="raw", lengths=[1, 2, 3], blob=b"abbccc", headers={2: {"h": "v"}}, topics=["a.one", "a.two"],
        indexes=[0, 1, 0],
    )  # fmt: skip
    return made._replace(**changes)


def test_a_mixed_frame_is_read_as_it_was_packed():
    made = mixed()
    assert wire.read(made.pack()) == made
    assert made.pack().startswith(b"da.\0")
    far = mixed(prefix="", offsets=[5, 7, 90], group_last=95)
    assert wire.read(far.pack()) == far


def test_a_mixed_frame_falls_into_one_frame_a_topic():
    assert mixed().parts() == [
        Data("a.one", b"8 bytes!", [5, 7], 4, 7, 1_000_000, "raw", [1, 3], b"accc", {1: {"h": "v"}}),
        Data("a.two", b"8 bytes!", [6], 0, 7, 1_000_000, "raw", [2], b"bb", {}),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"previous": [5, 0]},
        {"previous": [4, 6]},
        {"previous": [4]},
        {"previous": [4, -1]},
        {"previous": 4},
        {"indexes": [0, 1, 2]},
        {"indexes": [0, 1, -1]},
        {"indexes": [0, 0, 0]},
        {"indexes": [0, 1]},
        {"indexes": ["0", 1, 0]},
        {"indexes": None},
        {"topics": []},
        {"topics": ["a.one", "a.two", "a.three"]},
        {"topics": ["a.one", "a..two"]},
        {"topics": ["a.one", 2]},
        {"topics": "ab"},
        {"group_last": 6},
        {"lengths": [1, 2, 4]},
    ],
)
def test_a_mixed_frame_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(DecodeError):
        wire.read(mixed(**wrong).pack())


def test_a_mixed_frame_without_its_topics_is_refused():
    without = wire.pack_data(b"da.\0", b"8 bytes!", range(5, 6), [4], 5, 0, "raw", [1], b"a", {})
    with pytest.raises(DecodeError, match="without its topics"):
        wire.read(without)
    with pytest.raises(DecodeError, match="UTF-8"):
        wire.read(b"d\xff.\0" + mixed().pack()[4:])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b.c", "a.b.d"], "a.b."),
        (["a.b", "a.bc"], "a."),
        (["a", "a.b"], ""),
        (["a", "b"], ""),
        (["a.b", "a.b"], "a."),
    ],
)
def test_topics_have_whole_words_in_common(names, expected):
    assert in_common(names) == expected


def test_topics_share_a_frame_while_nobody_subscribes_a_part_of_them():
    coverage = Coverage()
    assert coverage.may_share("")
    for each in (b"d", b"b", b"p" + b"0" * 32 + b"/1/\0"):
        coverage.add(LINK, each)
    assert coverage.may_share("")
    coverage.add(LINK, b"da.")
    coverage.add(OTHER, b"da.")
    coverage.add(OTHER, b"da.")
    assert not coverage.may_share("")
    assert coverage.may_share("a.")
    assert coverage.may_share("b.")
    coverage.add(LINK, topics.wire_topic("a.b"))
    assert not coverage.may_share("a.")
    coverage.remove(LINK, topics.wire_topic("a.b"))
    coverage.remove(LINK, topics.wire_topic("never.there"))
    assert coverage.may_share("a.")
    coverage.remove(LINK, b"da.")
    assert not coverage.may_share("")
    coverage.lost(OTHER)
    assert coverage.may_share("")


words = st.sampled_from(["a", "b", "ab"])
names = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.builds(lambda head, tail: ".".join([*head, *tail]), st.lists(st.sampled_from(["a", "b", "ab", "*"]),
                     max_size=3), st.sampled_from([["#"], ["a"], ["*"]]))  # fmt: skip


@given(st.lists(patterns, max_size=4), st.lists(names, min_size=2, max_size=4))
def test_a_shared_frame_reaches_whoever_subscribes_any_of_its_topics(subscribed, published):
    coverage = Coverage()
    for pattern in subscribed:
        for each in topics.wire_prefixes(pattern):
            coverage.add(LINK, each)
    prefix = in_common(published)
    if coverage.may_share(prefix):
        frame = topics.mixed_topic(prefix)
        for pattern in subscribed:
            reached = any(map(frame.startswith, topics.wire_prefixes(pattern)))
            assert reached or not any(map(topics.Filter([pattern]).matches, published))
