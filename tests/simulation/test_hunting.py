"""The hunt itself: it must not take an innocent for guilty, nor a broken patch for a caught bug."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.simulation.mutants import Mutant, hunt, replaced
from tests.simulation.ping import PingClient


def test_without_a_bug_nothing_is_caught():
    assert hunt(Mutant("nothing is wrong", "ping", nullcontext), seeds=5).seed is None


def test_a_patch_that_only_raises_is_not_a_caught_bug():
    def broken(old):
        def ask(self, ticket, now):
            raise NameError("misspelt")

        return ask

    with pytest.raises(RuntimeError, match="the patch is broken"):
        hunt(Mutant("misspelt", "ping", lambda: replaced(PingClient, "ask", broken)), seeds=5)


def test_a_patch_of_what_is_not_there_is_refused():
    with pytest.raises(KeyError), replaced(PingClient, "no_such_method", lambda old: old):
        pass


def test_a_patch_is_taken_back():
    before = vars(PingClient)["ask"]
    with replaced(PingClient, "ask", lambda old: None):
        assert vars(PingClient)["ask"] is None
    assert vars(PingClient)["ask"] is before
