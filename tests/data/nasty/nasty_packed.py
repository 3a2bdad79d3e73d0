"""Packed files, packed twice, packed in part, and files of other programs."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
import zlib
from pathlib import Path

from nasty.case import BASE, Case
from nasty.nasty_jsonl import GOOD

KIND = "cannot read files of kind"


def zipped(name: str = "t.csv") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, BASE)
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("t.csv")
        member.size = len(BASE)
        archive.addfile(member, io.BytesIO(BASE.encode()))
    return sink.getvalue()


def database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (text, label)")
    connection.close()


PACKED = gzip.compress(BASE.encode())
NOISE = gzip.compress((BASE + "".join(f"words {hash((i, 7)) & 0xFFFFFF:x},pos\n" for i in range(5000))).encode())

CASES = [
    Case("a gzipped csv", PACKED, used=2, file="t.csv.gz"),
    Case("a gzipped tsv", gzip.compress(BASE.replace(",", "\t").encode()), used=2, file="t.tsv.gz"),
    Case("gzipped lines", gzip.compress(GOOD.encode()), used=2, file="t.jsonl.gz"),
    Case("capital endings", PACKED, used=2, file="T.CSV.GZ"),
    Case("a byte order mark, gzipped", gzip.compress(("\ufeff" + BASE).encode()), used=2, file="t.csv.gz"),
    Case("two gzip files in one", PACKED + gzip.compress(b"more,pos\n"), used=3, file="t.csv.gz"),
    Case("zeros behind the gzip file", PACKED + bytes(512), used=2, file="t.csv.gz"),
    Case("garbage behind the gzip file", PACKED + b"garbage", file="t.csv.gz", error=r"t\.csv\.gz: not a sound gzip file"),
    Case("gzip of nothing", gzip.compress(b""), file="t.csv.gz", error=r"t\.csv\.gz is empty"),
    Case("no bytes, gzipped by name", b"", file="t.csv.gz", error=r"t\.csv\.gz"),
    Case("a csv with a gzip's name", BASE, file="t.csv.gz", error=r"t\.csv\.gz: not a sound gzip file \(Not a gzipped file"),
    Case("a gzip with a csv's name", PACKED, error=r"t\.csv is compressed with gzip\. Let its name end with \.gz"),
    Case("gzipped twice", gzip.compress(PACKED), file="t.csv.gz", error=r"t\.csv\.gz is compressed with gzip"),
    Case("a truncated gzip", NOISE[: len(NOISE) // 2], file="t.csv.gz", error=r"t\.csv\.gz: the gzip file breaks off"),
    Case("a gzip cut in its head", PACKED[:7], file="t.csv.gz", error=r"t\.csv\.gz: the gzip file breaks off"),
    Case("a gzip without its last byte", PACKED[:-1], file="t.csv.gz", error=r"t\.csv\.gz: the gzip file breaks off"),
    Case("a wrong checksum", PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], file="t.csv.gz", error=r"not a sound gzip file .*CRC"),
    Case("a wrong length", PACKED[:-4] + b"\xff\xff\xff\xff", file="t.csv.gz", error=r"not a sound gzip file .*length"),
    Case("a broken stream", PACKED[:12] + b"\xff\xff\xff\xff" + PACKED[16:], file="t.csv.gz", error=r"not a sound gzip file|breaks off"),
    Case("zlib without gzip", zlib.compress(BASE.encode()), file="t.csv.gz", error="not a sound gzip file"),
    Case("a zip", zipped(), error=r"t\.csv is a zip archive or a workbook\. Unpack it, or save the sheet as CSV in UTF-8"),
    Case("a workbook", zipped("xl/workbook.xml"), error=r"t\.csv is a zip archive or a workbook"),
    Case("a workbook of old", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), error=r"t\.csv is a workbook of old"),
    Case("a zip of lines", zipped("t.jsonl"), file="t.jsonl", error=r"t\.jsonl is a zip archive"),
    Case("xz", lzma.compress(BASE.encode()), error=r"t\.csv is compressed with xz\. Unpack it"),
    Case("zstd", b"\x28\xb5\x2f\xfd\x04\x00" + BASE.encode(), error=r"t\.csv is compressed with zstd"),
    Case("bzip2", bz2.compress(BASE.encode()), error=r"t\.csv"),
    Case("tar", tarred(), error=r"not valid UTF-8"),
    Case("a database", database, error=r"t\.csv"),
    Case("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), error=r"t\.csv: the name of column 1 is not valid UTF-8"),
    Case("a pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", error=r"column 'text' is not in"),
    Case("a pickle", b"\x80\x04\x95\x1a\0\0\0\0\0\0\0}\x94(\x8c\x04text\x94", error=r"not valid UTF-8"),
    Case("a workbook by name", zipped("xl/workbook.xml"), file="t.xlsx", error=KIND + r" '\.xlsx'\. Known: \.csv, \.tsv, \.jsonl"),
    Case("bzip2 by name", bz2.compress(BASE.encode()), file="t.csv.bz2", error=KIND + r" '\.bz2'"),
    Case("json", "[]", file="t.json", error=KIND + r" '\.json'"),
    Case("plain text", "a\nb\n", file="t.txt", error=KIND + r" '\.txt'"),
    Case("no ending", BASE, file="table", error=KIND + " ''"),
    Case("only an ending", BASE, file=".csv", error=KIND + " ''"),
    Case("a point at the end", BASE, file="t.csv.", error=KIND),
    Case("gzip of no kind", PACKED, file="t.gz", error=KIND + r" '\.gz'"),
    Case("capitals", BASE, file="T.CSV", used=2),
    Case("more points than one", BASE, file="t.2024.01.csv", used=2),
]  # fmt: skip
