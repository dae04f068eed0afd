"""``zmqkit device queue``, ``forwarder``, ``streamer`` and ``proxy``: run one device in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqkit.cli import device_logs, options, show
from zmqkit.cli.device_host import Host
from zmqkit.cli.device_specs import Spec
from zmqkit.cli.outcome import Code, Failed, command
from zmqkit.devices import sides
from zmqkit.devices.sides import Side
from zmqkit.errors import UsageError

log = logging.getLogger("zmqkit.devices")

Frontend = Annotated[
    list[str] | None,
    typer.Option(
        "--frontend", metavar="ADDRESS", show_default=False,
        help="Where clients, publishers or pushers are; may be repeated. It is bound; with a > in front (in quotes) "
        "connected to, as are zeroconf:// and static:// ones, unless an @ is in front.",
    ),
]  # fmt: skip
Backend = Annotated[
    list[str] | None,
    typer.Option(
        "--backend", metavar="ADDRESS", show_default=False,
        help="Where servers, subscribers or pullers are; the same.",
    ),
]  # fmt: skip
Plain = Annotated[
    bool | None,
    typer.Option(
        "--plain/--zmqkit", show_default=False,
        help="For plain ZeroMQ peers, or for those of zmqkit. Default: the first peer decides.",
    ),
]  # fmt: skip
ControlAt = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        show_default=False,
        help="Serve a control socket there, for zmqkit device ctl; this host only.",
    ),
]
Announce = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default=False, help="Let others find the frontend as zeroconf://NAME."),
]
AnnounceBackend = Annotated[
    str | None, typer.Option(metavar="NAME", show_default=False, help="Let others find the backend as zeroconf://NAME.")
]
Name = Annotated[str | None, typer.Option(metavar="NAME", show_default=False, help="In logs. Default: the kind.")]
Log = Annotated[device_logs.LogForm, typer.Option(help="What is told on stderr: lines of text, or of JSON.")]


@command
def queue(
    frontend: Frontend = None,
    backend: Backend = None,
    plain: Plain = None,
    control: ControlAt = None,
    announce: Announce = None,
    announce_backend: AnnounceBackend = None,
    name: Name = None,
    insecure: options.Insecure = False,
    log: Log = device_logs.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a queue between clients and servers (plain: ROUTER and DEALER), until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    return _run("queue", name, found | {"plain": plain, "insecure": insecure}, control, log, as_json)


@command
def forwarder(
    frontend: Frontend = None,
    backend: Backend = None,
    plain: Plain = None,
    control: ControlAt = None,
    announce: Announce = None,
    announce_backend: AnnounceBackend = None,
    name: Name = None,
    insecure: options.Insecure = False,
    log: Log = device_logs.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a forwarder between publishers and subscribers (plain: XSUB and XPUB), until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    return _run("forwarder", name, found | {"plain": plain, "insecure": insecure}, control, log, as_json)


@command
def streamer(
    frontend: Frontend = None,
    backend: Backend = None,
    plain: Plain = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", show_default=False,
            help="Keep jobs in this file until they are settled: pushers may go once they are in it.",
        ),
    ] = None,
    plain_frontend: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", show_default=False, help="With --journal: where plain PUSH sockets are, too."),
    ] = None,
    plain_backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", show_default=False,
            help="With --journal: where plain PULL sockets are, too; they get jobs at most once.",
        ),
    ] = None,
    control: ControlAt = None,
    announce: Announce = None,
    announce_backend: AnnounceBackend = None,
    name: Name = None,
    insecure: options.Insecure = False,
    log: Log = device_logs.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:  # fmt: skip
    """Run a streamer between pushers and pullers (plain: PULL and PUSH), until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    if journal is None and (plain_frontend or plain_backend):
        raise Failed("--plain-frontend and --plain-backend are beside a journal: say --journal PATH", Code.USAGE)
    found = _sides(frontend, backend, announce, announce_backend) | {"plain": plain, "insecure": insecure}
    if journal is not None:
        found |= {"journal": str(journal)}
    if plain_frontend:
        found |= {"plain_frontend": plain_frontend}
    if plain_backend:
        found |= {"plain_backend": plain_backend}
    return _run("streamer", name, found, control, log, as_json)


@command
def proxy(
    frontend: Frontend = None,
    backend: Backend = None,
    types: Annotated[
        str, typer.Option(metavar="TYPE,TYPE", help="The types of the sockets at the frontend and at the backend.")
    ] = "ROUTER,DEALER",
    control: ControlAt = None,
    announce: Announce = None,
    announce_backend: AnnounceBackend = None,
    name: Name = None,
    insecure: options.Insecure = False,
    log: Log = device_logs.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a proxy between plain ZeroMQ sockets of any two types, until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    pair = tuple(each.strip().upper() for each in types.split(","))
    return _run("proxy", name, found | {"types": pair, "insecure": insecure}, control, log, as_json)


def _sides(
    frontend: Sequence[str] | None, backend: Sequence[str] | None, announce: str | None, announce_backend: str | None
) -> dict[str, Any]:
    found = {}
    for name, addresses, announced in (("frontend", frontend, announce), ("backend", backend, announce_backend)):
        if not (addresses or announced):
            raise Failed(f"the {name} needs an address: --{name} tcp://127.0.0.1:5555, say", Code.USAGE)
        try:
            side = Side(announce=announced) if not addresses else sides.read(name, addresses)
            found[name] = Side(bind=side.bind, connect=side.connect, announce=announced or side.announce)
        except UsageError as error:
            raise Failed(str(error), Code.USAGE) from error
    return found


def _run(
    kind: str, name: str | None, found: dict[str, Any], control: str | None, form: device_logs.LogForm, as_json: bool
) -> int:
    """One device in this process, until a signal."""
    try:
        spec = Spec(name or kind, kind, found)
        host = Host(spec.make(), control)
    except (UsageError, TypeError, ValueError) as error:
        raise Failed(str(error), Code.USAGE) from error
    device_logs.begin(form.value, spec.name if form is device_logs.LogForm.JSON else None)
    with host.signals():
        host.open()
        (described,) = host.panel.describe()
        bound = {side: described[side] for side in ("frontend", "backend")} | {"control": list(host.control_addresses)}
        if as_json:
            show.print_json({"name": spec.name, "kind": kind, **bound})
        for side, addresses in bound.items():
            for address in addresses:
                log.info("%s bound %s", side, address)
            for address in () if side == "control" else found[side].connect:
                log.info("%s connects to %s", side, address)
        host.run()
    return Code.OK
