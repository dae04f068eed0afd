"""The lines of a TOML document's keys: every key that tomllib finds has the line on which it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from zmqkit.cli.toml_lines import Place, lines_of

DOCUMENT = '''# a comment with = and [brackets]
top = 1 # and one more
"quoted key" = "a # no comment"
'single.dotted' = 'C:\\path'
a.b . "c" = 3
"\\u00e9\\t" = true

[control]
address = "ipc:///run/x"
when = 2026-07-14 12:00:00Z

[[device]]
name = "one"
frontend = [
    "tcp://127.0.0.1:1",  # first ] }
    """tcp
    [[device]]
    name = "no" \\""" quoted""",

    'last',
]
limits = { frame_bytes = 1_000, deep = { x = [1, [2, 3]] } }
[device.backend]
bind = []
connect = [{ a = 1 }, { a = 2, b = "x" }]

  [[device]]  # another
name = \'\'\'
raw """ text
\'\'\'
[device.backend.more]
x = -inf
[[device.tags]]
t = 1.5e3
[[device.tags]]
t = 0xff
'''


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    if at:
        yield at
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*at, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from places(each, (*at, index))


@pytest.mark.parametrize("text", [DOCUMENT, DOCUMENT.replace("\n", "\r\n"), "", "x=1", "[a]\n[b]", 'x="""a"b"""""'])
def test_every_place_of_a_document_has_its_line(text: str) -> None:
    assert lines_of(text).keys() == set(places(tomllib.loads(text)))


def test_a_line_is_that_on_which_it_begins() -> None:
    lines, found = DOCUMENT.splitlines(), lines_of(DOCUMENT)
    for place, words in {
        ("top",): "top = 1",
        ("quoted key",): '"quoted key"',
        ("a", "b", "c"): "a.b",
        ("é\t",): '"\\u00e9',
        ("control", "address"): "address =",
        ("device", 0): "[[device]]",
        ("device", 0, "frontend", 1): '"""tcp',
        ("device", 0, "frontend", 2): "'last'",
        ("device", 0, "limits", "deep", "x", 1, 1): "limits",
        ("device", 0, "backend"): "[device.backend]",
        ("device", 0, "backend", "connect", 1, "b"): "connect",
        ("device", 1): "[[device]]  # another",
        ("device", 1, "name"): "name = '''",
        ("device", 1, "backend", "more", "x"): "x = -inf",
        ("device", 1, "tags", 1, "t"): "t = 0xff",
    }.items():
        assert lines[found[place] - 1].strip().startswith(words), place
