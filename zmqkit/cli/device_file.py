"""The daemon's file: read, and its mistakes named with their lines. Opens no address: see `zmqkit.cli.device_ports`.

::

    [control]
    address = "ipc:///run/zmqkit/control"       # where `zmqkit device ctl` reaches the daemon

    [log]
    format = "json"                             # or "text", which is the default

    [[device]]
    name = "orders"
    kind = "queue"                              # or forwarder, streamer, proxy
    frontend = "tcp://127.0.0.1:5555"           # or a list, or a table: bind, connect, announce, limits
    backend = ["tcp://127.0.0.1:5556"]

docs/cli.md lists all keys. Values are never repeated in messages but where they are addresses, names, or one of a few
words: a file may hold what is nobody's business.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from zmqkit import checks
from zmqkit.address import ALLOW, Address, parse, require_secure
from zmqkit.cli.device_keys import CONTROL, DEVICE, HEARTBEAT, LIMITS, LOG, SIDE, TOP, Keys, nearest, type_of
from zmqkit.cli.device_specs import KINDS, PROXY_ONLY, SIDES, STREAMER_ONLY, Spec
from zmqkit.cli.outcome import Code, Failed
from zmqkit.cli.toml_lines import Place, lines_of
from zmqkit.devices import sides
from zmqkit.devices.control import check_address
from zmqkit.devices.sides import Side
from zmqkit.discovery import check_name
from zmqkit.errors import UsageError, ZmqkitError
from zmqkit.options import Heartbeat, Limits

LARGEST_BYTES: Final = 4 << 20

LogFormat = Literal["text", "json"]
OptionKey = Literal["limits", "heartbeat"]

_OPTION_KEYS: Final[tuple[OptionKey, ...]] = ("limits", "heartbeat")

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """What is wrong, and on which line."""

    line: int
    text: str


class FileWrong(Failed):
    """The file cannot be used. ``str()`` has a line for each mistake, as ``FILE:LINE: what is wrong``.

    Attributes:
        path: of the file.
        mistakes: by line.
    """

    def __init__(self, path: Path, mistakes: Sequence[Mistake]) -> None:
        self.path = path
        self.mistakes = sorted(set(mistakes))
        super().__init__("\n".join(f"{path}:{each.line}: {each.text}" for each in self.mistakes), Code.USAGE)


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """An address that is to be bound.

    Attributes:
        line: where it stands.
        what: whose it is, in words.
        address: as it is.
    """

    line: int
    what: str
    address: Address


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What a file says.

    Attributes:
        specs: its devices, by name.
        control: where the daemon is steered; None: nowhere.
        log: in which form it logs.
        bound: all that is to be bound, to be tried by whoever wants to know whether it is free.
    """

    specs: Mapping[str, Spec]
    control: str | None = None
    log: LogFormat = "text"
    bound: tuple[Bound, ...] = ()


def read(path: Path) -> Config:
    """Read and check a file.

    Raises:
        FileWrong: there are mistakes in it; all are told.
        Failed: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror or error}", Code.USAGE) from error
    if len(data) > LARGEST_BYTES:
        raise Failed(f"{path}: larger than {LARGEST_BYTES >> 20} MiB", Code.USAGE)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileWrong(path, [Mistake(line, "this is not UTF-8, in which TOML is written")]) from error
    return read_text(text, path)


def read_text(text: str, path: Path) -> Config:
    """The same of a file's text.

    Args:
        text: of the file.
        path: its name, for messages; relative journals lie beside it.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileWrong(path, [_syntax(str(error), text)]) from error
    except RecursionError as error:  # tomllib descends into each table and list, and says no line
        raise FileWrong(path, [Mistake(1, "tables or lists stand too deep in one another to be read")]) from error
    except ValueError as error:  # of int(), which takes so many digits only
        raise FileWrong(path, [Mistake(1, "there is a number of too many digits")]) from error
    reader = _Reader(document, lines_of(text), path)
    config = reader.read()
    if reader.mistakes:
        raise FileWrong(path, reader.mistakes)
    return config


def _syntax(message: str, text: str) -> Mistake:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if found is None:  # "(at end of document)"
        return Mistake(text.count("\n") + (not text.endswith("\n")) or 1, f"not TOML: {message}")
    return Mistake(int(found[1]), f"not TOML: {message[: found.start()]}, column {found[2]}")


