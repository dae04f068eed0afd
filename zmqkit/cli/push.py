"""``zmqkit push``: send lines, JSON lines or envelopes, and wait until they are settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqkit import Pusher
from zmqkit.cli import envelopes, feed, options
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
    enveloped: Annotated[
        bool,
        typer.Option(
            "--envelopes",
            help='Each line is a JSON object: {"body": ...}, and "id", "key", "priority", "delay" or "due", "ttl" or '
            '"expires", and "headers" where it wants them; `zmqkit journal export` prints such lines.',
        ),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", show_default=False, help="Messages of one key go one after another, in order."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(metavar="N", show_default=False, help="Higher ones go first; default 0.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", show_default=False, help="Deliver them not before that.")
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", show_default=False, help="Deliver them not after that: they expire."),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(
            metavar="ID", show_default=False,
            help="The id of the message, of which there must be one only. If one of that id was sent before, it is not "
            "stored again.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", show_default=False, help="A header of each message. As often as wanted."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default=False, help="Keep what is not settled in this file, across crashes.",
            callback=options.check_path,
        ),
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
    if json_lines and enveloped:
        raise Failed("--json-lines and --envelopes exclude each other", Code.USAGE)
    options.check_files(files or [])
    given = envelopes.Options(id, key, priority, delay, ttl, envelopes.headers_of(header or []))
    if enveloped:
        parse: Callable[[bytes], Any] = envelopes.envelope_line(given)
    else:
        parse = envelopes.with_options(feed.json_line if json_lines else feed.text_line, given)
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

    def send(pusher: Pusher) -> None:
        left = None if id is None else 1
        for batch in feed.batches(files or [], parse, skip_blank=json_lines or enveloped):
            if left is not None and len(batch.bodies) > left:
                _send(pusher, feed.Batch(batch.bodies[:left], batch.source, batch.lines[:left]))
                raise Failed(f"{batch.place(left)}: --id is the id of one message, and this is the second one")
            _send(pusher, batch)
            left = None if left is None else left - len(batch.bodies)

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
