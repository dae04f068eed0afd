"""Who listens to a plain publisher, as far as subscriptions tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqkit.patterns.pubsub import plain_audience
from zmqkit.patterns.pubsub.plain_audience import Listeners

LINK, OTHER = ("d", "tcp://127.0.0.1:1"), ("d", "ipc://other")


def test_a_connection_counts_once_whatever_it_subscribes():
    found = Listeners()
    for prefix in (b"a", b"a", b"a.b", b"", b"x"):
        found.subscribed(LINK, prefix, b"one")
    found.subscribed(OTHER, b"a", b"one")
    assert [found.wanted(each) for each in ("a.b", "x", "a", "y", None)] == [2, 1, 2, 1, 2]
    found.unsubscribed(LINK, b"", b"one")
    found.unsubscribed(LINK, b"a", b"nobody")
    found.unsubscribed(LINK, b"never", b"one")
    assert [found.wanted(each) for each in ("a.b", "y", None)] == [2, 0, 2]
    found.lost_link(LINK)
    assert [found.wanted(each) for each in ("a.b", "x", None)] == [1, 0, 1]


def test_an_end_without_a_name_is_of_one_that_has_left_more():
    found = Listeners()
    for token in (b"one", b"two"):
        found.subscribed(LINK, b"a", token)
        found.subscribed(LINK, b"b", token)
    for prefix in (b"b", b"a"):
        found.unsubscribed(LINK, prefix, b"")
    assert [found.wanted(each) for each in ("a", "b", None)] == [1, 1, 1]


def test_who_has_no_name_is_told_apart_among_those_who_subscribe_the_same():
    found = Listeners()
    for prefix in (b"a", b"a", b"b"):
        found.subscribed(LINK, prefix, b"")
    found.subscribed(LINK, b"a", b"known")
    assert [found.wanted(each) for each in ("a", "b", None)] == [3, 1, 3]
    found.unsubscribed(LINK, b"a", b"")
    assert [found.wanted(each) for each in ("a", "b", None)] == [2, 1, 2]


def test_no_more_subscriptions_are_counted_than_the_bound(monkeypatch):
    monkeypatch.setattr(plain_audience, "MAX_SUBSCRIPTIONS", 3)
    found = Listeners()
    for n in range(5):
        found.subscribed(LINK, b"%d" % n, b"one")
    assert [found.wanted(str(n)) for n in range(5)] == [1, 1, 1, 0, 0]
    found.unsubscribed(LINK, b"0", b"one")
    found.subscribed(LINK, b"4", b"one")
    assert found.wanted("4") == 1


prefixes = st.sampled_from([b"", b"a", b"ab", b"b"])
tokens = st.sampled_from([b"1", b"2", b"3"])


@given(st.lists(st.tuples(st.booleans(), prefixes, tokens), max_size=40))
def test_it_agrees_with_sets_of_pairs(changes):
    found, model = Listeners(), set()
    for on, prefix, token in changes:
        if on:
            found.subscribed(LINK, prefix, token)
            model.add((prefix, token))
        else:
            found.unsubscribed(LINK, prefix, token)
            model.discard((prefix, token))
    for topic in ("a", "abc", "b", "c"):
        assert found.wanted(topic) == len({token for prefix, token in model if topic.encode().startswith(prefix)})
    assert found.wanted(None) == len({token for _, token in model})
    assert found._count == len(model)
