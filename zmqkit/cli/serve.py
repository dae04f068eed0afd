"""``zmqkit journal serve``: deliver what a closed program left behind."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from zmqkit import Pusher
from zmqkit.cli import closed, options
from zmqkit.cli.deliver import Delivery
from zmqkit.cli.outcome import Code, Failed, command


@command
def serve_until_settled(
    path: options.JournalFile,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5557.")
    ],
    forever: Annotated[
        bool, typer.Option("--forever", help="Stay when all is settled, until SIGINT or SIGTERM.")
    ] = False,
    timeout: options.Timeout = None,
    linger: options.Linger = None,
    durability: options.DurabilityOption = options.Safe.POWER,
    bind: options.BindFirst = True,
    announce: options.Announce = None,
    max_failures: options.MaxFailures = 20,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:
    """Deliver the messages that wait in a journal, until all are settled."""
    if not path.exists():
        raise Failed(f"{path}: there is no such journal", Code.JOURNAL_UNUSABLE)
    with closed.opened(path):
        pass  # what is for something else is named, as by the other commands
    pusher = Pusher(
        *[address] * bind,
        connect=[] if bind else [address],
        journal=path,
        durability=durability.value,
        max_failures=max_failures,
        announce=announce,
        insecure=insecure,
        name="zmqkit journal serve",
    )
    return Delivery(
        pusher,
        path,
        _wait_for_a_signal if forever else _nothing,
        wait=not forever,
        timeout_s=timeout,
        linger_s=linger,
        until_signal=forever,
    ).run(as_json=as_json)


def _wait_for_a_signal(pusher: Pusher) -> None:
    threading.Event().wait()


def _nothing(pusher: Pusher) -> None:
    """All that is to be sent is in the journal."""
