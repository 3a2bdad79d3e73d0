"""The shipped demo set is what its generator writes, and has the shape that its docstring promises."""

import csv
import re
import subprocess
import sys
from collections import Counter

import pytest

from equipoise import demo
from equipoise.demo._generate import ASPECTS, Row, as_csv, normalised, rows
from equipoise.demo._phrases import RISES, WORDS


@pytest.fixture(scope="module")
def made() -> list[Row]:
    return rows()


def test_the_shipped_file_is_the_generated_one(made: list[Row]) -> None:
    assert demo.path().read_bytes() == as_csv(made).encode()


def test_another_seed_gives_other_rows(made: list[Row]) -> None:
    other = rows(len(made), seed=8)
    assert len({row.text for row in other} & {row.text for row in made}) < len(made) / 5


def test_columns_count_and_ranges() -> None:
    with demo.path().open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        read = list(reader)
    assert reader.fieldnames == ["text", "score", "label", "aspect", "source"]
    assert len(read) == 1500
    assert all(-1.0 <= float(row["score"]) <= 1.0 for row in read)
    assert {row["label"] for row in read} == {"negative", "neutral", "positive"}
    assert {row["aspect"] for row in read} == set(ASPECTS)
    assert {row["source"] for row in read} == {"headline", "post"}


def test_mostly_neutral_few_extremes_slightly_positive(made: list[Row]) -> None:
    scores = [row.score for row in made]
    assert sum(abs(score) < 0.3 for score in scores) / len(scores) > 0.6
    assert 0 < sum(abs(score) > 0.8 for score in scores) / len(scores) < 0.06
    assert 0.0 < sum(scores) / len(scores) < 0.1


def test_classes_are_imbalanced_but_none_is_rare(made: list[Row]) -> None:
    labels, aspects = Counter(row.label for row in made), Counter(row.aspect for row in made)
    assert labels.most_common(1)[0][0] == "neutral"
    assert min(labels.values()) > 200
    assert aspects.most_common(1)[0][0] == "earnings"
    assert min(aspects.values()) > 60


def test_no_two_texts_are_the_same(made: list[Row]) -> None:
    assert len({normalised(row.text) for row in made}) == len(made)


def test_no_mark_of_the_grammar_is_left_in_a_text(made: list[Row]) -> None:
    assert not [row.text for row in made if set("{}[]|~_") & set(row.text) or "  " in row.text or " ," in row.text]


def test_the_label_goes_with_the_score_without_being_its_function(made: list[Row]) -> None:
    mean = {
        label: sum(row.score for row in made if row.label == label) / sum(row.label == label for row in made)
        for label in ("negative", "neutral", "positive")
    }
    assert mean["negative"] < -0.2 < mean["neutral"] < 0.2 < mean["positive"]
    by_score: dict[float, set[str]] = {}
    for row in made:
        by_score.setdefault(row.score, set()).add(row.label)
    assert sum(len(labels) > 1 for labels in by_score.values()) > 10


def test_the_same_verb_is_good_for_a_profit_and_bad_for_a_debt(made: list[Row]) -> None:
    def mean(subjects: list[str]) -> float:
        verbs = [verb for *forms, strength in RISES if strength > 0.2 for verb in forms]
        pattern = re.compile(rf"({'|'.join(subjects)}) ({'|'.join(verbs)})\b", re.IGNORECASE)
        found = [row.score for row in made if pattern.search(row.text)]
        assert len(found) >= 10
        return sum(found) / len(found)

    assert mean(WORDS["metric"]) > 0.2
    assert mean(WORDS["badmetric"]) < -0.2


def test_finding_the_file_imports_nothing_heavy() -> None:
    code = "import sys, equipoise.demo as d; d.path(); print({'torch', 'numpy', 'pandas'} & sys.modules.keys() or None)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "None"
