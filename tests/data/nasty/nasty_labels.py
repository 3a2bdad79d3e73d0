"""Labels that are no labels, or not those that they seem."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

from nasty.case import BASE, FREE_SCORE, HEAD, LABEL, SCORE, Case

SCORES = "text,score\na,0.5\nb,-0.5\n"
MANY = {"label": {"type": "multilabel"}}
ORDER = {"label": {"type": "ordinal"}}


def score(name: str, cell: str, value: float, tasks=SCORE) -> Case:
    """A cell that is a number; `value` is what the model shall learn (the range is that of the targets)."""

    def check(prepared):
        target = float(prepared.tasks["score"].decode(prepared.splits["train"].targets["score"])[-1])
        assert abs(target - value) <= 1e-6 * max(1, abs(value)), target

    return Case(name, SCORES + f'c,"{cell}"\n', used=3, tasks=tasks, check=check)


def no_score(name: str, cell: str, reason: str, tasks=SCORE) -> Case:
    return Case(name, SCORES + f'c,"{cell}"\n', used=2, rejected={reason: 1}, tasks=tasks)


def names(*wanted: str):
    def check(prepared):
        assert prepared.tasks["label"].to_dict()["labels"] == list(wanted)

    return check


NO_NUMBER = "score '.*' is not a number"
NOT_FINITE = "score '.*' is not a finite number"

CASES = [
    score("a sign and a point", "+.5", 0.5),
    score("a point at the end", "1.", 1.0),
    score("minus nothing", "-0", 0.0),
    score("scientific", "1e-3", 0.001),
    score("scientific, capital and signed", "-1.0E+0", -1.0),
    score("spaces around", "  0.25 ", 0.25),
    score("leading zeros", "000.5", 0.5),
    score("forty digits", "0.3333333333333333333333333333333333333333", 1 / 3),
    score("too small to be told from nothing", "1e-400", 0.0),
    score("large", "3e38", 3e38, FREE_SCORE),
    no_score("decimal comma", "1,5", NO_NUMBER),
    no_score("decimal comma and thousands", "1.000,5", NO_NUMBER),
    no_score("thousands", "1,000", NO_NUMBER),
    no_score("thousands by spaces", "1 000", NO_NUMBER),
    no_score("thousands by narrow spaces", "1\u202f000", NO_NUMBER),
    no_score("thousands by apostrophes", "1'000", NO_NUMBER),
    no_score("underscores", "1_0", NO_NUMBER),
    no_score("per cent", "50%", NO_NUMBER),
    no_score("money", "$1", NO_NUMBER),
    no_score("hexadecimal", "0x1", NO_NUMBER),
    no_score("a fraction", "1/2", NO_NUMBER),
    no_score("one half in one letter", "½", NO_NUMBER),
    no_score("arabic digits", "١", NO_NUMBER),
    no_score("wide digits", "１", NO_NUMBER),
    no_score("a real minus", "\u22121", NO_NUMBER),
    no_score("a dash", "–1", NO_NUMBER),
    no_score("two signs", "--1", NO_NUMBER),
    no_score("an exponent and nothing else", "e5", NO_NUMBER),
    no_score("an exponent without an end", "1e", NO_NUMBER),
    no_score("two points", "1.2.3", NO_NUMBER),
    no_score("a point", ".", NO_NUMBER),
    no_score("accounting", "(1)", NO_NUMBER),
    no_score("a word", "high", NO_NUMBER),
    no_score("a formula for a score", "=1/2", NO_NUMBER),
    no_score("true", "true", NO_NUMBER),
    no_score("NA for a score", "NA", NO_NUMBER),
    no_score("null for a score", "null", NO_NUMBER),
    no_score("an error of a sheet", "#N/A", NO_NUMBER),
    no_score("nan", "nan", NOT_FINITE),
    no_score("NaN with a sign", "-NaN", NOT_FINITE),
    no_score("inf", "inf", NOT_FINITE),
    no_score("minus infinity", "-Infinity", NOT_FINITE),
    no_score("out of range", "1.0001", r"score '1\.0001' is outside the range \[-1, 1\]"),
    no_score("out of range by far", "1e999", r"outside the range \[-1, 1\]"),
    no_score("four hundred digits", "1" * 400, r"outside the range"),
    no_score("too large for 32 bits", "1e39", "score '1e39' is too large for a 32-bit number", FREE_SCORE),
    no_score("too large for 64 bits", "1e999", "score '1e999' is too large for a 32-bit number", FREE_SCORE),
    no_score("five thousand digits", "9" * 5000, "is too large for a 32-bit number", FREE_SCORE),
    Case("no score at all", "text,score\na,\nb,\n", tasks=SCORE, error=r"2 of 2 rows cannot be used .*no label for any task"),
    Case("a missing score", SCORES + "c,\n", used=2, rejected={r"no label for any task \(in score\)": 1}, tasks=SCORE),
    Case("a constant score", "text,score\na,0.5\nb,0.5\n", tasks=FREE_SCORE, error="every score of the training split is 0.5; there is nothing"),
    Case("a constant score in a range", "text,score\na,0.5\nb,0.5\n", used=2, tasks=SCORE),
    Case("one row", "text,score\na,0.5\n", used=1, tasks=SCORE),
    Case("words for scores", "text,score\na,high\nb,low\n", tasks=SCORE, error=r"none of the 2 training rows has a usable score: score 'high' is not"),
    Case("more bins than scores", SCORES, error="band: 5 bins need as many distinct values", tasks={**SCORE, "band": {"type": "classification", "from": "score", "bins": 5}}),
    # Classes
    Case("dates", HEAD + "a,2024-01-31\nb,31.01.2024\nc,2024-01-31\n", used=3, check=names("2024-01-31", "31.01.2024")),
    Case("booleans", HEAD + "a,true\nb,FALSE\nc,True\n", used=3, check=names("FALSE", "True", "true")),
    Case("words for missing", HEAD + "a,NA\nb,null\nc,None\nd,nan\n", used=4, check=names("NA", "None", "nan", "null")),
    Case("numbers in order", HEAD + "a,10\nb,9\nc,-1\n", used=3, check=names("-1", "9", "10")),
    Case("numbers that are the same", HEAD + "a,1\nb,1.0\nc,01\n", used=3, check=names("01", "1", "1.0")),
    Case("a formula for a class", HEAD + "a,=1+1\nb,@x\nc,-\n", used=3, check=names("-", "=1+1", "@x")),
    Case("spaces around classes", HEAD + "a,pos\nb, pos \nc,neg\n", used=3, check=names("neg", "pos")),
    Case("case", HEAD + "a,pos\nb,Pos\nc,POS\n", used=3, check=names("POS", "Pos", "pos")),
    Case("case, folded", HEAD + "a,pos\nb,Pos\nc,NEG\n", used=3, tasks={"label": {"type": "classification", "casefold": True}}, check=names("neg", "pos")),
    Case("composed and decomposed", HEAD + "a,caf\u00e9\nb,cafe\u0301\n", used=2, check=lambda prepared: _told(prepared, "read alike")),
    Case("letters that look alike", HEAD + "a,pos\nb,p\u043es\n", used=2),
    Case("zero width spaces in classes", HEAD + "a,pos\nb,p\u200bos\n", used=2, check=lambda prepared: _told(prepared, "read alike")),
    Case("line ends in classes", HEAD + 'a,"p\no\rs"\nb,neg\n', used=2),
    Case("slashes and quotes in classes", HEAD + "a,p/o's\nb,n/\"g\n", used=2, check=names('n/"g', "p/o's")),
    Case("emoji classes", HEAD + "a,🙂\nb,🙁\n", used=2),
    Case("a class of 100,000 characters", HEAD + f"a,{'p' * 100_000}\nb,neg\n", used=2),
    Case("a class of 100,000 characters that is unknown", HEAD + f"a,pos\nb,neg\nc,{'p' * 100_000}\n", used=2, rejected={r"label 'p{57}\.\.\.' is not one of pos, neg": 1}, tasks={"label": {"type": "classification", "labels": ["pos", "neg"]}}),
    Case("one class", HEAD + "a,pos\nb,pos\n", error="label: only the class 'pos' in column 'label' of the 2 training rows"),
    Case("no label", HEAD + "a,\nb,\n", error=r"2 of 2 rows cannot be used .*no label for any task \(in label\)"),
    Case("labels of spaces", BASE + "c,  \n", used=2, rejected={"no label for any task": 1}),
    Case("a thousand classes", HEAD + "".join(f"t{i},c{i}\n" for i in range(1000)), used=1000),
    Case("ten thousand classes", HEAD + "".join(f"t{i},c{i}\n" for i in range(10_000)), error="holds 10000 different labels, such as 'c0'"),
    Case("a text for a label", HEAD + "".join(f"t{i},some long words {i}\n" for i in range(1001)), error="Is it a score .* or a text"),
    Case("unknown classes with apostrophes", HEAD + "a,x\nb,y\n" + "".join(f"t{i},don't {i} 'n' {i}\n" for i in range(50)), used=2, rejected={"is not one of x, y": 50}, tasks={"label": {"type": "classification", "labels": ["x", "y"]}}),
    Case("a task without labels", "text,label,topic\na,x,\nb,y,\n", error="task 'topic': none of the 2 training rows carries a label", tasks={**LABEL, "topic": LABEL["label"]}),
    Case("two tasks of one column", BASE, used=2, tasks={**LABEL, "again": {"type": "classification", "column": "label"}}),
    Case("an order that is not known", HEAD + "a,low\nb,high\n", error="label: the order of high, low is not known", tasks=ORDER),
    Case("stars", HEAD + "a,1\nb,5\nc,10\n", used=3, tasks=ORDER, check=names("1", "5", "10")),
    Case("several classes", HEAD + "a,x|y\nb,y\nc,\"[\"\"x\"\", \"\"z\"\"]\"\nd,[]\n", used=4, tasks=MANY, check=names("x", "y", "z")),
    Case("only separators", HEAD + "a,x|y\nb,||\n", used=1, rejected={"names no class": 1}, tasks=MANY),
    Case("half a list", HEAD + "a,x|y\nb,\"[\"\"x\"\"\"\n", used=1, rejected={"is not a JSON list": 1}, tasks=MANY),
    Case("a list of other things", HEAD + "a,x|y\nb,\"[1, null]\"\nc,[[]]\nd,[true]\n", used=1, rejected={"is not a JSON list of class names": 3}, tasks=MANY),
    Case("a list without a bottom", HEAD + "a,x|y\nb," + "[" * 100_000 + "\n", used=1, rejected={"is not a JSON list": 1}, tasks=MANY),
    Case("a list with a number of 5,000 digits", HEAD + "a,x|y\nb,[" + "1" * 5000 + "]\n", used=1, rejected={"is not a JSON list": 1}, tasks=MANY),
]  # fmt: skip


def _told(prepared, words: str) -> None:
    assert any(words in warning for warning in prepared.report["warnings"]), prepared.report["warnings"]
