"""The two faces are one: the same names, parameters and defaults, but for what stands in a table here.

The contract is written out as well, so that a change of both faces at once is noticed too.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

import zmqkit
from tests.pipeline.test_parity import OTHER_NAMES, REQUIRED, defaults, parameters, public
from zmqkit import aio

CLASSES = ("Publisher", "Subscriber", "Message")

ONLY_ASYNC_PARAMETERS = {("Subscriber", "run"): {"tasks"}}

ADDED = {"recovery"}
"""Keywords besides those of the contract."""

COROUTINES = {
    "Publisher": {
        "open", "close", "wait_for_peers", "publish", "publish_many", "wait_for_subscribers", "subscribers",
    },
    "Subscriber": {"open", "close", "wait_for_peers", "receive", "run"},
    "Message": {"commit"},
}  # fmt: skip

CONTRACT: dict[str, dict[str, dict[str, object]]] = {
    "Publisher": {
        "__init__": {
            "addresses": REQUIRED, "history": 1_000, "journal": None, "durability": "power", "retention": None,
            "last_value": False, "plain": False, "common": REQUIRED,
        },
        "publish": {"topic": REQUIRED, "body": REQUIRED, "headers": None},
        "publish_many": {"messages": REQUIRED},
        "wait_for_subscribers": {"count": 1, "topic": None, "timeout": None},
        "subscribers": {},
    },
    "Subscriber": {
        "__init__": {
            "addresses": REQUIRED, "topics": "#", "start": None, "cursor": None, "inbox": None, "on_gap": "recover",
            "on_slow": "recover", "max_age": None, "on_error": "raise", "group": None, "plain": False,
            "common": REQUIRED,
        },
        "subscribe": {"topics": REQUIRED},
        "unsubscribe": {"topics": REQUIRED},
        "receive": {"timeout": None},
        "run": {"handler": REQUIRED, "threads": 1},
    },
    "Message": {"commit": {}, "transaction": {}},
}  # fmt: skip

POSITIONAL_ONLY = {
    ("Publisher", "publish"): {"topic", "body"}, ("Publisher", "publish_many"): {"messages"},
    ("Subscriber", "run"): {"handler"},
}  # fmt: skip

POSITIONAL_OR_BY_NAME = {
    ("Publisher", "wait_for_subscribers"): {"count"}, ("Subscriber", "receive"): {"timeout"},
}  # fmt: skip

ATTRIBUTES = {"topic", "body", "sequence", "id", "publisher", "epoch", "sent_at", "headers", "replayed"}

FACES = pytest.mark.parametrize("face", [zmqkit, aio], ids=["sync", "async"])


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_methods(name: str) -> None:
    sync, other = set(public(getattr(zmqkit, name))), set(public(getattr(aio, name)))
    iterable = {"__iter__"} if name == "Subscriber" else set()
    context = {"__enter__", "__exit__"} & sync
    assert other == (sync - context - iterable) | {OTHER_NAMES[each] for each in context | iterable}


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_parameters_and_defaults(name: str) -> None:
    sync, other = public(getattr(zmqkit, name)), public(getattr(aio, name))
    for method in sync.keys() - OTHER_NAMES.keys():
        mine, theirs = parameters(sync[method]), parameters(other[method])
        for extra in ONLY_ASYNC_PARAMETERS.get((name, method), set()):
            assert theirs.pop(extra).default == 1
        assert [(each.name, each.kind, each.default) for each in mine.values()] == [
            (each.name, each.kind, each.default) for each in theirs.values()
        ], f"{name}.{method}"


@pytest.mark.parametrize("name", CLASSES)
def test_what_waits_is_a_coroutine_in_the_async_face_and_only_that(name: str) -> None:
    waiting = {method for method, value in public(getattr(aio, name)).items() if inspect.iscoroutinefunction(value)}
    assert waiting - {"__aenter__", "__aexit__"} == COROUTINES[name]
    assert not [method for method, value in public(getattr(zmqkit, name)).items() if inspect.iscoroutinefunction(value)]


@FACES
def test_each_face_keeps_the_contract(face: Any) -> None:
    for name, methods in CONTRACT.items():
        for method, expected in methods.items():
            found = defaults(getattr(getattr(face, name), method))
            for extra in ONLY_ASYNC_PARAMETERS.get((name, method), set()) | ADDED:
                found.pop(extra, None)
            assert found == expected, f"{name}.{method}"


@FACES
def test_each_parameter_is_given_by_position_or_by_name_as_the_contract_says(face: Any) -> None:
    for name, methods in CONTRACT.items():
        for method in methods:
            kinds: dict[Any, set[str]] = {}
            for each in parameters(getattr(getattr(face, name), method)).values():
                kinds.setdefault(each.kind, set()).add(each.name)
            found = kinds.get(inspect.Parameter.POSITIONAL_ONLY, set())
            assert found == POSITIONAL_ONLY.get((name, method), set()), f"{name}.{method}"
            found = kinds.get(inspect.Parameter.POSITIONAL_OR_KEYWORD, set())
            assert found == POSITIONAL_OR_BY_NAME.get((name, method), set()), f"{name}.{method}"


@FACES
def test_each_public_method_says_what_it_does(face: Any) -> None:
    silent = [
        f"{name}.{method}"
        for name in CLASSES
        for method, value in public(getattr(face, name)).items()
        if not method.startswith("_") and not value.__doc__
    ]
    assert not silent


@FACES
def test_a_message_has_the_attributes_of_the_contract(face: Any) -> None:
    assert set(dir(face.Message)) >= ATTRIBUTES


def test_both_faces_tell_their_types_alike() -> None:
    for name in CLASSES:
        for method, value in public(getattr(zmqkit, name)).items():
            twin = getattr(getattr(aio, name), OTHER_NAMES.get(method, method), None)
            if twin is None or method.startswith("__"):
                continue
            mine, theirs = get_type_hints(value), get_type_hints(twin)
            for parameter in mine.keys() - {"return"}:
                assert _shown(mine[parameter]) == _shown(theirs[parameter]), f"{name}.{method}({parameter})"
            assert _shown(theirs["return"]) == _shown(mine["return"]), f"{name}.{method}"


def _shown(hint: Any) -> str:
    found = str(hint)
    for module in ("zmqkit.patterns.pubsub", "zmqkit.peer"):
        found = found.replace(f"{module}.aio.", "").replace(f"{module}.sync.", "")
    return found
