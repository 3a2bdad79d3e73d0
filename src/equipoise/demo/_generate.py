"""Writes the demo set from the templates: same seed, same bytes, on every machine.

How a row comes about: a template is drawn (small moves and plain facts most often), its slots are filled, and every
slot that carries feeling moves the score. The sum is then blurred twice, as people would blur it: a rater's noise on
the score, and an annotator with thresholds, noise and slips of attention of their own on the label.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from equipoise.demo._phrases import AFTERWORDS, CLOSERS, FALLS, OPENERS, RISES, TAILS, WORDS
from equipoise.demo._templates import TEMPLATES

ASPECTS = {"earnings": 0.34, "market": 0.21, "products": 0.18, "deals": 0.13, "management": 0.08, "legal": 0.06}
SOURCES = {"headline": 0.62, "post": 0.38}
PLAIN_SHARE = 0.44  # rows that state a fact and nothing more, before the small moves are added to them
MOVING_SHARE = 0.4  # of the others are about something that rises or falls
SCORE_NOISE = 0.07  # standard deviation of the rater
LABEL_NOISE = 0.08  # of the annotator, who did not see the score
LABEL_THRESHOLD = 0.16
SLIPS = 0.04  # of the aspects, and of the labels that are not obvious, are off for no reason at all
AFTERWORD_SHARE = 0.2
HELD_BACK = 0.6  # of the bad news is drawn again: companies announce the good kind more readily
TYPO_SHARE = 0.05  # of the posts

T = TypeVar("T")
_MARK = re.compile(r"\[([^\[\]]*)\]|\{([a-z0-9]+)(!?)\}")


class Row(NamedTuple):
    """One line of the demo set."""

    text: str
    score: float
    label: str
    aspect: str
    source: str


class _Template(NamedTuple):
    base: float
    text: str
    moves: bool  # something in it rises or falls
    plain: bool  # says nothing about good or bad, whatever fills its slots


class _Dice:
    """Random draws built on `random()` alone, the one generator that Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def index(self, length: int) -> int:
        return int(self._random() * length)

    def pick(self, items: list[T]) -> T:
        return items[self.index(len(items))]

    def weighted(self, shares: dict[str, float]) -> str:
        point = self._random() * sum(shares.values())
        for name, share in shares.items():
            point -= share
            if point < 0:
                return name
        return next(reversed(shares))  # rounding left a crumb

    def normal(self, deviation: float) -> float:
        # Twelve uniforms make a bell curve without the C library's logarithm, whose last bit differs between machines.
        return deviation * (sum(self._random() for _ in range(12)) - 6.0)


def _templates(block: str) -> list[_Template]:
    templates = []
    for line in block.strip().splitlines():
        base, _, text = line.partition(" ")
        moves = any("{" + verb in text for verb in ("rise", "rose", "fall", "fell", "move"))
        plain = abs(float(base)) < 0.05 and not (moves or "~" in text or "tail}" in text)
        templates.append(_Template(float(base), text, moves, plain))
    return templates


