"""The rules behind the report's words: beaten or not, held back or not, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FOUR, write_run

from equipoise.report._run_facts import RunFacts, read_run
from equipoise.report._run_held_back import balance_words, conflict_words, weighed
from equipoise.report._run_verdict import Standing, headline, sentence, standing


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    return read_run(write_run(tmp_path_factory.mktemp("words") / "run"))


def against(facts: RunFacts, value: float, interval: tuple[float, float] | None, **baselines: float) -> Standing:
    """How `label` (macro F1, higher is better) would stand with these figures."""
    task = next(one for one in facts.tasks if one.name == "label")
    low, high = interval or (value, value)
    verdicts = {
        key: "same" if low <= one <= high else "better" if value > one else "worse" for key, one in baselines.items()
    }
    return Standing(task, value, interval, 100, baselines, verdicts)


def with_baselines(facts: RunFacts, task: str, metric: str, **values: float | None) -> RunFacts:
    """The facts with other values of the baselines on test."""
    metrics = json.loads(json.dumps(facts.metrics))
    for key, value in values.items():
        metrics["baselines"]["test"][task][key] = None if value is None else {metric: value}
    return RunFacts(facts.run, metrics, facts.tasks, facts.backbone, facts.history, facts.recipe_text, facts.texts)


def test_a_baseline_inside_the_interval_is_not_told_apart(facts: RunFacts) -> None:
    label = next(one for one in facts.tasks if one.name == "label")
    found = standing(facts, label, "test")
    assert found is not None
    assert found.interval is not None
    assert found.value is not None
    low, high = found.interval
    assert low < found.value < high
    for value, verdict in ((low - 0.01, "better"), (low + 0.001, "same"), (high + 0.01, "worse")):
        again = standing(with_baselines(facts, "label", "macro_f1", tfidf=value), label, "test")
        assert again is not None
        assert again.against["tfidf"] == verdict
    none = standing(with_baselines(facts, "label", "macro_f1", tfidf=None), label, "test")
    assert none is not None
    assert set(none.against) == {"constant"}


def test_less_is_better_for_errors(facts: RunFacts) -> None:
    polarity = facts.tasks[0]
    found = standing(with_baselines(facts, "polarity", "mse", tfidf=9.0, constant=0.0001), polarity, "test")
    assert found is not None
    assert found.against == {"tfidf": "better", "constant": "worse"}
    assert found.skill(0.0) == pytest.approx(1)
    assert found.skill(0.0001) == pytest.approx(0)


def test_every_kind_has_an_interval_around_its_value(facts: RunFacts) -> None:
    for task in facts.tasks:
        found = standing(facts, task, "test")
        assert found is not None
        assert found.interval is not None
        assert found.value is not None
        assert found.interval[0] <= found.value <= found.interval[1]


def test_the_headline(facts: RunFacts) -> None:
    ahead = against(facts, 0.9, (0.85, 0.95), tfidf=0.6, constant=0.2)
    level = against(facts, 0.9, (0.85, 0.95), tfidf=0.87, constant=0.2)
    behind = against(facts, 0.1, (0.05, 0.15), tfidf=0.6, constant=0.2)
    start = "minilm, trained on 400 rows, "
    assert headline(facts, [ahead]) == f"{start}beats both baselines on its task label."
    assert headline(facts, [ahead, ahead]) == f"{start}beats both baselines on both tasks, label and label."
    assert headline(facts, [ahead] * 5) == f"{start}beats both baselines on all 5 tasks."
    assert headline(facts, [ahead, level, behind]) == f"{start}beats both baselines on 1 of 3 tasks: label."
    assert headline(facts, [level, behind]) == f"{start}beats the constant on 1 of 2 tasks, and TF-IDF on none."
    assert headline(facts, [level]) == f"{start}beats the constant on its task label, but not TF-IDF."
    assert headline(facts, [behind]) == f"{start}beats neither baseline on its task label."
    assert headline(facts, [behind] * 3) == f"{start}beats neither baseline on any of its 3 tasks."
    odd = against(facts, 0.5, (0.45, 0.55), tfidf=0.4, constant=0.5)
    assert headline(facts, [odd, level]) == f"{start}beats the constant on 1 of 2 tasks and TF-IDF on 1 of 2 tasks."
    assert headline(facts, []) == f"{start}could be compared with no baseline."


def test_the_sentence_of_a_task(facts: RunFacts) -> None:
    said = sentence(against(facts, 0.9, (0.85, 0.95), tfidf=0.87, constant=0.2))
    assert said == (
        "label: macro F1 0.900 (95 % interval 0.850 to 0.950) against 0.870 for TF-IDF and 0.200 for the constant; higher is "
        "better. Better than the constant, not told apart from TF-IDF."
    )
    assert sentence(against(facts, 0.1, None, tfidf=0.6, constant=0.2)).endswith("higher is better. Worse than both.")
    assert sentence(against(facts, 0.1, None)).endswith("There is no baseline to compare it with.")


def test_without_a_split_to_judge_on_the_headline_says_so(tmp_path: Path) -> None:
    facts = read_run(write_run(tmp_path / "run", {"polarity": FOUR["polarity"]}, rows={"train": 60}))
    found = standing(facts, facts.tasks[0], facts.judged)
    assert found is not None
    assert "the very rows that it was trained on" in headline(facts, [found])


# The balance ---------------------------------------------------------------------------------------------------------


def steps(
    *rows: dict[str, tuple[float | None, float | None]], cosines: list[dict[str, float]] | None = None
) -> list[Any]:
    """Lines of a history: task -> (weight, norm)."""
    lines = []
    for at, row in enumerate(rows):
        tasks = {
            name: {} if weight is None else {"weight": weight} | ({} if norm is None else {"norm": norm})
            for name, (weight, norm) in row.items()
        }
        lines.append({"step": 10 * at, "tasks": tasks, "cosines": (cosines or [{}] * len(rows))[at]})
    return lines


def test_a_loud_task_was_held_back_and_the_quiet_one_pushed() -> None:
    # Shares 0.4 and 1.6 of a mean weight of 1; norms 4 and 1, as DAO weighs them.
    found = weighed(steps(*[{"a": (0.4, 4.0), "b": (1.6, 1.0)}] * 4), ["a", "b"])
    assert [(one.share, one.below, one.above, one.norm_ratio) for one in found] == [(0.4, 1, 0, 4), (1.6, 0, 1, 0.25)]
    a, b = balance_words(found, "dao")
    assert a == (
        "a was held back: its weight was below 0.8 of a fair share in 100 % of the logged steps (median 0.40), because its "
        "gradient was 4.0 times the others', and would have drowned them."
    )
    assert "b was pushed" in b
    assert "only 0.25 times the others'" in b


def test_half_of_the_steps_is_not_most_of_them_and_the_longest_stretch_is_named() -> None:
    fair, held = {"a": (1.0, 1.0), "b": (1.0, 1.0)}, {"a": (0.5, 3.0), "b": (1.5, 1.0)}
    assert balance_words(weighed(steps(held, held, fair, fair), ["a", "b"]), "dao") == [
        "No task was held back or pushed for most of the training."
    ]
    said = balance_words(weighed(steps(held, fair, held, held, held), ["a", "b"]), "dao")
    assert "a was held back: its weight was below 0.8 of a fair share in 80 % of the logged steps" in said[0]
    assert "longest from step 20 to 40" in said[0]


def test_what_norms_do_not_explain_is_not_put_on_them() -> None:
    unmeasured = balance_words(weighed(steps(*[{"a": (0.4, None), "b": (1.6, None)}] * 3), ["a", "b"]), "uncertainty")
    assert all(
        said.endswith("Why is not in the history: uncertainty measures no gradient norms.") for said in unmeasured
    )
    quiet = balance_words(weighed(steps(*[{"a": (0.4, 1.0), "b": (1.6, 1.0)}] * 3), ["a", "b"]), "famo")
    assert "1.0 times the others', which doesn't explain it; but shares are of one whole, and b was pushed." in quiet[0]
    assert "1.0 times the others', which doesn't explain it: famo weighs by something else." in quiet[1]


def test_steps_that_a_task_is_missing_from_do_not_count_and_zero_weights_do() -> None:
    found = weighed(steps({"a": (1.0, 1.0), "b": (None, None)}, {"a": (0.0, 2.0), "b": (2.0, 1.0)}), ["a", "b"])
    assert [(one.task, one.share) for one in found] == [("a", 0.0), ("b", 2.0)]
    assert weighed(steps({"a": (0.0, 1.0), "b": (0.0, 1.0)}), ["a", "b"]) == []
    assert weighed(steps({"a": (1.0, 1.0)}), ["a"]) == []


def test_who_pulled_against_whom() -> None:
    row = {"a": (1.0, 1.0), "b": (1.0, 1.0)}
    apart = steps(
        row, row, row, cosines=[{"a|b": -0.4, "a|c": 0.3}, {"a|b": -0.2, "a|c": 0.1}, {"a|b": 0.1, "a|c": -0.1}]
    )
    assert conflict_words(apart) == [
        "a and b pulled against each other in 67 % of the logged steps (mean cosine −0.17)."
    ]
    together = conflict_words(steps(row, cosines=[{"a|b": 0.2}]))
    assert together == [
        "No two tasks pulled against each other for most of the training; the lowest mean cosine is that of a and b, +0.20."
    ]
    assert conflict_words(steps(row)) == []
