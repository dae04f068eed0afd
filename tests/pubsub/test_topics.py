"""Topics and patterns: what may be one, how they stand on the wire, which lets which in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqkit.errors import DecodeError
from zmqkit.patterns.pubsub import topics
from zmqkit.patterns.pubsub.topics import Filter

WORDS = st.sampled_from(["a", "b", "cc", "é", "a*", "#b"])
TOPICS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.just("*")), min_size=0, max_size=4).flatmap(
    lambda words: st.sampled_from([".".join([*words, "#"]), ".".join(words or ["a"])])
)


def lets_in(pattern: list[str], topic: list[str]) -> bool:
    """What a pattern means, word by word."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return True
    return bool(topic) and pattern[0] in ("*", topic[0]) and lets_in(pattern[1:], topic[1:])


@given(st.lists(PATTERNS, max_size=8), st.lists(PATTERNS, max_size=4), st.lists(TOPICS, min_size=1, max_size=8))
def test_a_filter_lets_in_what_one_of_its_patterns_does(added, removed, asked):
    filter = Filter(added)
    for topic in asked:
        filter.matches(topic)  # what it remembers of this must not outlive a change
    for pattern in removed:
        assert filter.remove(pattern) == (pattern in added)
        added = [each for each in added if each != pattern]
    assert len(filter) == len(set(added))
    assert set(filter) == set(added)
    for topic in asked:
        assert filter.matches(topic) == any(lets_in(each.split("."), topic.split(".")) for each in added)


@given(st.lists(PATTERNS, max_size=4), st.lists(WORDS, max_size=3), TOPICS)
def test_a_filter_that_covers_some_words_lets_in_whatever_begins_with_them(patterns, words, rest):
    filter = Filter(patterns)
    prefix = "".join(word + "." for word in words)
    assert filter.covers(prefix) == any(
        pattern == "#" or (pattern.endswith(".#") and "*" not in pattern.split(".") and prefix.startswith(pattern[:-1]))
        for pattern in patterns
    )
    assert filter.covers(prefix) <= filter.matches(prefix + rest)


@given(PATTERNS, TOPICS)
def test_what_is_subscribed_on_the_wire_is_no_less_than_the_pattern(pattern, topic):
    reaches = any(topics.wire_topic(topic).startswith(prefix) for prefix in topics.wire_prefixes(pattern))
    assert reaches >= lets_in(pattern.split("."), topic.split("."))


def test_a_literal_does_not_let_longer_topics_in_on_the_wire():
    assert not topics.wire_topic("data-secret").startswith(topics.wire_prefixes("data")[0])
    assert topics.wire_prefixes("alerts.#") == (b"dalerts\0", b"dalerts.")
    assert topics.wire_prefixes("prices.*.gold") == (b"dprices.",)
    assert topics.wire_prefixes("#") == (b"d",)


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("", "empty"),
        ("a" * 256, "at most 255 bytes"),
        ("é" * 128, "at most 255 bytes"),
        ("a\0b", "null"),
        ("a..b", "single dots"),
        (".a", "single dots"),
        ("a.", "single dots"),
        ("a.*", "wildcard"),
        ("#", "wildcard"),
        ("\ud800", "UTF-8"),
    ],
)
def test_what_cannot_be_a_topic_is_refused_and_told_why(topic, why):
    with pytest.raises(ValueError, match=why):
        topics.check_topic(topic)
    with pytest.raises(DecodeError):
        topics.read_topic(topic)


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"]])
def test_what_is_no_text_is_no_topic(value):
    with pytest.raises(TypeError, match="text"):
        topics.check_topic(value)
    with pytest.raises(DecodeError):
        topics.read_pattern(value)


def test_the_hash_stands_last_only():
    assert topics.check_patterns(["a.#", "*.b", "#", "a.#"]) == ["a.#", "*.b", "#"]
    with pytest.raises(ValueError, match="last one"):
        topics.check_pattern("a.#.b")


def test_words_that_only_hold_a_wildcard_are_words():
    assert topics.check_topic("c#.a*") == "c#.a*"
    assert Filter(["c#"]).matches("c#")
    assert not Filter(["c#"]).matches("c")


def test_a_hundred_thousand_patterns_are_looked_up_not_walked(monkeypatch):
    filter = Filter(f"t.{at}" for at in range(100_000))
    monkeypatch.setattr(Filter, "_walk", None)
    assert filter.matches("t.99999")
    assert not filter.matches("t.100000")
    assert len(filter) == 100_000


def test_remembered_verdicts_are_bounded(monkeypatch):
    monkeypatch.setattr(topics, "CACHED", 10)
    filter = Filter(["a.*"])
    for at in range(100):
        assert filter.matches(f"a.{at}")
    assert len(filter._cache) <= 10