class _Writer:
    """Fills one template; remembers the company, the last movement and amount, so that a row agrees with itself."""

    def __init__(self, dice: _Dice, source: str, base: float) -> None:
        self.dice, self.score = dice, base
        self.strength = 0.3
        self.currency = dice.pick(["$", "$", "€", "£"])
        self.millions: float | None = None
        first = dice.index(len(WORDS["name"]))
        second = (first + 1 + dice.index(len(WORDS["name"]) - 1)) % len(WORDS["name"])
        self.name, other = WORDS["name"][first], WORDS["name"][second]
        suffix = dice.pick(WORDS["suffix"]) if source == "headline" else ""
        letters = [letter for letter in self.name.upper() if letter.isalpha()]
        ticker = "".join([letters[0], *(x for x in letters[1:] if x not in "AEIOU")])[:5]
        self.slots: dict[str, Callable[[], str]] = {
            "co": lambda: self.name + suffix,
            "co2": lambda: other,
            "tick": lambda: "$" + ticker,
            "tag": lambda: self.name.replace(" ", "").replace("&", ""),
            "pct": self._percent,
            "smallpct": lambda: f"{dice.between(0.5, 9.5):.1f}%",
            "bigpct": lambda: f"{dice.between(35, 72):.0f}%",
            "amt": self._amount,
            "cents": lambda: f"{dice.between(3, 96):.0f} cents",
            "price": lambda: f"${dice.between(3, 140):.2f}",
            "count": lambda: f"{10 * round(dice.between(6, 480)):,}",
            "day": lambda: str(1 + dice.index(28)),
            "n": lambda: str(2 + dice.index(8)),
            "yr": lambda: str(2026 + dice.index(3)),
            "past": lambda: str(2015 + dice.index(9)),
        }

    def fill(self, text: str) -> str:
        """Resolves the marks from left to right: what stands later may depend on what was said before."""
        while mark := _MARK.search(text):
            choices, slot, flip = mark.groups()
            filled = self._slot(slot, flip) if slot else self._choice(choices)
            text = text[: mark.start()] + filled + text[mark.end() :]
        return text

    def _feel(self, delta: float) -> None:
        # What points the same way adds less and less: a disaster with a bad ending is not twice a disaster.
        agrees = delta * self.score > 0
        self.score += delta * (1 - abs(self.score)) if agrees else delta

    def _choice(self, choices: str) -> str:
        text, _, delta = self.dice.pick(choices.split("|")).partition("~")
        self._feel(float(delta or 0))
        return text

    def _slot(self, slot: str, flip: str) -> str:
        if slot in self.slots:
            return self.slots[slot]()
        if slot in TAILS:
            return self._tail(slot)
        if slot in WORDS:
            return self.dice.pick(WORDS[slot])
        up = self.dice.chance(0.66) if slot.startswith("move") else slot in ("rises", "rise", "rose")
        verbs = RISES if up else FALLS
        *forms, self.strength = verbs[int(len(verbs) * self.dice.between(0, 1) ** 1.25)]
        self._feel(self.strength if up != bool(flip) else -self.strength)
        tense = {"rises": 0, "falls": 0, "moves": 0, "rise": 1, "fall": 1, "move": 1}.get(slot, 2)
        return forms[tense]

    def _tail(self, slot: str) -> str:
        if self.dice.chance(0.5):
            return ""
        text, delta = self.dice.pick(TAILS[slot]["good" if self.score > 0 else "bad"])
        self._feel(delta)
        return text

    def _percent(self) -> str:
        low, high = next(span for top, span in _PERCENT if self.strength <= top)
        value = self.dice.between(low, high)
        return f"{value:.1f}%" if value < 10 and self.dice.chance(0.7) else f"{max(1, round(value))}%"

    def _amount(self) -> str:
        dice = self.dice
        if self.millions is None:
            self.millions = dice.between(1000, 9000) if dice.chance(0.2) else dice.between(2, 950)
        else:
            self.millions *= dice.between(0.7, 1.4)
        value, unit = (self.millions / 1000, "billion") if self.millions >= 1000 else (self.millions, "million")
        number = f"{value:.1f}" if value < 20 else f"{value:.0f}"
        return self.currency + number + (" " + unit if dice.chance(0.6) else {"billion": "bn", "million": "m"}[unit])


# Strength of a movement -> the percentages that go with it.
_PERCENT = [(0.12, (0.2, 1.9)), (0.32, (2.0, 11.0)), (0.56, (9.0, 28.0)), (1.0, (21.0, 64.0))]


def _post_style(dice: _Dice, text: str) -> str:
    """What makes a post a post: small letters, an opening, an afterthought, now and then a slip of the finger."""
    if dice.chance(0.3) and not text[:2].isupper():
        text = text[0].lower() + text[1:]
    if dice.chance(0.1):
        text = dice.pick(OPENERS) + text
    if dice.chance(TYPO_SHARE):
        words = text.split(" ")
        long = [i for i, word in enumerate(words) if len(word) > 5 and word.isalpha() and word.islower()]
        if long:
            at = dice.pick(long)
            cut = 1 + dice.index(len(words[at]) - 3)
            words[at] = words[at][:cut] + words[at][cut + 1] + words[at][cut] + words[at][cut + 2 :]
        text = " ".join(words)
    return text


