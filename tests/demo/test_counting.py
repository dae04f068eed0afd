"""The demo's counting, without any messages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zmqkit.demo.counting import FilesError, NotPython, Totals, count_plainly, count_source, find_sources


def test_tokens_names_lines_and_bytes_are_counted():
    source = b"def twice(x):\n    return x + x  # two\n"
    count = count_source(source)
    assert (count["bytes"], count["lines"]) == (len(source), 2)
    assert count["names"] == {"twice": 1, "x": 3}
    assert count["kinds"]["NAME"] == 6  # def and return are names to the tokenizer
    assert count["kinds"]["COMMENT"] == 1


def test_a_last_line_without_an_end_is_a_line():
    assert count_source(b"a\nb")["lines"] == 2
    assert count_source(b"")["lines"] == 0


@pytest.mark.parametrize(
    "source",
    [b"# -*- coding: no-such -*-\n", b"text = '''never closed\n", b"if x:\n        a\n    b\n", b"x = '\xff'\n"],
    ids=["encoding", "string", "indentation", "bytes"],
)
def test_what_does_not_tokenize_is_refused(source):
    with pytest.raises(NotPython):
        count_source(source)


def test_files_are_found_in_order_without_links_and_installed_packages(tmp_path: Path):
    for name in ("b.py", "a/z.py", "a/site-packages/x.py", "a/__pycache__/y.py", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "b.py")
    (tmp_path / "linked").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [source.label for source in find_sources(tmp_path)] == ["a/z.py", "b.py"]


def test_a_file_whose_name_is_no_text_is_counted_under_an_escaped_one(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.py"
    Path(os.fsdecode(path)).write_bytes(b"x = 1\n")
    (source,) = find_sources(tmp_path)
    assert source.label == "caf\\udce9.py"
    assert source.read() == b"x = 1\n"


@pytest.mark.parametrize("name", ["empty", "file.py", "missing"])
def test_a_folder_with_nothing_to_count_is_an_error_that_names_it(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.py").write_text("")
    with pytest.raises(FilesError, match=name):
        find_sources(tmp_path / name)


def test_the_plain_count_adds_up_and_names_what_it_rejects(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = y\n")
    (tmp_path / "b.py").write_text("x = '''\n")
    (tmp_path / "c.py").write_text("x\n")
    seen: list[int] = []
    plain = count_plainly(find_sources(tmp_path), seen.append)
    assert (plain.totals.files, plain.totals.lines, plain.totals.bytes) == (2, 2, 8)
    assert plain.totals.names == {"x": 2, "y": 1}
    assert [reason.partition(":")[0] for reason in plain.rejected] == ["b.py"]
    assert seen == [1, 2, 3]


def test_totals_do_not_depend_on_the_order():
    counts = [count_source(source) for source in (b"a = 1\n", b"b = a\n", b"a\n")]
    forth, back = Totals(), Totals()
    for count in counts:
        forth.add(count)
    for count in reversed(counts):
        back.add(count)
    assert forth == back
