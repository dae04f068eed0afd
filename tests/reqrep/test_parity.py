"""The two faces of request-reply are one, as those of the pipeline are: see `tests.pipeline.test_parity`."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

import zmqkit
from tests.pipeline.test_parity import FACES, OTHER_NAMES, REQUIRED, defaults, parameters, public
from zmqkit import aio

CLASSES = ("Client", "Server", "Stream")

ONLY_ASYNC_PARAMETERS = {("Server", "__init__"): {"tasks": 1000}}
"""What the async face takes besides: how many coroutines at a time."""

COROUTINES = {
    "Client": {"open", "close", "wait_for_peers", "call", "methods"},
    "Server": {"open", "close", "wait_for_peers", "run"},
    "Stream": {"close"},
}
"""What waits, or may wait one day. All else is plain in both faces."""

CONTRACT: dict[str, dict[str, dict[str, object]]] = {
    "Client": {
        "__init__": {"addresses": REQUIRED, "timeout": 10.0, "retries": None, "journal": None, "common": REQUIRED},
        "call": {"method": REQUIRED, "args": REQUIRED, "kwargs": REQUIRED},
        "submit": {"method": REQUIRED, "args": REQUIRED, "kwargs": REQUIRED},
        "stream": {"method": REQUIRED, "args": REQUIRED, "kwargs": REQUIRED},
        "proxy": {"protocol": None},
        "methods": {},
        "results": {},
    },
    "Server": {
        "__init__": {
            "addresses": REQUIRED, "threads": 8, "processes": 0, "executor": None, "journal": None,
            "durability": "power", "inbox": None, "window": None, "tracebacks": None, "common": REQUIRED,
        },
        "method": {"fn": None, "name": None, "idempotent": False, "concurrency": None, "timeout": None},
        "include": {"source": REQUIRED, "prefix": ""},
        "run": {},
    },
    "Stream": {"close": {}},
}  # fmt: skip
"""Parameters and defaults that programs rely on, by class and method, `self` left out."""

POSITIONAL_ONLY = {
    ("Client", "call"): {"method"}, ("Client", "submit"): {"method"}, ("Client", "stream"): {"method"},
    ("Client", "proxy"): {"protocol"}, ("Server", "method"): {"fn"}, ("Server", "include"): {"source"},
}  # fmt: skip

OPTIONS = ["timeout", "retries", "request_id", "headers", "durable"]


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_methods(name: str) -> None:
    sync, other = set(public(getattr(zmqkit, name))), set(public(getattr(aio, name)))
    special = OTHER_NAMES.keys() & sync
    assert other == (sync - special) | {OTHER_NAMES[each] for each in special}


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_parameters_and_defaults(name: str) -> None:
    sync, other = public(getattr(zmqkit, name)), public(getattr(aio, name))
    for method in sync.keys() - OTHER_NAMES.keys():
        mine, theirs = parameters(sync[method]), parameters(other[method])
        for extra, default in ONLY_ASYNC_PARAMETERS.get((name, method), {}).items():
            assert theirs.pop(extra).default == default
        assert [(each.name, each.kind, each.default) for each in mine.values()] == [
            (each.name, each.kind, each.default) for each in theirs.values()
        ], f"{name}.{method}"


@pytest.mark.parametrize("name", CLASSES)
def test_what_waits_is_a_coroutine_in_the_async_face_and_only_that(name: str) -> None:
    waiting = {method for method, value in public(getattr(aio, name)).items() if inspect.iscoroutinefunction(value)}
    assert waiting - {"__aenter__", "__aexit__", "__anext__"} == COROUTINES[name]
    assert not [method for method, value in public(getattr(zmqkit, name)).items() if inspect.iscoroutinefunction(value)]


@FACES
def test_each_face_keeps_the_contract(face: Any) -> None:
    for name, methods in CONTRACT.items():
        for method, expected in methods.items():
            value = getattr(getattr(face, name), method)
            found = defaults(value)
            for extra in ONLY_ASYNC_PARAMETERS.get((name, method), ()):
                found.pop(extra, None)
            assert found == expected, f"{name}.{method}"
            first = {each.name for each in parameters(value).values() if each.kind is each.POSITIONAL_ONLY}
            assert first == POSITIONAL_ONLY.get((name, method), set()), f"{name}.{method}"
    options = parameters(face.Client.options)
    assert list(options) == OPTIONS
    assert {each.kind for each in options.values()} == {inspect.Parameter.KEYWORD_ONLY}


@FACES
def test_each_public_method_says_what_it_does(face: Any) -> None:
    silent = [
        f"{name}.{method}"
        for name in (*CLASSES, "Reply", "Request")
        for method, value in public(getattr(face, name)).items()
        if not method.startswith("_") and not value.__doc__
    ]
    assert not silent


def test_both_faces_tell_their_types_alike() -> None:
    for name in CLASSES:
        for method, value in public(getattr(zmqkit, name)).items():
            twin = getattr(getattr(aio, name), method, None)
            if twin is None or method.startswith("__"):
                continue
            mine, theirs = get_type_hints(value), get_type_hints(twin)
            for parameter in mine.keys() - {"return"}:
                assert str(mine[parameter]) == str(theirs[parameter]), f"{name}.{method}({parameter})"
            expected = _shown(mine["return"]).replace("Iterator", "AsyncIterator")
            assert _shown(theirs["return"]) == expected, f"{name}.{method}"


def _shown(hint: Any) -> str:
    return str(hint).replace("reqrep.aio.", "").replace("reqrep.reply.", "").replace("reqrep.stream.", "")


def test_what_never_waits_is_the_same_object_in_both_faces() -> None:
    assert aio.Request is zmqkit.Request
    assert aio.method is zmqkit.method
    assert aio.RemoteError is zmqkit.RemoteError


def test_what_is_not_built_is_not_accepted() -> None:
    """A keyword that a later version may have is an error today, never ignored."""
    for face in (zmqkit, aio):
        for name, keyword in (("Server", "plain"), ("Client", "inbox"), ("Client", "hedge")):
            with pytest.raises(TypeError, match=keyword):
                getattr(face, name)("inproc://x", **{keyword: None})