def _row(dice: _Dice, template: _Template, aspect: str, source: str) -> Row:
    writer = _Writer(dice, source, template.base)
    text = writer.fill(template.text).strip()
    if source == "post":
        text = _post_style(dice, text)
    if dice.chance(AFTERWORD_SHARE) and len(text.split()) < 14:
        thoughts = AFTERWORDS[source][_mood(writer.score)]
        if aspect == "market":  # what the shares did has been said
            thoughts = [thought for thought in thoughts if "shares" not in thought[0]]
        afterword, scale, shift = dice.pick(thoughts)
        text += writer.fill(_stopped(text, afterword))
        writer.score = writer.score * scale + shift
    if source == "post" and dice.chance(0.22):
        text += writer.fill(_stopped(text, dice.pick(CLOSERS[_mood(writer.score)])))
    if source == "headline" or dice.chance(0.5):
        text = text[0].upper() + text[1:]
    text = re.sub(r" +([,;. ])", r"\1", text)  # an empty choice leaves its blank behind
    text = re.sub(r"\ba (?=(8[\d.]*|11|18)%)", "an ", text)
    score = max(-1.0, min(1.0, writer.score + dice.normal(SCORE_NOISE)))
    if dice.chance(SLIPS):
        aspect = dice.weighted(ASPECTS)
    return Row(text, round(score, 2) + 0.0, _label(dice, writer.score), aspect, source)


def _mood(score: float) -> str:
    return "flat" if abs(score) < 0.12 else "good" if score > 0 else "bad"


def _stopped(text: str, afterword: str) -> str:
    """A sentence that follows another one needs a full stop before it; a hashtag or a clause does not."""
    return "." + afterword if afterword[:1] == " " and afterword[1:2].isupper() and text[-1] not in ".!?" else afterword


def _label(dice: _Dice, score: float) -> str:
    """An annotator's class: the same text, another person, thresholds that waver."""
    felt = score + dice.normal(LABEL_NOISE)
    level = (felt > LABEL_THRESHOLD) - (felt < -LABEL_THRESHOLD)
    if dice.chance(SLIPS) and abs(felt) < 0.5:
        level = 0 if level else dice.pick([-1, 1])
    return {-1: "negative", 0: "neutral", 1: "positive"}[level]


def normalised(text: str) -> str:
    """The text as far as it can tell two rows apart: letters and digits, in small letters."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def rows(count: int = 1500, seed: int = 7) -> list[Row]:
    """Makes the demo set.

    Args:
        count: Number of rows.
        seed: Same seed, same rows.

    Returns:
        Rows in random order, no two with the same text after normalisation.
    """
    dice = _Dice(seed)
    pools = {key: _templates(block) for key, block in TEMPLATES.items()}
    used: dict[str, int] = {}
    seen: set[str] = set()
    made: list[Row] = []
    while len(made) < count:
        aspect, source, plain = dice.weighted(ASPECTS), dice.weighted(SOURCES), dice.chance(PLAIN_SHARE)
        pool = [template for template in pools[aspect, source] if template.plain == plain]
        if not plain and dice.chance(MOVING_SHARE):
            pool = [template for template in pool if template.moves] or pool
        # The less worn of two: every template gets its turn, none in a fixed order.
        template = min(dice.pick(pool), dice.pick(pool), key=lambda one: used.get(one.text, 0))
        if template.base < -0.2 and dice.chance(HELD_BACK):
            template = dice.pick(pool)
        row = _row(dice, template, aspect, source)
        if normalised(row.text) not in seen:
            seen.add(normalised(row.text))
            used[template.text] = used.get(template.text, 0) + 1
            made.append(row)
    return made


def as_csv(made: list[Row]) -> str:
    """The rows as a CSV file's text, with Unix line ends everywhere."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows((row.text, f"{row.score:.2f}", *row[2:]) for row in made)
    return buffer.getvalue()
