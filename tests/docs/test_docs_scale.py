"""The cost model of docs/scale.md, on values computed by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _scale_model

    yield _scale_model
    sys.modules.pop("_scale_model", None)


def rates(model: Any) -> Any:
    return model.Rates(
        rows_per_second={1: 100.0, 2: 50.0}, file_s=0.5, start_s={1: 2.0, 2: 3.0}, load_s={1: 1.0, 2: 1.5},
        identity_s=0.1, cluster_s=4.0, dataset_s=5.0, bundle_s=0.25, stop_s=1.0,
    )  # fmt: skip


def test_each_bundle_goes_to_the_worker_that_is_free_first(model: Any) -> None:
    assert model.finish([3, 2, 2, 1], 2) == 4
    assert model.finish([1, 1, 3], 2) == 4  # the longest last: one works alone
    assert model.finish([5], 4) == 5
    assert model.finish([], 3) == 0


def test_wall_time_of_one_machine(model: Any) -> None:
    bundles = [[100], [50, 50]]
    before = 2.0 + 0.1 + 4.0 + 5.0
    one = before + (2.0 + 1.0) + (0.25 + 0.5 + 1.0) + (0.25 + 2 * 0.5 + 1.0) + 1.0
    assert model.predicted_seconds(bundles, 1, rates(model)) == pytest.approx(one)
    # Side by side each is half as fast; the second bundle takes longest.
    two = before + (3.0 + 1.5) + (0.25 + 2 * 0.5 + 2.0) + 1.0
    assert model.predicted_seconds(bundles, 2, rates(model)) == pytest.approx(two)


def test_a_plan_counts_storage_and_failures(model: Any) -> None:
    assumed = model.Assumed(rows=10_000, rows_per_file=1_000, storage_mb_s=1.0, failures_per_machine_hour=0.0)
    asked = {"name": "m", "machines": 1, "workers": 2, "row_s": 0.01, "rates": rates(model)}
    found = model.plan(**asked, bytes_row={"in": 100.0, "out": 300.0}, assumed=assumed)
    # 0.5 MB a file at half a megabyte a second each.
    seconds = 0.5 + 10.0 + 1.0
    assert found["files"] == 10
    assert found["minutes_a_file"] == pytest.approx(seconds / 60)
    assert found["share_storage"] == pytest.approx(1.0 / seconds)
    assert found["hours"] == pytest.approx((11.1 + 4.5 + 5 * (seconds + 0.25) + 1.0) / 3600)
    failing = model.Assumed(10_000, 1_000, 1.0, failures_per_machine_hour=1.0, restart_s=30.25)
    worse = model.plan(**asked, bytes_row={"in": 100.0, "out": 300.0}, assumed=failing)
    assert worse["share_lost"] == pytest.approx((seconds / 2 + 30.25) / 3600)
    assert worse["hours"] == pytest.approx(found["hours"] / (1 - worse["share_lost"]))
