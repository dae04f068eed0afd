"""Everything here speaks real multicast DNS, on the loopback interface only, under names of its own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.discovery.helpers import PATIENCE_S, Script, Seen
from zmqkit import discovery


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ZMQKIT_INTERFACES", "127.0.0.1")
    yield
    assert discovery.wait_closed(PATIENCE_S)


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:20]}"


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def run() -> Iterator[Callable[..., Script]]:
    with contextlib.ExitStack() as stack:

        def start(code: str, *args: str, prefix: tuple[str, ...] = (), **environment: str | None) -> Script:
            script = Script(code, *args, prefix=prefix, **environment)
            stack.callback(script.kill)
            return script

        yield start
