"""Texts in every script, and texts that are none."""

# ruff: noqa: E501  (one case a line)
from __future__ import annotations

from nasty.case import BASE, LABEL, Case

UNSEEN = {"column 'text' holds no character that can be seen": 1}
EMPTY = {"column 'text' is empty": 1}


def text_of(words: str):
    """The text of the last row is as it was written, but for what the table's format takes away."""

    def check(prepared):
        assert prepared.splits["train"].text_list([-1 + len(prepared.splits["train"])]) == [words]

    return check


def good(name: str, words: str) -> Case:
    quoted = '"' + words.replace('"', '""') + '"'
    return Case(name, BASE + f"{quoted},pos\n", used=3, check=text_of(words))


def unseen(name: str, words: str) -> Case:
    return Case(name, BASE + f'"{words}",pos\n', used=2, rejected=UNSEEN)


def blank(name: str, words: str) -> Case:
    return Case(name, BASE + f'"{words}",pos\n', used=2, rejected=EMPTY)


CASES = [
    good("arabic", "خبر جيد جدا"),
    good("hebrew with points", "חֲדָשׁוֹת טוֹבוֹת"),
    good("thai, no spaces", "ข่าวดีมาก"),
    good("devanagari", "अच्छी ख़बर"),
    good("japanese", "とても良いニュースです。"),
    good("a family of emoji", "👨‍👩‍👧‍👦 🏳️‍🌈 ❤️‍🔥"),
    good("flags", "🇫🇷🇩🇪🇺🇳"),
    good("emoji alone", "🙂"),
    good("combining characters", "cafe\u0301 nai\u0308ve"),
    good("stacked marks", "z" + "\u0301\u0316\u0334" * 40),
    good("marks without a letter", "\u0301\u0302"),
    good("a right-to-left override", "good \u202ewen\u202c s"),
    good("isolates", "\u2067abc\u2069 \u2066def\u2069"),
    good("wide letters", "ＧＯＯＤ　ＮＥＷＳ"),
    good("mathematical letters", "𝔤𝔬𝔬𝔡 𝓃𝑒𝓌𝓈"),
    good("jamo", "\u1112\u1161\u11ab"),
    good("beyond the first plane", "𓀀𓁐 𐍈"),
    good("hidden tags", "a\U000e0061\U000e0062"),
    good("variation selectors", "☎\ufe0e ☎\ufe0f"),
    good("a joiner between letters", "a\u200db"),
    good("one letter", "x"),
    good("punctuation", "?!"),
    good("the text NA", "NA"),
    good("the text null", "null"),
    good("the text None", "None"),
    good("the text nan", "nan"),
    good("the text true", "true"),
    good("the text 0", "0"),
    good("the text -1.5", "-1.5"),
    good("a formula", '=HYPERLINK("http://example.org/"&A1,"look")'),
    good("a command", "=cmd|' /C calc'!A0"),
    good("an at sign first", "@SUM(1+1)"),
    good("a script", "<script>alert(1)</script><img src=x onerror=alert(1)>"),
    good("sql", "'); DROP TABLE texts;--"),
    good("a template", "{{7*7}} ${7*7} %s %n {0.__class__}"),
    good("a path", "../../../etc/passwd"),
    good("backslashes", "a\\nb\\0c\\"),
    good("special tokens of models", "[CLS] [SEP] <s> </s> <|endoftext|> [MASK]"),
    good("quotes in quotes", 'he said "no", twice'),
    good("a hundred thousand characters", "words " * 16_666 + "more"),
    good("a word without an end", "x" * 200_000),
    good("marks by the hundred thousand", "a" + "\u0316\u0300" * 50_000),  # a naive normaliser needs minutes
    good("letters that grow when normalised", "\ufdfa" * 20_000),
    blank("spaces", "    "),
    blank("tabs and line ends", "\t\r\n \n"),
    blank("no-break spaces", "\u00a0\u00a0"),
    blank("ideographic spaces", "\u3000"),
    blank("nothing", ""),
    unseen("zero width spaces", "\u200b\u200b"),
    unseen("joiners", "\u200c\u200d"),
    unseen("soft hyphens", "\u00ad"),
    unseen("a byte order mark", "\ufeff"),
    unseen("direction marks among spaces", "\u200e \u200f \u202a"),
    unseen("word joiners", "\u2060 \u2060"),
    unseen("control characters", "\x01\x02"),
    Case("identical rows", BASE * 1 + "good words,pos\n" * 5, used=7),
    Case("one text, two labels", BASE + "good words,neg\n", used=3),
    Case(
        "identical rows and a share of them", "text,label\n" + "good words,pos\n" * 9 + "good words,neg\n" * 9,
        error=r"the validation split is empty before its labels are read \(train has 18 rows\)", data={"validation": 0.5},
    ),
    Case(
        "the same file as train and test", BASE, used=4, data={"test": "{folder}/t.csv"},
        check=lambda prepared: _leaks(prepared, 2),
    ),
    Case("the text is the label", BASE, error=r"task 'label' reads the column 'label', which is the text", text="label"),
    Case("the text is a task", BASE, error=r"task 'text' reads the column 'text', which is the text", tasks={"text": LABEL["label"]}),
    Case("half a pair", "a,b,label\nx,y,p\nv,w,n\nx,,p\n,y,p\n", used=2, text=["a", "b"], rejected={"column 'b' is": 1, "column 'a' is": 1}),
    Case("a pair of one", BASE, error="task 'label' reads the column 'label'", text=["text", "label"]),
]  # fmt: skip


def _leaks(prepared, rows: int) -> None:
    assert prepared.report["leaks"]["train/test"]["rows"] == rows
    assert any("a text that is in test too" in warning for warning in prepared.report["warnings"])
