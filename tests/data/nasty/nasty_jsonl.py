"""Lines that are JSON, nearly JSON, or JSON of a kind that no table holds."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

import json

from nasty.case import LABEL, SCORE, Case
from nasty.nasty_texts import text_of

GOOD = '{"text": "good words", "label": "pos"}\n{"text": "bad words", "label": "neg"}\n'
MANY = {"label": {"type": "multilabel"}}


def line(name: str, text: str, used: int = 3, **options) -> Case:
    return Case(name, GOOD + text + "\n", used=used, file="t.jsonl", **options)


def bad_line(name: str, text: str | bytes, reason: str) -> Case:
    content = GOOD.encode() + (text.encode() if isinstance(text, str) else text) + b"\n"
    return Case(name, content, used=2, rejected={reason: 1}, file="t.jsonl")


def whole(name: str, content: str | bytes, **options) -> Case:
    return Case(name, content, **{"file": "t.jsonl", **options})


def nested(levels: int) -> str:
    return '{"text": "a", "label": "pos", "more": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


CASES = [
    whole("plain", GOOD, used=2),
    whole("the other ending", GOOD, used=2, file="t.ndjson"),
    whole("CRLF", GOOD.replace("\n", "\r\n"), used=2),
    whole("CR", GOOD.replace("\n", "\r"), error=r"none of the first 1 lines holds a JSON object .*Extra data"),
    whole("blank lines", "\n\n" + GOOD.replace("\n", "\n  \n\r\n"), used=2),
    whole("byte order mark", "\ufeff" + GOOD, used=2),
    whole("no line end at the end", GOOD.rstrip(), used=2),
    whole("empty", "", error=r"t\.jsonl is empty"),
    whole("blank", "\n \n", error=r"t\.jsonl is empty"),
    whole("an array", json.dumps([{"text": "a", "label": "x"}]), error=r"not a JSON object but an array\)\. Write one object a line"),
    whole("an array over lines", '[\n{"text": "a", "label": "x"},\n{"text": "b", "label": "y"}\n]\n', error="label: only the class 'y'"),
    whole("one object over lines", json.dumps({"text": "a", "label": "x"}, indent=2), error="none of the first 4 lines holds a JSON object"),
    whole("only empty objects", "{}\n{}\n", error=r"none of the first 2 lines .*only \{\}"),
    whole("a csv", "text,label\na,x\n", error=r"none of the first 2 lines holds a JSON object .*Expecting value"),
    whole("columns of arrays", '{"text": ["a", "b"], "label": ["x", "y"]}\n', error="label: only the class"),
    whole("no such key", '{"txt": "a", "label": "x"}\n', error=r"column 'text' is not in .*Did you mean 'txt'\?"),
    bad_line("half an object", '{"text": "a", "label": ', "not JSON: Expecting value at character 23"),
    bad_line("single quotes", "{'text': 'a', 'label': 'pos'}", "not JSON: Expecting property name"),
    bad_line("a comma at the end", '{"text": "a", "label": "pos",}', "not JSON: "),
    bad_line("a comment", '{"text": "a", "label": "pos"} // good', "not JSON: Extra data"),
    bad_line("two objects", '{"text": "a", "label": "pos"}{"text": "b", "label": "neg"}', "not JSON: Extra data"),
    bad_line("Python's words", '{"text": "a", "label": None}', "not JSON: Expecting value"),
    bad_line("NaN", '{"text": "a", "label": NaN}', "not JSON: NaN is no JSON value; write null"),
    bad_line("Infinity", '{"text": "a", "label": -Infinity}', "not JSON: -Infinity is no JSON value"),
    bad_line("the same key twice", '{"text": "a", "label": "pos", "text": "b"}', "not JSON: the key 'text' stands twice"),
    bad_line("the same key twice, deep down", '{"text": "a", "label": "pos", "x": [{"k": 1, "k": 2}]}', "the key 'k' stands twice"),
    bad_line("a string", '"text"', "not a JSON object but a string"),
    bad_line("a number", "3", "not a JSON object but a number"),
    bad_line("true", "true", "not a JSON object but a boolean"),
    bad_line("null", "null", "not a JSON object but null"),
    bad_line("a list", '["a", "pos"]', "not a JSON object but an array"),
    bad_line("an empty object", "{}", "column 'text' is empty"),
    bad_line("no text", '{"label": "pos"}', "column 'text' is empty"),
    bad_line("a null text", '{"text": null, "label": "pos"}', "column 'text' is empty"),
    bad_line("no label", '{"text": "a"}', "no label for any task"),
    bad_line("a null label", '{"text": "a", "label": null}', "no label for any task"),
    bad_line("half a character", r'{"text": "a\ud800", "label": "pos"}', "column 'text' is not valid UTF-8"),
    bad_line("the other half", r'{"text": "a\udc00b", "label": "pos"}', "column 'text' is not valid UTF-8"),
    bad_line("NUL", r'{"text": "a\u0000", "label": "pos"}', "column 'text' holds a NUL character"),
    bad_line("latin-1", '{"text": "café", "label": "pos"}'.encode("latin-1"), "column 'text' is not valid UTF-8"),
    bad_line("a raw line end in a string", '{"text": "a\tb", "label": "pos"}', "not JSON: Invalid control character"),
    bad_line("an escape that is none", r'{"text": "\x41", "label": "pos"}', r"not JSON: Invalid \\escape"),
    bad_line("5,000 digits", '{"text": "a", "label": ' + "1" * 5000 + "}", "not JSON: a number has too many digits"),
    bad_line("a hundred thousand brackets", '{"text": ' + "[" * 100_000, "not JSON: nested more than 100 levels deep"),
    bad_line("101 levels", nested(101), "not JSON: nested more than 100 levels deep"),
    line("100 levels", nested(100)),
    line("a pair of halves", r'{"text": "\ud83d\ude00", "label": "pos"}', check=text_of("😀")),
    line("escapes", r'{"text": "\u0061\n\"\/", "label": "pos"}', check=text_of('a\n"/')),
    line("a number for a text", '{"text": 3.0, "label": "pos"}', check=text_of("3.0")),
    line("a boolean for a text", '{"text": true, "label": "pos"}', check=text_of("true")),
    line("an object for a text", '{"text": {"en": "a", "de": [1]}, "label": "pos"}', check=text_of('{"en": "a", "de": [1]}')),
    line("numbers for labels", '{"text": "a", "label": 1}'),
    line("400 digits", '{"text": "a", "label": ' + "1" * 400 + "}"),
    line("further keys", '{"text": "a", "label": "pos", "more": 1}'),
    line("spaces everywhere", '   { "text" : "a" ,\t"label" : "pos" }   '),
    whole("spaces in keys", '{" text ": "a", "label": "x"}\n{" text ": "b", "label": "y"}\n', used=2),
    whole("keys that differ in spaces", '{" text": "a", "text": "b", "label": "x"}\n', error=r"columns 1 and 2 are both named 'text'"),
    whole("an empty key", '{"": 1, "text": "a", "label": "x"}\n{"": 1, "text": "b", "label": "y"}\n', used=2),
    whole("half a character in a key", r'{"\ud800": 1, "text": "a", "label": "x"}' + "\n", error="the name of column 1 is not valid UTF-8"),
    whole("NUL in a key", r'{"a\u0000": 1, "text": "a", "label": "x"}' + "\n", error="the name of column 1 is not valid UTF-8"),
    whole("a label that comes late", '{"text": "a"}\n' * 1500 + GOOD, used=2, rejected={"no label for any task": 1500}),
    whole("keys that never come twice", "".join(f'{{"text": "a{i}", "label": "{i % 2}", "k{i}": 1}}\n' for i in range(999)), used=999),
    whole(
        "more keys than a table has", "".join("{" + ", ".join(f'"{i}-{k}": 1' for k in range(100)) + "}\n" for i in range(300)),
        error=r"t\.jsonl has 2\d{4} columns; at most 20000 are read",
    ),
    whole("broken lines among a thousand", "{\n" * 10 + GOOD * 500, used=1000, rejected={"not JSON": 10}),
    whole("a score too large", '{"text": "a", "score": 1e999}\n{"text": "b", "score": 0.5}\n', used=1, rejected={"score 'inf' is not a finite number": 1}, tasks=SCORE),
    whole("a score of truth", '{"text": "a", "score": true}\n{"text": "b", "score": 0.5}\n', used=1, rejected={"score 'true' is not a number": 1}, tasks=SCORE),
    whole("a score in quotes", '{"text": "a", "score": "-1"}\n{"text": "b", "score": 0.5}\n', used=2, tasks=SCORE),
    whole("a list of scores", '{"text": "a", "score": [1]}\n{"text": "b", "score": 0.5}\n', used=1, rejected={r"score '\[1\]' is not a number": 1}, tasks=SCORE),
    whole("lists of classes", '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n{"text": "c", "label": ["x", 2]}\n', used=3, tasks=MANY),
    whole("objects for classes", '{"text": "a", "label": {"x": 1}}\n{"text": "b", "label": {"y": 1}}\n', used=2),
    whole("objects for several classes", '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": [{"y": 1}]}\n', used=1, rejected={"is not a JSON list of class names": 1}, tasks=MANY),
    whole("classes of all types", '{"text": "a", "label": 1}\n{"text": "b", "label": "1"}\n{"text": "c", "label": 1.0}\n{"text": "d", "label": true}\n', used=4, tasks=LABEL),
]  # fmt: skip