class _Reader:
    """Goes through one document and notes what is wrong.

    Attributes:
        mistakes: so far.
    """

    def __init__(self, document: dict[str, Any], lines: Mapping[Place, int], path: Path) -> None:
        self.mistakes: list[Mistake] = []
        self._document = document
        self._lines = lines
        self._path = path
        self._bound: list[Bound] = []
        self._specs: dict[str, Spec] = {}
        self._named_at: dict[str, int] = {}
        self._insecure = False
        """Of the device that is being read."""

    def read(self) -> Config:
        document = self._known(self._document, TOP, (), "the file")
        control = self._known(document.get("control", {}), CONTROL, ("control",), "[control]").get("address")
        if control is not None:
            self._control(control, ("control", "address"), "[control]")
        log = self._known(document.get("log", {}), LOG, ("log",), "[log]").get("format", "text")
        if log not in ("text", "json"):
            self._wrong(("log", "format"), f"format is 'text' or 'json', not {log!r:.60}")
        tables = document.get("device", [])
        if not tables and not self.mistakes:
            self._wrong((), "no [[device]] in it: nothing is to be run")
        for index, table in enumerate(tables):
            self._device(table, ("device", index))
        self._look_for_conflicts()
        return Config(self._specs, control, log, tuple(self._bound))

    # ---- one device ------------------------------------------------------------------

    def _device(self, table: dict[str, Any], at: Place) -> None:
        before = len(self.mistakes)
        name = table.get("name")
        shown = f"device {name!r:.70}" if isinstance(name, str) else "this device"
        found = self._known(table, DEVICE, at, shown)
        for key in ("name", "kind", "frontend", "backend"):
            if key not in table:
                self._wrong(at, f"{shown} has no {key}")
        self._name(found.get("name"), at)
        kind = found.get("kind")
        if kind is not None and kind not in KINDS:
            hint = nearest(kind, KINDS)
            self._wrong((*at, "kind"), f"there is no kind {kind!r:.60} of devices: {', '.join(KINDS)}{hint}")
        for only, owner in ((STREAMER_ONLY, "streamer"), (PROXY_ONLY, "proxy")):
            for key in sorted(only & found.keys()):
                if kind in KINDS and kind != owner:
                    self._wrong((*at, key), f"{key} is for a {owner}; {shown} is a {kind}")
        if kind == "proxy" and found.get("plain") is False:
            self._wrong((*at, "plain"), f"{shown} is a proxy, which is plain in any case")
        for option in _OPTION_KEYS:
            if option in found:
                self._options(found[option], (*at, option), option)
        if "linger" in found:
            try:
                checks.seconds("linger", found["linger"])
            except ValueError as error:
                self._wrong((*at, "linger"), str(error))
        self._insecure = found.get("insecure", False)
        bound: dict[str, tuple[Side, list[int]]] = {
            key: self._side(key, found[key], (*at, key)) for key in SIDES if key in found
        }
        if "control" in found:
            self._control(found["control"], (*at, "control"), shown)
        if len(self.mistakes) > before:
            return
        self._same_sides(bound, at, shown)
        if len(self.mistakes) > before:
            return
        for key, (side, lines) in bound.items():
            self._bound += [
                Bound(line, f"the {key} of {shown}", address) for address, line in zip(side.binds, lines, strict=True)
            ]
        spec = self._spec(found)
        self._own_journal(spec, (*at, "journal"), shown)
        self._try(spec, at, shown)
        self._specs[spec.name] = spec

    def _name(self, name: str | None, at: Place) -> None:
        if name is None:
            return
        place = (*at, "name")
        if not NAME.fullmatch(name):
            self._wrong(place, f"a name is 1 to 64 letters, digits, '.', '_' or '-', not {name!r:.70}")
        elif name in self._named_at:
            self._wrong(place, f"there are two devices {name!r}: the first is on line {self._named_at[name]}")
        else:
            self._named_at[name] = self._line(place)

    def _spec(self, found: dict[str, Any]) -> Spec:
        options = {key: value for key, value in found.items() if key not in ("name", "kind", "control")}
        if "control" in found:
            options["control"] = found["control"]
        if "journal" in found:
            options["journal"] = str(self._path.resolve().parent / found["journal"])
        return Spec(found["name"], found["kind"], options)

    def _own_journal(self, spec: Spec, at: Place, shown: str) -> None:
        for other in self._specs.values():
            if "journal" in spec.options and spec.options["journal"] == other.options.get("journal"):
                self._wrong(at, f"{shown} has the journal of device {other.name!r}: give each its own")

    def _try(self, spec: Spec, at: Place, shown: str) -> None:
        """What the device itself has against it. Making one opens nothing."""
        try:
            spec.make()
        except (ZmqkitError, TypeError, ValueError) as error:
            self._wrong(at, f"{shown}: {_in_toml(error)}")

    def _options(self, table: dict[str, Any], at: Place, kind: OptionKey) -> None:
        before = len(self.mistakes)
        found = self._known(table, LIMITS if kind == "limits" else HEARTBEAT, at, kind)
        for key, value in found.items():
            if len(self.mistakes) == before:
                try:
                    Limits(**{key: value}) if kind == "limits" else Heartbeat(**{key: value})
                except (TypeError, ValueError) as error:
                    self._wrong((*at, key), str(error))

    # ---- addresses -------------------------------------------------------------------

    def _side(self, key: str, value: Any, at: Place) -> tuple[Side, list[int]]:
        """What a side is, and the lines of what it binds."""
        nothing = Side(bind=sides.ANY_PORT), [self._line(at)]
        if not isinstance(value, dict):
            return self._addresses(key, value, at, lambda each: sides.read(key, each)) or nothing
        before = len(self.mistakes)
        table = self._known(value, SIDE, at, key)
        if "limits" in table:
            self._options(table["limits"], (*at, "limits"), "limits")
        if "announce" in table:
            try:
                check_name(table["announce"])
            except ZmqkitError as error:
                self._wrong((*at, "announce"), f"announce: {error}")
        binds = self._addresses("bind", table.get("bind", []), (*at, "bind"), lambda each: Side(bind=each))
        connects = self._addresses(
            "connect", table.get("connect", []), (*at, "connect"), lambda each: Side(connect=each)
        )
        if len(self.mistakes) > before:
            return nothing
        try:
            side = Side(
                bind=() if binds is None else binds[0].bind,
                connect=() if connects is None else connects[0].connect,
                announce=table.get("announce"),
            )
        except UsageError as error:
            self._wrong(at, f"{key}: {_in_toml(error)}")
            return nothing
        lines = [] if binds is None else binds[1]
        return side, (lines + [self._line(at)] * len(side.binds))[: len(side.binds)]

    def _addresses(self, key: str, value: Any, at: Place, make: Callable[[str], Side]) -> tuple[Side, list[int]] | None:
        """Each address by itself, so that one that is wrong has its own line. None: there is nothing of use."""
        found: list[Side] = []
        lines: list[int] = []
        several = isinstance(value, list)
        if several and not value and key in SIDES:
            self._wrong(at, f"{key} has no address")
        for index, text in enumerate(checks.several(key, value)):
            place = (*at, index) if several else at
            try:
                side = make(text)
                for address in side.binds:
                    require_secure(address, self._insecure, "bind")
                for address in side.connects:
                    require_secure(address, self._insecure, "connect")
            except ZmqkitError as error:
                self._wrong(place, f"{key}: {_in_toml(error).removeprefix(f'{key}: ')}")
                continue
            found.append(side)
            lines += [self._line(place)] * len(side.bind)
        if not found:
            return None
        binds = [each for side in found for each in side.bind]
        connects = [each for side in found for each in side.connect]
        announced = [side.announce for side in found if side.announce is not None]
        return Side(bind=binds, connect=connects, announce=announced[0] if announced else None), lines

    def _control(self, text: str, at: Place, shown: str) -> None:
        try:
            address = check_address(text)
        except ZmqkitError as error:
            self._wrong(at, str(error))
        else:
            self._bound.append(Bound(self._line(at), f"control of {shown}", address))

    def _same_sides(self, found: dict[str, tuple[Side, list[int]]], at: Place, shown: str) -> None:
        seen: list[tuple[str, Address]] = []
        for key, (side, _) in found.items():
            own = [*side.binds, *(one for each in side.connects for one in each.members or (each,))]
            if side.announce is not None:
                own.append(parse(f"zeroconf://{side.announce}"))
            for address in own:
                for other, theirs in seen:
                    if sides.same(address, theirs):
                        self._wrong((*at, key), f"{other} and {key} of {shown} are both at {address}")
            seen += [(key, address) for address in own]

    def _look_for_conflicts(self) -> None:
        for index, one in enumerate(self._bound):
            for other in self._bound[:index]:
                if sides.same(one.address, other.address):
                    text = f"{one.what} is at {one.address}, where {other.what} is already, on line {other.line}"
                    self.mistakes.append(Mistake(one.line, text))
                    break

    # ---- keys ------------------------------------------------------------------------

    def _known(self, table: Any, keys: Keys, at: Place, where: str) -> dict[str, Any]:
        """What of a table is known and of the right type; all else is a mistake."""
        if not isinstance(table, dict):
            return {}  # told where it was found
        found = {}
        for key, value in table.items():
            if key not in keys:
                self._wrong((*at, key), f"unknown key {key!r:.70} in {where}{nearest(key, keys)}")
            elif not keys[key][1](value):
                self._wrong((*at, key), f"{key} in {where} must be {keys[key][0]}, not {type_of(value)}")
            else:
                found[key] = value
        return found

    def _wrong(self, at: Place, text: str) -> None:
        self.mistakes.append(Mistake(self._line(at), text))

    def _line(self, at: Place) -> int:
        while at and at not in self._lines:
            at = at[:-1]
        return self._lines.get(at, 1)


def _in_toml(error: Exception) -> str:
    """What is said of Python, in the words of the file."""
    return str(error).replace(ALLOW, "insecure = true")
