"""How scores are spread: every one is counted once, grades by themselves, and regions come back as they went."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from equipoise.evaluation import score_histograms
from equipoise.evaluation._regions import ScoreRegions, score_regions
from equipoise.tasks import Task, kind


def score(**settings: object) -> Task:
    cls = kind("regression")
    return cls.fit("s", cls.Settings(**settings), pa.chunked_array([["-1", "0.5", "1"]]))


def test_bins_count_every_score_of_every_split() -> None:
    rng, task = np.random.default_rng(0), score(range=(-1, 1))
    targets = {
        "train": {"s": np.append(rng.uniform(-1, 1, 500), np.nan).astype(np.float32)},
        "test": {"s": rng.uniform(-0.5, 0.5, 70).astype(np.float32)},
    }
    found = json.loads(json.dumps(score_histograms({"s": task}, targets)))["s"]
    assert len(found["edges"]) == 41
    assert {split: sum(counts) for split, counts in found["counts"].items()} == {"train": 500, "test": 70}
    assert sum(found["regions"]["train_share"].values()) == pytest.approx(1)


def test_few_distinct_scores_are_grades_in_the_users_units() -> None:
    targets = {
        "train": {"s": np.array([0, 0.5, 0.5, np.nan], dtype=np.float32)},
        "test": {"s": np.array([1], np.float32)},
    }
    found = score_histograms({"s": score(range=(-10, 10))}, targets)["s"]
    assert found["values"] == [0, 5, 10]
    assert found["counts"] == {"train": [1, 2, 0], "test": [0, 0, 1]}


def test_classes_and_tasks_without_a_label_have_none() -> None:
    cls = kind("classification")
    label = cls.fit("l", cls.Settings(), pa.chunked_array([["a", "b"]]))
    empty = np.array([np.nan], dtype=np.float32)
    assert score_histograms({"l": label, "s": score()}, {"train": {"l": np.array([0.0], np.float32), "s": empty}}) == {}


@pytest.mark.parametrize(
    "scores", [np.random.default_rng(0).normal(size=500), np.array([1.0, 1, 1, 2, 2, 5]), np.array([3.0, 3, 3])]
)
def test_regions_come_back_as_they_went(scores: np.ndarray) -> None:
    regions = score_regions(scores)
    assert regions is not None
    again = ScoreRegions.from_dict(json.loads(json.dumps(regions.to_dict())))
    grid = np.linspace(scores.min() - 1, scores.max() + 1, 2001)
    np.testing.assert_array_equal(regions.of(grid), again.of(grid))
    assert again.to_dict() == regions.to_dict()
