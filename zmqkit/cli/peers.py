"""``zmqkit peers``: who announces a name on this network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zmqkit.cli import options, show
from zmqkit.cli.outcome import Code, Failed, command, say
from zmqkit.discovery import browse, check_name
from zmqkit.errors import DiscoveryError


@command
def peers(
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only those that announce this name.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long to listen for answers.")] = 3.0,
    as_json: options.AsJson = False,
) -> int:
    """List the peers that announce themselves: name, role, addresses.

    Listens for --timeout seconds, on the interfaces that ZMQKIT_INTERFACES names (default: all). Exits with 1 if
    nobody was found.
    """
    try:
        wanted = None if name is None else check_name(name)
    except DiscoveryError as error:
        raise Failed(str(error), Code.USAGE) from error
    found = [each for each in browse(timeout) if wanted in (None, each["name"])]
    if as_json:
        show.print_json(found)
    elif found:
        show.print_table(
            ("name", "role", "address", "peer", "pid", "host"),
            [
                (each["name"], each["role"], each["address"], each["peer_name"], each["pid"], _host(each))
                for each in found
            ],
        )
    if not found:
        say(f"nobody announces {'anything' if name is None else name} here")
    return Code.OK if found else Code.FAILED


def _host(peer: dict[str, Any]) -> str:
    return "this one" if peer["here"] else str(peer["host"])
