"""Bytes that are no UTF-8, or more than UTF-8."""

from __future__ import annotations

from nasty.case import BASE, HEAD, TWO, Case

UTF8 = {r"column 'text' is not valid UTF-8": 1}
COLUMN = r"t\.csv: the name of column \d is not valid UTF-8\. Save the file as UTF-8"


def bytes_in_a_text(name: str, words: bytes) -> Case:
    return Case(name, BASE.encode() + words + b",pos\n", used=2, rejected=UTF8)


CASES = [
    Case("plain", used=2),
    Case("byte order mark", "\ufeff" + BASE, used=2),
    Case("two byte order marks", "\ufeff\ufeff" + BASE, used=2),
    Case("byte order mark and blank lines", "\ufeff\n\n" + BASE, used=2),
    Case("byte order mark in front of a quoted name", '\ufeff"text",label\n' + TWO, used=2),
    Case("two files with marks, one behind the other", BASE + "\ufeff" + BASE, used=5),
    Case("only a byte order mark", "\ufeff", error=r"t\.csv is empty\. It needs a header line and rows"),
    Case(
        "utf-16 little", b"\xff\xfe" + BASE.encode("utf-16-le"), error=r"t\.csv is UTF-16, not UTF-8\. Save it as UTF-8"
    ),
    Case("utf-16 big", b"\xfe\xff" + BASE.encode("utf-16-be"), error=r"t\.csv is UTF-16, not UTF-8"),
    Case("utf-32 little", b"\xff\xfe\0\0" + BASE.encode("utf-32-le"), error=r"t\.csv is UTF-32, not UTF-8"),
    Case("utf-32 big", b"\0\0\xfe\xff" + BASE.encode("utf-32-be"), error=r"t\.csv is UTF-32, not UTF-8"),
    Case("utf-16 little without a mark", BASE.encode("utf-16-le"), error=COLUMN),
    Case("utf-16 big without a mark", BASE.encode("utf-16-be"), error=COLUMN),
    Case("utf-32 without a mark", BASE.encode("utf-32-le"), error=COLUMN),
    Case("utf-16 json", b"\xff\xfe" + '{"text": "a"}\n'.encode("utf-16-le"), file="t.jsonl", error="is UTF-16"),
    Case("ebcdic", BASE.encode("cp500"), error=r"not valid UTF-8|is not in"),
    bytes_in_a_text("latin-1", "café au lait".encode("latin-1")),
    bytes_in_a_text("cp1252 quotes", b"\x93so they say\x94"),
    bytes_in_a_text("shift-jis", "良い知らせ".encode("shift-jis")),
    bytes_in_a_text("gbk", "好消息".encode("gbk")),
    bytes_in_a_text("koi8-r", "хорошо".encode("koi8-r")),
    bytes_in_a_text("cp1256", "خبر جيد".encode("cp1256")),
    bytes_in_a_text("euc-kr", "좋은 소식".encode("euc-kr")),
    bytes_in_a_text("an overlong slash", b"a\xc0\xafb"),
    bytes_in_a_text("an overlong NUL", b"a\xc0\x80b"),
    bytes_in_a_text("half a surrogate pair", b"a\xed\xa0\x80b"),
    bytes_in_a_text("beyond Unicode", b"a\xf4\x90\x80\x80b"),
    bytes_in_a_text("a form of five bytes", b"a\xf8\x88\x80\x80\x80b"),
    bytes_in_a_text("a lone continuation byte", b"a\x80b"),
    bytes_in_a_text("0xff", b"a\xffb"),
    Case(
        "cut in the middle of a character",
        (BASE + "neu,ä").encode()[:-1],
        used=2,
        rejected={"column 'label' is not valid": 1},
    ),
    Case(
        "latin-1 label",
        BASE.encode() + b"words,n\xe9gatif\n",
        used=2,
        rejected={r"column 'label' is not valid UTF-8": 1},
    ),
    Case(
        "latin-1 in another column",
        b"text,label,who\na,x,Ren\xe9\nb,y,Eve\nc,x,Bob\n",
        used=2,
        rejected={"column 'who' is not": 1},
    ),
    Case("latin-1 header", b"text,label,caf\xe9\na,x,1\nb,y,2\n", error=r"the name of column 3 is not valid UTF-8"),
    Case("noncharacters", BASE + "a\ufffe\uffffb,pos\n", used=3),
    Case("private use", BASE + "\ue000\U000f0000 words,pos\n", used=3),
    Case("replacement characters", BASE + "\ufffd\ufffd,pos\n", used=3),
    Case("utf-7 is text like any other", BASE + "+AGEAYg- words,pos\n", used=3),
    Case("mojibake is text like any other", BASE + "cafÃ© au lait,pos\n", used=3),
    Case("NUL in a text", BASE + "a\0b,pos\n", used=2, rejected={"column 'text' holds a NUL character": 1}),
    Case("NUL in a label", BASE + "words,p\0s\n", used=2, rejected={"column 'label' holds a NUL character": 1}),
    Case("NUL in the header", "te\0xt,label\n" + TWO, error=COLUMN),
    Case("nothing but NUL", b"\0" * 1000, error=COLUMN),
    Case(
        "every control character",
        BASE + "".join(map(chr, [*range(1, 10), *range(11, 13), *range(14, 32)])) + "a,pos\n",
        used=3,
    ),
    Case("the end of file of old", BASE + "\x1a", used=2, rejected={"has 1 cell, the header has 2": 1}),
    Case("line ends that are none", BASE + "a\x0bb\x0cc\x85d\u2028e\u2029f,pos\n", used=3),
    Case("a terminal's escapes", BASE + "\x1b[2J\x1b]0;mine\x07 words,pos\n", used=3),
    Case("every byte", HEAD.encode() + bytes(range(256)), error=r"cannot be used|at least two classes"),
    Case("noise", bytes((i * 167 + 13) % 251 for i in range(4096)), error=r"t\.csv"),
]
