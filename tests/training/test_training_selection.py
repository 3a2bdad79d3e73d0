"""Which evaluation is the best, and which may be thrown away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from equipoise.errors import RecipeError
from equipoise.tasks import kind
from equipoise.training import Selection


def tasks() -> dict[str, Any]:
    regression, classification = kind("regression"), kind("classification")
    return {
        "score": regression.fit("score", regression.Settings(type="regression"), pa.chunked_array([["0", "1", "2"]])),
        "label": classification.fit(
            "label", classification.Settings(type="classification"), pa.chunked_array([["a", "b"]])
        ),
    }


def evaluation(mse: float | None, f1: float) -> dict[str, dict[str, Any]]:
    return {"score": {"mse": mse, "pearson": 0.5}, "label": {"macro_f1": f1, "accuracy": 1 - f1}}


def test_mean_rank_by_hand() -> None:
    rule = Selection("mean_rank", tasks())
    # ranks: mse 3, 1, 2; macro F1 1, 2.5, 2.5 -> means 2, 1.75, 2.25
    found = [evaluation(0.3, 0.9), evaluation(0.1, 0.5), evaluation(0.2, 0.5)]
    assert rule.best(found) == 1
    assert rule.best(found[:1]) == 0


def test_the_earlier_of_two_equals_wins() -> None:
    rule = Selection("mean_rank", tasks())
    assert rule.best([evaluation(0.2, 0.5), evaluation(0.2, 0.5)]) == 0
    assert rule.best([evaluation(0.1, 0.5), evaluation(0.2, 0.6)]) == 0


def test_a_tie_in_rank_is_broken_by_the_distance_from_each_best() -> None:
    # mse gets worse, F1 better: every mean rank is 2. Distances: (0 + 1) / 2, (0.1 + 0.2) / 2, (1 + 0) / 2.
    found = [evaluation(0.1, 0.5), evaluation(0.2, 0.9), evaluation(1.1, 1.0)]
    assert Selection("mean_rank", tasks()).best(found) == 1
    assert Selection("mean_rank", tasks()).best([*found, evaluation(None, 1.1)]) == 1


def test_one_metric_goes_in_its_own_direction() -> None:
    found = [evaluation(0.3, 0.9), evaluation(0.1, 0.5)]
    assert Selection("score.mse", tasks()).best(found) == 1
    assert Selection("label.macro_f1", tasks()).best(found) == 0
    assert Selection("label.accuracy", tasks()).best(found) == 1


def test_a_metric_without_meaning_loses() -> None:
    assert Selection("score.mse", tasks()).best([evaluation(None, 0.9), evaluation(5.0, 0.1)]) == 1


def test_an_unknown_metric_lists_those_that_exist() -> None:
    with pytest.raises(RecipeError, match=r"score has no metric 'rmsle'\. It has mse, mae"):
        Selection("score.rmsle", tasks())


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_always_among_the_candidates_kept_so_far(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule, found, kept = Selection("mean_rank", tasks()), [], set()
    for step in range(12):
        found.append(evaluation(round(rng.random(), 1), round(rng.random(), 1)))
        kept |= {step}
        assert rule.best(found) in kept
        kept &= set(rule.candidates(found))
        assert kept
