"""``zmqkit pull``: take jobs; print each, or run a command on each, and settle it accordingly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer

from zmqkit import Job, Puller
from zmqkit.cli import options, show
from zmqkit.cli.execute import Command
from zmqkit.cli.outcome import Code, Failed, Signals, command, on_signals, say, say_at_once
from zmqkit.errors import Closed

DRAIN_S = 8.0
"""How long a running command may take after a signal; containers kill after 10."""


@command
def pull(
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDRESS...", show_default=False, help="Such as tcp://127.0.0.1:5557.")
    ],
    execute: Annotated[
        str | None,
        typer.Option(
            "--exec", metavar="COMMAND", show_default=False,
            help="Run this shell command on each job: its body on stdin, its exit status 0 acks, another one nacks.",
        ),
    ] = None,
    reject_status: Annotated[
        int | None,
        typer.Option(
            metavar="STATUS", min=1, max=255, show_default=False,
            help="With --exec: this exit status rejects the job; it is a dead letter at once.",
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print bodies only: text and bytes as they are.")] = False,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="End after so many jobs.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, show_default=False, help="End when no job came for so long."),
    ] = None,
    prefetch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default=False,
            help="How many jobs to hold at a time; default 256, with --exec 1.",
        ),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="With --exec: how long a command may still take after a signal."),
    ] = DRAIN_S,
    bind: options.ConnectFirst = False,
    announce: options.Announce = None,
    insecure: options.Insecure = False,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Take jobs and print each as a line of JSON, or run a command on each.

    A printed job is acked once its line was flushed to stdout. If nobody reads stdout any more, the job is given back
    and the command ends. With --exec and --json a line a job says how its command ended.
    """
    if execute is None and reject_status is not None:
        raise Failed("--reject-status needs --exec", Code.USAGE)
    if execute is not None and raw:
        raise Failed("--raw is about printing; with --exec the command gets the body on its stdin", Code.USAGE)
    if raw and as_json:
        raise Failed("--raw and --json exclude each other", Code.USAGE)
    usual = 1 if execute is not None else 256
    puller: Puller[Any] = Puller(
        *[] if bind else addresses,
        bind=addresses if bind else [],
        # More than are wanted would be taken from others, only to be given back.
        prefetch=prefetch if prefetch is not None else min(usual, count or usual),
        announce=announce,
        insecure=insecure,
        name="zmqkit pull",
    )
    if execute is None:
        return _take(puller, _printer(raw), count, timeout, puller.stop, prints=True)
    running = Command(execute, quiet_stdout=as_json)

    def stop() -> None:
        puller.stop()
        running.end_within(drain)
        if running.runs:
            say_at_once(f"stopping; the command has {drain:g} s to finish, unless another signal comes")

    return _take(puller, _runner(running, reject_status, as_json), count, timeout, stop, prints=as_json)


def _take(
    puller: Puller[Any],
    handle: Callable[[Job[Any], Signals], bool],
    count: int | None,
    timeout_s: float | None,
    stop: Callable[[], None],
    *,
    prints: bool,
) -> int:
    """Handle jobs until there were enough, none comes, a signal comes, or nobody reads what it prints."""
    unread = threading.Event()

    def leave() -> None:
        unread.set()
        puller.stop()

    done = failed = 0
    with on_signals(stop) as signals, puller:
        for address in puller.addresses:
            say(f"bound {address}")
        if prints:
            show.on_reader_gone(leave)
        while not (signals.number or unread.is_set()) and (count is None or done < count):
            try:
                job = puller.receive(timeout_s)
            except Closed:
                break
            if job is None:
                say(f"no job came for {timeout_s:g} s: {puller._company()}")
                return Code.TIMEOUT
            failed += not handle(job, signals)
            done += 1
    whole = count is None or done == count
    if unread.is_set() and not (whole and count):
        raise BrokenPipeError
    if signals.number and not whole:
        return 128 + signals.number
    return Code.FAILED if failed and count else Code.OK


def _printer(raw: bool) -> Callable[[Job[Any], Signals], bool]:
    def handle(job: Job[Any], signals: Signals) -> bool:
        try:
            show.write_line(show.raw(job.body) if raw else show.encoded(show.to_json(_described(job))))
        except BaseException:
            # Nobody reads, or a second signal: the job is nobody's failure.
            job.release()
            raise
        job.ack()
        return True

    return handle


def _described(job: Job[Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "body": job.body,
        "key": job.key,
        "headers": dict(job.headers),
        "failures": job.failures,
        "deliveries": job.deliveries,
        "sent_at": job.sent_at.isoformat(),
    }


def _runner(running: Command, reject_status: int | None, as_json: bool) -> Callable[[Job[Any], Signals], bool]:
    def handle(job: Job[Any], signals: Signals) -> bool:
        if signals.number:
            job.release()
            return True
        try:
            ended = running.run(
                show.raw(job.body),
                {
                    "ZMQKIT_JOB_ID": job.id,
                    "ZMQKIT_JOB_KEY": job.key or "",
                    "ZMQKIT_JOB_FAILURES": str(job.failures),
                    "ZMQKIT_JOB_DELIVERIES": str(job.deliveries),
                    "ZMQKIT_JOB_HEADERS": show.to_json(dict(job.headers)),
                },
            )
        except BaseException:
            # It could not be run, or was ended by a second signal.
            job.release()
            raise
        if ended.status == 0:
            job.ack()
        elif signals.number and ended.status < 0:
            job.release()  # it was ended for us
        elif ended.status == reject_status:
            job.reject(ended.reason)
        else:
            job.nack(reason=ended.reason)
        if as_json:
            show.print_json({"id": job.id, "outcome": job.outcome, "status": ended.status, "reason": ended.reason})
        elif ended.status:
            say(f"job {job.id} {job.outcome}: {ended.reason}")
        return ended.status == 0

    return handle
