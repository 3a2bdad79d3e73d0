"""A whole comparison on a local Ray cluster of two workers gives what one process gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import equipoise as eq

pytest.importorskip("ray")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own files and sockets, closed when it is collected
def test_a_comparison_on_ray_is_the_local_one(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["training"] |= {"epochs": 1}
    asked: dict[str, Any] = {
        "methods": ["equal", "dao", "tuned-fixed", "single"],
        "arms": {"hot": {"training": {"learning_rate": 1e30, "max_grad_norm": None}}},
        "seeds": 2,
        "search_trials": 2,
        "threads": 1,
        "progress": False,
    }
    local = eq.compare(tiny_recipe, **asked, output=tmp_path / "local")
    spread = eq.compare(tiny_recipe, **asked, engine="ray", workers=2, output=tmp_path / "ray")
    order = ["arm", "seed", "split", "task", "metric"]
    left, right = (one.results.sort_values(order).reset_index(drop=True) for one in (local, spread))
    assert len(left) > 100
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    for found in (local, spread):
        hot = next(arm for arm in found.summary["arms"] if arm["arm"] == "hot")
        assert ["not finite" in one["reason"] for one in hot["failed"]] == [True, True]
