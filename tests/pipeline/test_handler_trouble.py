"""Handlers that fail in ways that nobody expects."""

from __future__ import annotations

import threading

import pytest

from tests.pipeline.faces import LOCAL, PATIENCE_S
from zmqkit import Backoff, Puller, Pusher, Reject, Retry


class Speechless(Exception):
    """It raises when it is asked what it says."""

    def __str__(self) -> str:
        raise LookupError("there is no text")


class SpeechlessRetry(Retry):
    __str__ = Speechless.__str__


class SpeechlessReject(Reject):
    __str__ = Speechless.__str__


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Speechless(), "Speechless: and str() of it raises LookupError"),
        (SpeechlessRetry(delay=0), "and str() of it raises LookupError"),
        (SpeechlessReject("no"), "and str() of it raises LookupError"),
    ],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_an_exception_that_cannot_be_shown_fails_its_job_and_ends_no_loop(
    error: Exception, told: str, batch: int | None
) -> None:
    handled = []

    def handle(body: object) -> None:
        handled.append(body)
        if body in ("bad", ["bad"]):
            raise error

    with (
        Pusher(LOCAL, max_failures=2, backoff=Backoff(0.001, 1, 0.001)) as push,
        Puller(push.addresses[0]) as pull,
    ):
        running = threading.Thread(target=pull.run, args=(handle,), kwargs={"batch": batch})
        running.start()
        try:
            push.send("bad")
            assert push.flush(PATIENCE_S).dead == 1
            push.send("good")
            assert push.flush(PATIENCE_S).acked == 1
            assert [letter.reason for letter in push.dead_letters()] == [told]
        finally:
            pull.stop()
            running.join()
    assert len(handled) == (2 if isinstance(error, Reject) else 3)
