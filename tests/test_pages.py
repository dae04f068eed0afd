"""The runner of documentation pages: what a page may say, and that a page which is wrong is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import Page, own_addresses, pattern_of, plain_call, read_blocks, read_commands
from tests.preloaded import Preloaded

TICKS = "`" * 3


def page(*blocks: str) -> str:
    """``python print(1)`` and the like, as fenced blocks; comments as they are."""
    parts = []
    for block in blocks:
        language, _, text = block.partition(" ")
        parts.append(block if block.startswith("<!--") else f"{TICKS}{language}\n{text}\n{TICKS}")
    return "\n\n".join(parts) + "\n"


@pytest.fixture(params=["fresh", "preloaded"])
def starter(request: pytest.FixtureRequest, preloaded: Preloaded) -> Preloaded | None:
    """How programs are started: none can tell."""
    return preloaded if request.param == "preloaded" else None


SERVER = "python import time\nprint('ready')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('stopped')"
LATE = "console $ echo begun; sleep 0.3; echo late > made\nbegun"


@pytest.mark.parametrize(
    "text",
    [
        page("python print(1)"),
        page("console $ echo one; echo two\none\ntwo"),
        page("console $ seq 5\n1\n...\n5"),
        page("console $ echo took 0.31 s\ntook ... s"),
        page("console $ cat > x <<E\n> hello\n> E\n$ cat x\nhello"),
        page("bash true\nls"),
        page("text anything"),
        page("<!-- file: hello.py -->", "python print('hello')", "console $ python hello.py\nhello"),
        page("<!-- file: hello.py -->", "python x = 1", "console $ echo hello:x\nhello:x"),
        page("<!-- file: s.py -->", SERVER, "console $ python s.py\nready\n^C"),
        page("<!-- file: s.py -->", SERVER, "<!-- terminal: 2 -->", "console $ python s.py\nready", "bash true"),
        page("<!-- file: s.py -->", SERVER, "<!-- terminal: 2 -->", "console $ python s.py\nready", "<!-- kill: 2 -->"),
        page("<!-- terminal: 2 -->", LATE, "<!-- terminal: 2 -->", "console $ cat made\nlate"),
        page("<!-- terminal: 2 -->", LATE, "<!-- terminal: 2 -->", "console $ cat made\nlate\n$ cat made\nlate"),
        page("<!-- not run: it installs something -->", "console $ exit 1"),
        page("console $ make test"),
    ],
)
def test_a_page_that_says_the_truth_passes(tmp_path: Path, text: str, starter: Preloaded | None) -> None:
    Page(text, tmp_path, "test: lint\n", starter).run()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (page("python raise SystemExit(3)"), "exits with 3"),
        (page("console $ echo one\ntwo"), "and not\ntwo"),
        (page("console $ echo one; echo more\none"), "and not\none"),
        (page("console $ false"), "exits with 1"),
        (page("<!-- file: x.py -->", "python 1 / 0", "console $ python x.py"), "ZeroDivisionError"),
        (page("bash false\ntrue"), "exits with 1"),
        (page("console $ make nonsense"), "no {'nonsense'}"),
        (page("<!-- file: never.py -->", "python print(1)"), "no command uses"),
        (page("<!-- not run: -->", "console $ false"), "say why"),
        (page("<!-- kill: 2 -->"), "nothing runs in terminal 2"),
        (page("<!-- terminal: 2 -->", "console $ echo one\ntwo"), "ended without showing"),
        (page("<!-- terminal: 2 -->", "console $ trap '' INT; echo one; exit 4\none"), "exits with 4"),
        (page("console echo one"), "begins with a command"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(
    tmp_path: Path, text: str, complaint: str, starter: Preloaded | None
) -> None:
    with pytest.raises(AssertionError) as caught:
        Page(text, tmp_path, preloaded=starter).run()
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", [page("py print(1)"), page("sh ls"), "<!-- file: x -->\nprose\n", f"{TICKS}python\n"])
def test_a_block_cannot_escape_by_its_spelling(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        list(read_blocks(text))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("zmqkit push tcp://127.0.0.1:5557 'two words'", ["zmqkit", "push", "tcp://127.0.0.1:5557", "two words"]),
        ("python serve.py --fast", ["python", "serve.py", "--fast"]),
        ("zmqkit journal ls . | head", None),
        ("seq 3 | zmqkit push tcp://127.0.0.1:5557", None),
        ("zmqkit pull tcp://127.0.0.1:5557 > found", None),
        ("zmqkit journal ls jobs.db; echo $?", None),
        ("zmqkit journal ls *.db", None),
        ("zmqkit publish tcp://127.0.0.1:5556 a &", None),
        ("COLUMNS=80 zmqkit --help", None),
        ("python -m zmqkit", None),
        ("python", None),
        ("seq 3", None),
    ],
)
def test_what_needs_no_shell_is_told_from_what_does(command: str, words: list[str] | None) -> None:
    assert plain_call(command) == words


def test_a_command_may_span_lines_and_be_interrupted() -> None:
    (command,) = read_commands("$ cat <<E\n> a\n> E\na\n^C")
    assert command == ("cat <<E\na\nE", ["a"], True)


def test_dots_stand_for_anything() -> None:
    pattern = pattern_of(["a ... c", "...", "end"])
    assert pattern.fullmatch("a b c\nmuch\nmore\nend\n")
    assert pattern.fullmatch("a b c\nend\n")
    assert not pattern.fullmatch("a b\nend\n")


def test_a_page_gets_ports_and_names_of_its_own() -> None:
    text = 'tcp://127.0.0.1:5557 tcp://127.0.0.1:5557 tcp://127.0.0.1:* zeroconf://crawl announce="crawl"'
    first, second, any_port, name, announced = own_addresses(text).split()
    assert first == second != "tcp://127.0.0.1:5557"
    assert any_port == "tcp://127.0.0.1:*"
    assert name.removeprefix("zeroconf://") == announced.removeprefix('announce="').rstrip('"') != "crawl"
