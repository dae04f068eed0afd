"""The two faces are one: the same names, parameters and defaults, but for what stands in a table here.

The contract is written out as well, so that a change of both faces at once is noticed too.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

import zmqkit
from zmqkit import aio
from zmqkit.peer import Common

CLASSES = ("Peer", "Pusher", "Puller", "Worker", "Job", "Batch", "Receipt", "DeadLetters")

ONLY_ASYNC_PARAMETERS = {("Puller", "run"): {"tasks"}, ("Worker", "__init__"): {"tasks"}}
"""What the async face takes besides: how many coroutines at a time."""

OTHER_NAMES = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__iter__": "__aiter__"}
"""``with`` and ``for`` become ``async with`` and ``async for``. (A `Batch` is a plain sequence in both.)"""

COROUTINES = {
    "Peer": {"open", "close", "wait_for_peers"},
    "Pusher": {"open", "close", "wait_for_peers", "send", "send_many", "flush"},
    "Puller": {"open", "close", "wait_for_peers", "receive", "run"},
    "Worker": {"open", "close", "wait_for_peers", "run"},
    "Job": {"ack", "nack", "reject", "release", "extend"},
    "Batch": {"ack", "nack"},
    "Receipt": {"wait"},
    "DeadLetters": {"retry", "drop"},
}
"""What waits, or may wait one day. All else is plain in both faces."""

COMMON = {
    "bind": "str | Sequence[str]", "connect": "str | Sequence[str]", "announce": "str | None", "name": "str | None",
    "codec": "str", "insecure": "bool", "heartbeat": "Heartbeat", "limits": "Limits", "linger": "float | None",
}  # fmt: skip

REQUIRED = object()

CONTRACT: dict[str, dict[str, dict[str, object]]] = {
    "Peer": {
        "open": {}, "stop": {}, "stats": {}, "close": {"timeout": -1.0},
        "on": {"event": REQUIRED, "callback": REQUIRED},
        "wait_for_peers": {"count": 1, "timeout": None},
    },
    "Pusher": {
        "__init__": {
            "addresses": REQUIRED, "journal": None, "durability": "power", "max_failures": 20, "backoff": None,
            "max_waiting": None, "dedupe": None, "plain": False, "common": REQUIRED,
        },
        "send": {
            "body": REQUIRED, "id": None, "key": None, "priority": 0, "delay": None, "ttl": None, "headers": None,
            "timeout": None,
        },
        "send_nowait": {
            "body": REQUIRED, "id": None, "key": None, "priority": 0, "delay": None, "ttl": None, "headers": None,
        },
        "send_many": {"bodies": REQUIRED, "timeout": None},
        "flush": {"timeout": None, "until": "settled"},
        "transaction": {"db": None},
    },
    "Puller": {
        "__init__": {
            "addresses": REQUIRED, "prefetch": None, "inbox": None, "inbox_keep": None, "dead_letters": False,
            "on_error": "nack", "max_lease": 3600.0, "plain": False, "rate": None, "common": REQUIRED,
        },
        "receive": {"timeout": None},
        "batches": {"max": 500, "wait": 0.05},
        "run": {
            "handler": REQUIRED, "threads": 1, "processes": 0, "executor": None, "batch": None, "wait": 0.05,
            "time_limit": None,
        },
    },
    "Worker": {
        "__init__": {
            "handler": REQUIRED, "source": REQUIRED, "sink": None, "threads": 1, "processes": 0, "batch": None,
            "time_limit": None, "on_error": "nack", "common": REQUIRED,
        },
        "run": {},
    },
    "Job": {
        "ack": {"wait": False}, "nack": {"delay": None, "reason": None}, "reject": {"reason": REQUIRED}, "release": {},
        "extend": {"seconds": None},
        "claim": {"connection": REQUIRED}, "transaction": {},
    },
    "Batch": {"ack": {}, "nack": {"delay": None}, "transaction": {}},
    "Receipt": {"wait": {"until": "settled", "timeout": None}},
}  # fmt: skip
"""Parameters and defaults that programs rely on, by class and method, `self` left out."""

POSITIONAL_ONLY = {
    ("Pusher", "send"): {"body"}, ("Pusher", "send_nowait"): {"body"}, ("Pusher", "send_many"): {"bodies"},
    ("Puller", "run"): {"handler"}, ("Worker", "__init__"): {"handler"}, ("Peer", "on"): {"event", "callback"},
    ("Job", "claim"): {"connection"}, ("Pusher", "transaction"): {"db"},
}  # fmt: skip

POSITIONAL_OR_BY_NAME = {
    ("Peer", "close"): {"timeout"}, ("Peer", "wait_for_peers"): {"count"}, ("Pusher", "flush"): {"timeout"},
    ("Puller", "receive"): {"timeout"}, ("Puller", "batches"): {"max", "wait"}, ("Job", "reject"): {"reason"},
    ("Job", "extend"): {"seconds"},
    ("Receipt", "wait"): {"until"},
}  # fmt: skip

ATTRIBUTES = {
    "Peer": {"name", "addresses", "closed"},
    "Job": {"id", "body", "key", "headers", "failures", "deliveries", "sent_at", "outcome"},
    "Batch": {"bodies", "outcome"},
    "Receipt": {"id", "outcome"},
}

FACES = pytest.mark.parametrize("face", [zmqkit, aio], ids=["sync", "async"])


def public(kind: type) -> dict[str, Any]:
    """Methods of a class that users call, the special ones of the two protocols included."""
    special = {*OTHER_NAMES, *OTHER_NAMES.values(), "__init__", "__len__", "__getitem__"}
    return {
        name: getattr(kind, name)
        for name in dir(kind)
        if (not name.startswith("_") or name in special)
        and inspect.isfunction(getattr(kind, name))
        and getattr(kind, name).__module__.startswith("zmqkit.")
    }


def parameters(method: Any) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(method).parameters)
    found.pop("self", None)
    return found


def defaults(method: Any) -> dict[str, object]:
    return {
        name: REQUIRED if each.default is inspect.Parameter.empty else each.default
        for name, each in parameters(method).items()
    }


@pytest.mark.parametrize("name", CLASSES)
def test_both_faces_have_the_same_methods(name: str) -> None:
    sync, other = set(public(getattr(zmqkit, name))), set(public(getattr(aio, name)))
    iterable = {"__iter__"} if name in ("Puller", "DeadLetters") else set()
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
    assert waiting - {"__aenter__", "__aexit__", "__anext__"} == COROUTINES[name]
    assert not [method for method, value in public(getattr(zmqkit, name)).items() if inspect.iscoroutinefunction(value)]


@FACES
def test_each_face_keeps_the_contract(face: Any) -> None:
    for name, methods in CONTRACT.items():
        for method, expected in methods.items():
            found = defaults(getattr(getattr(face, name), method))
            for extra in ONLY_ASYNC_PARAMETERS.get((name, method), set()):
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


def test_both_faces_tell_their_types_alike() -> None:
    """Annotations, the classes of the other face aside."""
    for name in CLASSES:
        for method, value in public(getattr(zmqkit, name)).items():
            twin = getattr(getattr(aio, name), OTHER_NAMES.get(method, method), None)
            if method == "__init__" or twin is None or method in OTHER_NAMES or method.startswith("__"):
                continue
            mine, theirs = get_type_hints(value), get_type_hints(twin)
            for parameter in mine.keys() - {"return"}:
                assert _shown(mine[parameter]) == _shown(theirs[parameter]), f"{name}.{method}({parameter})"
            expected = _shown(mine["return"]).replace("Iterator", "AsyncIterator")
            assert _shown(theirs["return"]) == expected, f"{name}.{method}"


def _shown(hint: Any) -> str:
    shown = str(hint).replace("pulling_aio.", "pulling.").replace("pushing_aio.", "pushing.")
    return shown.replace("zmqkit.peer.aio.", "").replace("zmqkit.peer.sync.", "").replace("worker_aio.", "worker.")


def test_what_every_peer_takes_is_the_contracts() -> None:
    assert aio.Common is zmqkit.Common is Common
    shown = {
        name: str(hint).replace("typing.", "").replace("collections.abc.", "") for name, hint in _common_hints().items()
    }
    assert shown == COMMON


def _common_hints() -> dict[str, Any]:
    return {
        name: hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else hint
        for name, hint in get_type_hints(Common).items()
    }


@FACES
def test_attributes_that_programs_read_are_there(face: Any) -> None:
    for name, attributes in ATTRIBUTES.items():
        kind = getattr(face, name)
        slots = {slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())}
        made = {"name"} if name == "Peer" else set()
        assert attributes <= slots | set(dir(kind)) | made, name


def test_what_is_not_built_is_not_accepted() -> None:
    """A keyword that a later version may have is an error today, never ignored."""
    unknown = {
        "Puller": ("dead_letters",), "Worker": ("state",),
    }  # fmt: skip
    for face in (zmqkit, aio):
        for name, keywords in unknown.items():
            required = {"source": "inproc://x"} if name == "Worker" else {}
            first = print if name == "Worker" else "inproc://x"
            for keyword in keywords:
                with pytest.raises(TypeError, match=keyword):
                    getattr(face, name)(first, **required, **{keyword: None})
