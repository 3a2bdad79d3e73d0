"""What stands where a table should, and what a table may be called."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import os
import socket
from pathlib import Path

from nasty.case import BASE, Case

FILE = "is no file but"


def link(target: str):
    return lambda path: path.symlink_to(target)


def nothing(path: Path) -> None:
    """No file at all."""


def unix_socket(path: Path) -> None:
    # A socket's own path must be short, so it is bound beside the current folder and moved.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def unreadable(path: Path) -> None:
    path.write_text(BASE)
    path.chmod(0)


def inside_a_file(path: Path) -> None:
    path.write_text(BASE)


def linked(path: Path) -> None:
    (path.parent / "real.csv").write_text(BASE)
    path.symlink_to("real.csv")


def named(name: str, file: str) -> Case:
    """A sound table of an odd name, with one row that is none, so that the name is written down."""
    return Case(name, BASE + "a,b,c\n", used=2, rejected={"has 3 cells": 1}, file=file)


BYTES = os.fsdecode(b"caf\xe9.csv")

CASES = [
    Case("no file", nothing, error=r"t\.csv: no such file \(looked in "),
    Case("a folder", Path.mkdir, error=r"t\.csv is a folder\. Name a file in it"),
    Case("a pipe", os.mkfifo, error=rf"t\.csv {FILE} a pipe, and a table is read more than once\. Save it as a file first"),
    Case("a pipe, gzipped by name", os.mkfifo, file="t.csv.gz", error=f"{FILE} a pipe"),
    Case("a pipe of lines", os.mkfifo, file="t.jsonl", error=f"{FILE} a pipe"),
    Case("a pipe of parquet", os.mkfifo, file="t.parquet", error=f"{FILE} a pipe"),
    Case("a socket", unix_socket, error=f"{FILE} a socket"),
    Case("a device without an end", link("/dev/zero"), error=f"{FILE} a device"),
    Case("a device without a beginning", link("/dev/null"), error=f"{FILE} a device"),
    Case("a link", linked, used=2),
    Case("a link to nothing", link("nowhere.csv"), error=r"nowhere\.csv: no such file"),
    Case("a link to itself", link("t.csv"), error="Too many levels|Symlink loop"),
    Case("a link to a folder", link("."), error="is a folder"),
    Case("inside a file", inside_a_file, where="{path}/x.csv", error=r"x\.csv: no such file"),
    Case("a name too long", nothing, where="{folder}/" + "n" * 300 + ".csv", error="cannot be read .*File name too long"),
    Case("NUL in the name", nothing, where="{folder}/a\0b.csv", error="is no path: embedded null byte"),
    Case("half a character in the name", nothing, where="{folder}/a\ud800.csv", error="is no path|is no name of a file|no such file"),
    Case("nobody's home", nothing, where="~nobody-of-that-name/t.csv", error="data.train: .* is no path"),
    Case("no such variable", nothing, where="${NO_SUCH_VARIABLE}/t.csv", error="data.train: environment variable NO_SUCH_VARIABLE is not"),
    Case("an empty name", nothing, where="", error="is a folder|cannot read files"),
    Case("hub and nothing behind", nothing, where="hub:", error="names no dataset"),
    Case("an address", nothing, where="https://example.org/t.csv", error="no such file"),
    Case("a second file that is none", BASE, data={"test": "{folder}/nowhere.csv"}, error=r"nowhere\.csv: no such file"),
    Case("a second file that is a folder", BASE, data={"validation": "{folder}"}, error="is a folder"),
    named("spaces", "my table (1) .csv"),
    named("letters of others", "таблица 表 جدول.csv"),
    named("emoji", "😀.csv"),
    named("a dash first", "-rf.csv"),
    named("quotes", "it's \"quoted\".csv"),
    named("a line end", "two\nlines.csv"),
    named("a terminal's escapes", "\x1b[2J.csv"),
    named("braces and per cent", "{0}%s{folder}.csv"),
    named("no valid Unicode", BYTES),
    named("decomposed", "cafe\u0301.csv"),
    named("the longest name", "n" * 251 + ".csv"),
    named("a hash and a colon", "#1: a.csv"),
]  # fmt: skip

if os.geteuid():  # root may read everything
    CASES.append(Case("not for us", unreadable, error=r"t\.csv: cannot be read \(Permission denied\)"))
