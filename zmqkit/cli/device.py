"""``zmqkit device``: run one device, or many from a file, and steer those that run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from zmqkit.cli import device_ctl, device_daemon, device_file, device_logs, device_ports, options, show
from zmqkit.cli.device_file import FileWrong, Mistake
from zmqkit.cli.device_host import Host
from zmqkit.cli.device_specs import Spec
from zmqkit.cli.outcome import EPILOG, Code, Failed, command, say
from zmqkit.devices import sides
from zmqkit.devices.sides import Side
from zmqkit.errors import UsageError

log = logging.getLogger("zmqkit.devices")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Run devices, and steer those that run.")

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
Log = Annotated[device_ctl.LogForm, typer.Option(help="What is told on stderr: lines of text, or of JSON.")]


@app.command("queue", epilog=EPILOG)
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
    log: Log = device_ctl.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a queue between clients and servers (plain: ROUTER and DEALER), until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    return _run("queue", name, found | {"plain": plain, "insecure": insecure}, control, log, as_json)


@app.command("forwarder", epilog=EPILOG)
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
    log: Log = device_ctl.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a forwarder between publishers and subscribers (plain: XSUB and XPUB), until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    return _run("forwarder", name, found | {"plain": plain, "insecure": insecure}, control, log, as_json)


@app.command("streamer", epilog=EPILOG)
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
    log: Log = device_ctl.LogForm.TEXT,
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


@app.command("proxy", epilog=EPILOG)
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
    log: Log = device_ctl.LogForm.TEXT,
    as_json: options.AsJson = False,
) -> int:
    """Run a proxy between plain ZeroMQ sockets of any two types, until SIGINT or SIGTERM.

    SIGUSR1 pauses it, SIGUSR2 resumes it.
    """
    found = _sides(frontend, backend, announce, announce_backend)
    pair = tuple(each.strip().upper() for each in types.split(","))
    return _run("proxy", name, found | {"types": pair, "insecure": insecure}, control, log, as_json)


app.command("ctl", epilog=EPILOG)(device_ctl.ctl)


@app.command("run", epilog=EPILOG)
@command
def run(
    path: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="Such as devices.toml.")],
    check: Annotated[
        bool,
        typer.Option("--check", help="Only read the file, and look whether its addresses are free; exit with 0 or 2."),
    ] = False,
    log: Annotated[
        device_ctl.LogForm | None,
        typer.Option(show_default=False, help="What is told on stderr: text or JSON. Default: as the file says."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON for programs.")] = False,
) -> int:
    """Run the devices that a file names, each in a process of its own, until SIGINT or SIGTERM.

    One that crashes is started again; the others go on. SIGHUP reads the file again, SIGUSR1 pauses all, SIGUSR2
    resumes them. Tells systemd when it is ready, and its watchdog that all is well (Type=notify).
    """
    if as_json and not check:
        raise Failed("--json is for --check; logs are JSON with --log json", Code.USAGE)
    try:
        if not check:
            device_daemon.run(path, None if log is None else log.value)
            return Code.OK
        config = device_file.read(path)
        if mistakes := device_ports.taken(config):
            raise FileWrong(path, mistakes)
    except FileWrong as error:
        return _tell_mistakes(error, as_json)
    if as_json:
        show.print_json({"file": str(path), "devices": len(config.specs), "mistakes": []})
    else:
        say(f"{path}: {len(config.specs)} device{'s' * (len(config.specs) != 1)}, no mistakes")
    return Code.OK


def _tell_mistakes(error: FileWrong, as_json: bool) -> int:
    if as_json:
        found = [{"line": each.line, "text": each.text} for each in error.mistakes]
        show.print_json({"file": str(error.path), "devices": None, "mistakes": found})
    else:
        for each in error.mistakes:
            say(_at(error.path, each))
    return Code.USAGE


def _at(path: Path, mistake: Mistake) -> str:
    return f"{path}:{mistake.line}: {mistake.text}"


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
    kind: str, name: str | None, found: dict[str, Any], control: str | None, form: device_ctl.LogForm, as_json: bool
) -> int:
    """One device in this process, until a signal."""
    try:
        spec = Spec(name or kind, kind, found)
        host = Host(spec.make(), control)
    except (UsageError, TypeError, ValueError) as error:
        raise Failed(str(error), Code.USAGE) from error
    device_logs.begin(form.value, spec.name if form is device_ctl.LogForm.JSON else None)
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
