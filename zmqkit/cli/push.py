"""``zmqkit push``: send lines, or JSON lines, and wait until they are settled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqkit import Pusher
from zmqkit.cli import feed, options
from zmqkit.cli.deliver import Delivery
from zmqkit.cli.outcome import Code, Failed, code_of, command
from zmqkit.errors import EncodeError, PartlySent


@command
def push(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5557.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", show_default=False,
            help="What to send, a message a line; -, or no file: stdin.",
        ),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Each line is JSON; blank lines are skipped. Default: text.")
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="PATH", show_default=False, help="Keep what is not settled in this file, across crashes."),
    ] = None,
    durability: options.DurabilityOption = options.Safe.POWER,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until all is settled, or leave it in the journal.")
    ] = True,
    timeout: options.Timeout = None,
    linger: options.Linger = None,
    bind: options.BindFirst = True,
    announce: options.Announce = None,
    max_failures: options.MaxFailures = 20,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Send each line of the files, or of stdin, as a message; wait until all are settled.

    What a journal holds from earlier is delivered too. With --no-wait it returns once all is in the journal;
    `zmqkit journal serve` delivers it later.
    """
    if not wait and journal is None:
        raise Failed("--no-wait needs --journal PATH: without one, what waits would be lost", Code.USAGE)
    options.check_files(files or [])
    pusher = Pusher(
        *[address] * bind,
        connect=[] if bind else [address],
        journal=journal,
        durability=durability.value,
        max_failures=max_failures,
        announce=announce,
        insecure=insecure,
        name="zmqkit push",
    )
    parse = feed.json_line if json_lines else feed.text_line

    def send(pusher: Pusher) -> None:
        for batch in feed.batches(files or [], parse, skip_blank=json_lines):
            _send(pusher, batch)

    return Delivery(pusher, journal, send, wait=wait, timeout_s=timeout if wait else None, linger_s=linger).run(
        as_json=as_json
    )


def _send(pusher: Pusher, batch: feed.Batch) -> None:
    try:
        pusher.send_many(batch.bodies)
    except PartlySent as error:
        cause = error.__cause__
        if not isinstance(cause, EncodeError):
            raise Failed(
                f"{batch.place(error.confirmed)} and after: {cause}", Code.FAILED if cause is None else code_of(cause)
            ) from error
        # Messages are encoded in groups: those of its group that stand before the bad one are still to be sent.
        bad = error.confirmed + (cause.index or 0)
        pusher.send_many(batch.bodies[error.confirmed : bad])
        raise Failed(f"{batch.place(bad)}: {cause}; what stood before it was sent") from error
