"""Handlers of messages: what each of their parameters is to get, found once, from the annotations.

Knows messages and the inbox; no event loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from zmqkit.errors import UsageError
from zmqkit.inbox import Connection
from zmqkit.patterns.pubsub.messages import MessageBase

BODY, MESSAGE, CONNECTION = range(3)


class Handler:
    """A user's function, and what it wants.

    Args:
        function: gets the body; or, by the annotations of its parameters, the `Message`, a connection to the inbox.
        coroutines: whether coroutine functions can be run.
        has_inbox: whether there is an inbox.

    Raises:
        UsageError: it cannot be called with what there is.

    Attributes:
        in_transaction: it wants a connection: run it within ``message.transaction()``.
        asynchronous: it is a coroutine function.
    """

    def __init__(self, function: Callable[..., object], *, coroutines: bool, has_inbox: bool) -> None:
        if not callable(function):
            raise UsageError(f"a handler is a function, got {function!r}")
        self.function = function
        self.shown = getattr(function, "__qualname__", repr(function))
        self.asynchronous = inspect.iscoroutinefunction(function)
        if self.asynchronous and not coroutines:
            raise UsageError(f"{self.shown} is a coroutine function: use zmqkit.aio")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(f"{self.shown} yields, and nobody would take that: return instead")
        self._wants = self._read()
        self.in_transaction = CONNECTION in self._wants
        if self.in_transaction and not has_inbox:
            raise UsageError(f"{self.shown} wants a sqlite3.Connection: give the subscriber inbox=")

    def __call__(self, message: Any, connection: Connection | None = None) -> object:
        """Call it with what it wants of these."""
        given = (message.body, message, connection)
        return self.function(*[given[each] for each in self._wants])

    def _read(self) -> list[int]:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return [BODY]  # some that are written in C do not tell
        try:
            hints = {} if inspect.isclass(self.function) else get_type_hints(self.function)
        except (TypeError, NameError):
            hints = {}
        kinds = [(each, _kind(hints.get(each.name, each.annotation))) for each in signature.parameters.values()]
        wants = [
            kind
            for each, kind in kinds
            if kind != BODY or (each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, _EITHER))
        ]
        if not wants and any(each.kind is each.VAR_POSITIONAL for each, _ in kinds):
            wants = [BODY]
        if not wants and kinds and kinds[0][0].kind in (inspect.Parameter.POSITIONAL_ONLY, _EITHER):
            wants = [BODY]  # as in ``def handle(body=None)``
        try:
            signature.bind(*wants)
        except TypeError as error:
            raise self._wrong(signature, str(error)) from None
        if wants.count(BODY) > 1 or not wants:
            raise self._wrong(signature, "it takes more than one body" if wants else "it takes nothing")
        return wants

    def _wrong(self, signature: inspect.Signature, why: str) -> UsageError:
        return UsageError(
            f"{self.shown}{signature} cannot be called with a message ({why}): a handler gets the body, and in "
            f"parameters that are annotated so the zmqkit.Message, and a sqlite3.Connection to the inbox"
        )


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _kind(hint: Any) -> int:
    hint = getattr(hint, "__origin__", hint)
    if inspect.isclass(hint):
        if issubclass(hint, MessageBase):
            return MESSAGE
        if issubclass(hint, Connection):
            return CONNECTION
    return BODY
