"""Comma- and tab-separated files of every shape."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

from nasty.case import BASE, HEAD, TWO, Case

CLOSED = "a quote is closed in the middle of a cell"
OPEN = "a quote is opened and never closed"
NO_TEXT = r"column 'text' is not in .*t\.(csv|tsv)"


def header(name: str, line: str, **options) -> Case:
    return Case(name, line + "\n" + TWO, **options)


def row(name: str, line: str, used: int = 3, **options) -> Case:
    return Case(name, BASE + line + "\n", used=used, **options)


def bad_row(name: str, line: str, reason: str, **options) -> Case:
    return Case(name, BASE + line + "\n", used=2, rejected={reason: 1}, **options)


CASES = [
    Case("CRLF", BASE.replace("\n", "\r\n"), used=2),
    Case("CR", BASE.replace("\n", "\r"), used=2),
    Case("every line end in one file", "text,label\r\ngood words,pos\nbad words,neg\rmore,pos\r\n\rlast,neg", used=4),
    Case("no line end at the end", BASE.rstrip("\n"), used=2),
    Case("LF and CR the wrong way round", BASE.replace("\n", "\n\r"), used=2),
    Case("blank lines everywhere", "\n\n" + BASE.replace("\n", "\n\n\n"), used=2),
    Case("a line of spaces", BASE + "   \n", used=2, rejected={"has 1 cell, the header has 2": 1}),
    Case("a line of commas", BASE + ",\n", used=2, rejected={"column 'text' is empty": 1}),
    Case("a hundred thousand blank lines", BASE + "\n" * 100_000 + "more words,pos\n", used=3),
    # The header
    Case("empty", "", error=r"t\.csv is empty\. It needs a header line and rows"),
    Case("only line ends", "\n\r\n\r", error=r"t\.csv is empty"),
    Case("header only", HEAD, error=r"t\.csv has columns \(text, label\) but no rows"),
    Case("header only, no line end", "text,label", error=r"but no rows"),
    Case("no header", "good words,pos\nbad words,neg\n", error=NO_TEXT),
    header("one column", "text", error=r"column 'label' is not in .*t\.csv\. Columns: text"),
    header("the same name twice", "text,label,text", error=r"columns 1 and 3 are both named 'text'\. Rename one"),
    header("the same name but for spaces", "text,label, text ", error=r"columns 1 and 3 are both named 'text'"),
    Case("names that differ in case", "text,label,Text\na,x,b\nc,y,d\n", used=2),
    header("the wrong case", "Text,Label", error=r"column 'text' is not in .*Did you mean 'Text'\?"),
    header("spaces around names", "  text ,\tlabel", used=2),
    header("quoted names", '"text","label"', used=2),
    Case("a column without a name", "text,label,\na,x,1\nb,y,2\n", used=2),
    Case("two columns without a name", "text,label,,\na,x,1,2\nb,y,2,3\n", error=r"columns 3 and 4 are both named ''\. Rename one"),
    Case("an index of pandas", ",text,label\n0,a,x\n1,b,y\n", used=2),
    Case("a line end in a name", '"text","label","two\nlines"\na,x,1\nb,y,2\n', used=2),
    Case("control characters in a name", "text,label,\x1b[31mred\x07\na,x,1\nb,y,2\n", used=2),
    header("a missing column beside odd names", 'te\x1bxt,"la\nbel"', error=r"Columns: te\\x1bxt, la\\nbel"),
    Case("quotes in a name", 'text,label,"the ""best"""\na,x,1\nb,y,2\n', used=2),
    Case("a name of 100,000 characters", "text,label," + "n" * 100_000 + "\na,x,1\nb,y,2\n", used=2),
    Case("a long name and a missing one", "t" * 100_000 + ",label\na,x\n", error=r"Columns: t{57}\.\.\., label"),
    header("an open quote in the header", '"text,label', error=r"t\.csv:1: the header cannot be read: " + OPEN),
    header("a broken quote in the header", '"te"xt,label', error=r"t\.csv:1: the header cannot be read: " + CLOSED),
    header("a comment first", "# made by hand\ntext,label", error=NO_TEXT),
    header("Excel's separator line", "sep=,\ntext,label", error=NO_TEXT),
    header("names that look like a formula", "=text,label", error=NO_TEXT),
    header("numbers for names", "0,1", error=NO_TEXT),
    # Other delimiters
    Case("semicolons", BASE.replace(",", ";"), error=NO_TEXT + r".* Columns: text;label"),
    Case("pipes", BASE.replace(",", "|"), error=NO_TEXT),
    Case("tabs in a csv", BASE.replace(",", "\t"), error=NO_TEXT),
    Case("a tsv", BASE.replace(",", "\t"), file="t.tsv", used=2),
    Case("commas in a tsv", BASE, file="t.tsv", error=NO_TEXT),
    Case("commas in the texts of a tsv", "text\tlabel\na, b\tx\nc, d\ty\n", file="t.tsv", used=2),
    Case("tabs in the quoted texts of a tsv", 'text\tlabel\n"a\tb"\tx\nc\ty\n', file="t.tsv", used=2),
    Case("two kinds of delimiter", "text,label;more\na,x;1\nb,y;2\n", error="column 'label' is not in"),
    # Cells
    Case("trailing delimiters in rows", HEAD + "a,x,\nb,y,\n", error=r"2 of 2 rows cannot be used .*has 3 cells, the header has 2"),
    Case("trailing delimiters everywhere", "text,label,\na,x,\nb,y,\n", used=2),
    bad_row("too few cells", "alone", "has 1 cell, the header has 2"),
    bad_row("too many cells", "a,pos,b,c", "has 4 cells, the header has 2"),
    bad_row("an unquoted comma", "good, very good words,pos", "has 3 cells, the header has 2"),
    Case("ragged", HEAD + "a,x\nb\nc,y,z\n,\nd,y\n", used=2, rejected={"has 1 cell": 1, "has 3 cells": 1, "is empty": 1}),
    row("quotes", '"words, ""quoted"" and more",pos'),
    row("a line end in a cell", '"two\nlines",pos'),
    row("every line end in a cell", '"one\r\ntwo\rthree\nfour",pos'),
    row("a quote in an unquoted cell", 'an 8" pipe,pos'),
    row("only a quote", '"""",pos'),
    row("single quotes", "'good, words',pos", used=2, rejected={"has 3 cells": 1}),
    row("curly quotes", "“good words”,pos"),
    row("a space before a quote", ' "good words",pos'),
    bad_row("a space behind a quote", '"good words" ,pos', CLOSED),
    bad_row("quotes escaped by backslashes", r'"he said \"no\" twice",pos', CLOSED),
    bad_row("text behind a quote", '"good"words,pos', CLOSED),
    bad_row("an open quote at the end", '"good words,pos', OPEN),
    Case("an open quote in the middle", HEAD + '"good words,pos\nbad words,neg\nmore,pos\n', error=OPEN),
    Case(
        "an open quote that meets the next", HEAD + 'a,x\n"b,y\n"c",x\nd,y\n', used=2, rejected={CLOSED + r" \(lines 3 to 4\)": 1}
    ),
    Case("an empty quoted text", HEAD + '"",x\na,x\nb,y\n', used=2, rejected={"column 'text' is empty": 1}),
    Case("cells of spaces around", HEAD + " a , x \n b ,x\n c ,y \n", used=3),
    Case("a hundred columns of nothing", "text,label" + "".join(f",c{i}" for i in range(100)) + "\n" + "a,x" + "," * 100 + "\nb,y" + "," * 100 + "\n", used=2),
    Case("the header again in the middle", BASE + BASE, used=5),
    Case("markdown", "| text | label |\n|---|---|\n| a | x |\n", error=NO_TEXT),
    Case("html", "<table><tr><td>text</td></tr></table>\n", error=NO_TEXT),
    Case("json under the name of a csv", '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n', error=NO_TEXT),
    Case("yaml", "text: a\nlabel: x\n", error=NO_TEXT),
    Case("a message of git", "<<<<<<< HEAD\n" + BASE + "=======\n", error=NO_TEXT),
]  # fmt: skip
