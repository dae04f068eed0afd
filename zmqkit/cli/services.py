"""``zmqkit serve``: serve what a module of the user's defines."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from typing import Annotated, Any

import typer

from zmqkit import Server, aio
from zmqkit.cli import options
from zmqkit.cli.outcome import Code, Failed, command, say
from zmqkit.errors import UsageError


@command
def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME", show_default=False,
            help="A Server or aio.Server, a function that makes one, or an object or class with @zmqkit.method.",
        ),
    ],
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADDRESS", show_default=False,
            help="Where to bind an object's methods, such as tcp://127.0.0.1:5555. A Server has its own.",
        ),
    ] = None,
    announce: options.Announce = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Of an object: how many threads handle calls.")] = 8,
    insecure: options.Insecure = False,
) -> int:  # fmt: skip
    """Serve until SIGINT or SIGTERM; then drain: clients go elsewhere, what runs is finished (8 seconds at most).

    The module is imported from the current folder, or from where Python finds it.
    """
    found = _find(target)
    if isinstance(found, Server | aio.Server):
        if addresses or announce or insecure:
            raise Failed(f"{target} is a Server: it says itself where it is bound and announced", Code.USAGE)
        server = found
    else:
        if not (addresses or announce):
            raise Failed(f"{target} is no Server: name an ADDRESS to bind, or --announce NAME", Code.USAGE)
        server = Server(*addresses or [], announce=announce, threads=threads, insecure=insecure)
        try:
            server.include(found() if isinstance(found, type) else found)
        except UsageError as error:
            raise Failed(f"{target}: {error}", Code.USAGE) from error
    if isinstance(server, Server):
        server.open()
        _tell(server.addresses)
        server.run()
    else:
        asyncio.run(_serve_async(server))
    return Code.OK


async def _serve_async(server: aio.Server) -> None:
    await server.open()
    _tell(server.addresses)
    await server.run()


def _tell(addresses: tuple[str, ...]) -> None:
    for address in addresses:
        say(f"bound {address}")


def _find(target: str) -> Any:
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise Failed(f"{target!r} is not MODULE:NAME, as in calc:server", Code.USAGE)
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise Failed(f"there is no module {module_name!r} in this folder, nor installed", Code.USAGE) from error
        raise
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Failed(f"{module_name} has no {name}", Code.USAGE) from None
    if callable(found) and not isinstance(found, type) and not isinstance(found, Server | aio.Server):
        try:
            inspect.signature(found).bind()
        except (TypeError, ValueError):
            raise Failed(
                f"{target} is a function that takes arguments: name the server, or a function without that makes it",
                Code.USAGE,
            ) from None
        found = found()
    return found
