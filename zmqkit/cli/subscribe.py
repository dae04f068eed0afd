"""``zmqkit subscribe``: print the messages of topics, from now on, from the beginning, or from where it was."""

from __future__ import annotations

import datetime
import re
import threading
from typing import Annotated, Any, Literal

import typer

from zmqkit import Message, Subscriber
from zmqkit.cli import options, show
from zmqkit.cli.outcome import Code, Failed, command, on_signals, say, tell
from zmqkit.errors import Closed, MessagesLost

Start = Literal["latest", "earliest", "resume"] | datetime.datetime

AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@command
def subscribe(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False, help="Such as tcp://127.0.0.1:5556.")],
    topics: options.Topics = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="WHERE", show_default=False,
            help="latest: what is published from now on (default); earliest: all that is kept; resume: where --cursor "
            "was (default with one); a time, such as 2026-07-14T12:00, or 30s, 10m, 2h, 1d for so long ago.",
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="Let the publisher keep how far this came, under this name. The first time: from the earliest.",
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, show_default=False, help="Leave out what is older by then."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print bodies only: text and bytes as they are.")] = False,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="End after so many messages.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, show_default=False, help="End when no message came for so long."),
    ] = None,
    bind: options.ConnectFirst = False,
    announce: options.Announce = None,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Print each message of the topics as a line of JSON; without topics, of all.

    What was missed is fetched, and printed in its place. What is gone is a line {"lost": ...}, and said on stderr; the
    exit code is then 1. With --cursor a message counts as read once its line was flushed to stdout.
    """
    if raw and as_json:
        raise Failed("--raw and --json exclude each other", Code.USAGE)
    begin = None if start is None else read_start(start, datetime.datetime.now().astimezone())
    if begin == "resume" and cursor is None:
        raise Failed("--from resume goes on where a cursor was: name it with --cursor", Code.USAGE)
    if cursor is not None and begin not in (None, "resume", "earliest"):
        raise Failed("a cursor begins where it was, the first time at the earliest: leave --from out", Code.USAGE)
    if cursor is not None and not (1 <= len(cursor) <= 200 and cursor.isprintable()):
        raise Failed("--cursor is a name of 1 to 200 printable characters", Code.USAGE)
    wanted = topics or ["#"]
    options.check_patterns(wanted)
    subscriber: Subscriber[Any] = Subscriber(
        *[] if bind else [address],
        bind=[address] if bind else [],
        topics=wanted,
        start=begin,
        cursor=cursor,
        max_age=max_age,
        announce=announce,
        insecure=insecure,
        name="zmqkit subscribe",
    )
    return _take(subscriber, count, timeout, raw=raw, keeps=cursor is not None)


def read_start(text: str, now: datetime.datetime) -> Start:
    """What ``--from`` says: a word, a time, or how long ago.

    Args:
        text: what was typed. A time without a zone is that of `now`.
        now: with a zone.

    Raises:
        Failed: it is none of these.
    """
    if text in ("latest", "earliest", "resume"):
        return text  # type: ignore[return-value]  # mypy does not narrow text by these
    try:
        if ago := AGO.fullmatch(text):
            return now - datetime.timedelta(seconds=float(ago[1]) * UNIT_S[ago[2]])
        found = datetime.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Failed(
            f"--from {text!r} is not latest, earliest, resume, a time such as 2026-07-14T12:00, or so long ago, as 10m",
            Code.USAGE,
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


def _take(subscriber: Subscriber[Any], count: int | None, timeout_s: float | None, *, raw: bool, keeps: bool) -> int:
    """Print messages until there were enough, none comes, a signal comes, or nobody reads what it prints."""
    unread = threading.Event()

    def leave() -> None:
        unread.set()
        subscriber.stop()

    done = 0
    lost = False
    with on_signals(subscriber.stop) as signals, subscriber:
        for address in subscriber.addresses:
            say(f"bound {address}")
        show.on_reader_gone(leave)
        while not (signals.number or unread.is_set()) and (count is None or done < count):
            try:
                message = subscriber.receive(timeout_s)
            except MessagesLost as error:
                lost = True
                _tell_lost(error, raw)
                continue
            except Closed:
                break
            if message is None:
                say(f"no message came for {timeout_s:g} s: {subscriber._company()}")
                return Code.TIMEOUT
            with message:
                show.write_line(show.raw(message.body) if raw else show.encoded(show.to_json(described(message))))
            done += 1
            if keeps and done == count:
                message.commit()  # the last one: nobody asks for another
    whole = count is None or done == count
    if unread.is_set() and not (whole and count):
        raise BrokenPipeError
    if signals.number and not whole:
        return 128 + signals.number
    return Code.FAILED if lost else Code.OK


def described(message: Message[Any]) -> dict[str, Any]:
    """A message as JSON shows it."""
    return {
        "id": message.id,
        "topic": message.topic,
        "body": message.body,
        "headers": dict(message.headers),
        "sequence": message.sequence,
        "publisher": message.publisher,
        "epoch": message.epoch,
        "sent_at": message.sent_at.isoformat(),
        "replayed": message.replayed,
    }


def _tell_lost(error: MessagesLost, raw: bool) -> None:
    tell(error)
    if not raw:
        hole = {
            "publisher": error.publisher,
            "epoch": error.epoch,
            "topics": list(error.topics),
            "first": error.first,
            "last": error.last,
        }
        show.print_json({"lost": hole})
