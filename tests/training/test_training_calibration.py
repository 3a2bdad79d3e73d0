"""Outputs that are drawn to validation's labels after the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.errors import RecipeError
from equipoise.models import load_model
from equipoise.tasks import Task, kind
from equipoise.training import make_plan, run_trial

LABELS = pa.chunked_array([["-1", "0", "0.5", "1"]])


def score(**settings: Any) -> Task:
    regression = kind("regression")
    return regression.fit("polarity", regression.Settings(range=(-1, 1), **settings), LABELS)


def overconfident(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs twice as far out as they should be, with a shift."""
    generator = np.random.default_rng(seed)
    targets = generator.uniform(-1, 1, rows).astype(np.float32)
    outputs = 2 * targets + 0.3 + generator.normal(0, 0.2, rows)
    return outputs.astype(np.float32)[:, None], targets


def test_the_line_is_least_squares() -> None:
    outputs, targets = overconfident(200)
    found = score().calibration(outputs, targets)
    assert found is not None
    np.testing.assert_allclose(found, np.polyfit(outputs[:, 0].astype(float), targets.astype(float), 1), rtol=1e-6)


@pytest.mark.parametrize("rows", [5, 8, 12, 20])
def test_it_is_used_where_rows_that_it_has_not_seen_are_met_better(rows: int) -> None:
    decisions = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        outputs = generator.normal(0, 1, rows).astype(np.float32)
        targets = (0.9 * outputs + generator.normal(0, 0.5, rows)).astype(np.float32)
        unseen = 0.0
        for row in range(rows):
            rest = np.arange(rows) != row
            slope, offset = np.polyfit(outputs[rest].astype(float), targets[rest].astype(float), 1)
            unseen += (targets[row] - slope * outputs[row] - offset) ** 2
        slope = np.polyfit(outputs.astype(float), targets.astype(float), 1)[0]
        expected = slope > 0 and unseen < float(np.sum((targets - outputs) ** 2))
        assert (score().calibration(outputs[:, None], targets) is not None) == expected
        decisions.append(expected)
    assert 0 < sum(decisions) < 40, "both happen"


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ([0.1, 0.4], [0.2, 0.9]),  # two points make a line whatever they are
        ([0.3] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),  # a constant has no slope
        ([], []),
        ([0.5, 0.2, -0.2, -0.5], [-0.5, -0.2, 0.2, 0.5]),  # a model that is wrong way round stays as it is
    ],
)
def test_no_line_where_none_can_be_trusted(outputs: list[float], targets: list[float]) -> None:
    given = np.array(outputs, dtype=np.float32)[:, None], np.array(targets, dtype=np.float32)
    assert score().calibration(*given) is None


@pytest.mark.parametrize(("middle", "steep"), [(0.1, 3000.0), (0.1, 500.0), (3.0, 20.0), (60.0, 1.5)])
def test_no_line_so_steep_that_rounding_shows(middle: float, steep: float) -> None:
    targets = np.random.default_rng(0).normal(0, 0.5, 200)
    for slope, used in ((steep, False), (1.2, middle <= 3)):
        outputs = (middle + targets / slope).astype(np.float32)
        found = score().calibration(outputs[:, None], targets.astype(np.float32))
        assert (found is not None) == used
        rounded = torch.tensor(outputs).bfloat16().double().numpy()
        # What the rule stands for: with the line that it refuses, rounded outputs are off by a share of the spread.
        line = np.polyfit(outputs.astype(float), targets, 1)
        lost = np.abs(np.polyval(line, rounded) - targets).max() / targets.std()
        assert lost < 0.1 if used else lost > 0.05


@pytest.mark.parametrize("settings", [{"loss": "mae"}, {"loss": "huber"}, {"label_weights": "inverse"}])
def test_what_was_trained_for_something_else_is_left_alone(settings: dict[str, Any]) -> None:
    assert score(**settings).calibration(*overconfident(200)) is None
    assert classes(class_weights="balanced").calibration(*too_sure(200, 3.0)) is None


def classes(**settings: Any) -> Task:
    classification = kind("classification")
    return classification.fit("label", classification.Settings(**settings), pa.chunked_array([["a", "b", "c"]]))


def too_sure(rows: int, times: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `times` as far out as those that the labels were drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (rows, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    return (times * logits).astype(np.float32), labels.astype(np.float32)


def log_loss(outputs: np.ndarray, targets: np.ndarray, scale: float) -> float:
    """Summed, by torch."""
    true = torch.from_numpy(targets).long()
    return torch.nn.functional.cross_entropy(scale * torch.from_numpy(outputs).double(), true, reduction="sum").item()


@pytest.mark.parametrize("times", [0.25, 0.5, 2.0, 4.0])
def test_classes_are_as_sure_as_the_labels_were_drawn(times: float) -> None:
    found = classes().calibration(*too_sure(20_000, times))
    assert found is not None
    assert found[0] == pytest.approx(1 / times, rel=0.03)  # its standard error is .9 %
    assert found[1] == 0


def test_no_other_scale_has_a_lower_log_loss() -> None:
    given = too_sure(300, 3.0)
    found = classes().calibration(*given)
    assert found is not None
    grid = found[0] * np.linspace(0.5, 1.5, 101)
    assert log_loss(*given, found[0]) <= min(log_loss(*given, float(scale)) for scale in grid) + 1e-6


def test_a_scale_is_used_where_rows_that_it_has_not_seen_are_met_better() -> None:
    from scipy.optimize import minimize_scalar

    def fitted(outputs: np.ndarray, targets: np.ndarray) -> float:
        return float(np.exp(minimize_scalar(lambda x: log_loss(outputs, targets, float(np.exp(x))), bounds=(-3, 3)).x))

    decisions, agreed = [], []
    for seed in range(30):
        outputs, targets = too_sure(40, 1.3, seed)
        unseen = 0.0
        for row in range(len(outputs)):
            rest = np.arange(len(outputs)) != row
            unseen += log_loss(outputs[[row]], targets[[row]], fitted(outputs[rest], targets[rest]))
        before = log_loss(outputs, targets, 1.0)
        if abs(unseen - before) < 0.02 * before:  # the rule is that of many rows: near a tie it may differ
            continue
        decisions.append(unseen < before)
        agreed.append((classes().calibration(outputs, targets) is not None) == decisions[-1])
    assert all(agreed)
    assert any(decisions)
    assert not all(decisions)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ([[9.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 2]),  # all right: nothing says how sure to be
        ([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [1, 2, 0]),  # all wrong
        ([[0.3, 0.3, 0.3]] * 4, [0, 1, 2, 0]),  # outputs that tell nothing
        ([[5.0, 0.0, 0.0]], [1]),
        (np.zeros((0, 3)), []),
        ([[np.nan, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [1, 2, 1]),
    ],
)
def test_no_scale_where_none_can_be_trusted(outputs: Any, targets: list[int]) -> None:
    assert classes().calibration(np.array(outputs, np.float32), np.array(targets, np.float32)) is None


def test_outputs_that_are_far_out_do_not_overflow() -> None:
    outputs, targets = too_sure(2000, 1.0)
    found = classes().calibration(16 * outputs + np.float32(1e4), targets)
    assert found is not None
    assert found[0] == pytest.approx(1 / 16, rel=0.1)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is known beforehand: what a tiny model needs is chance."""
    monkeypatch.setattr(kind("regression"), "calibration", lambda self, outputs, targets: (0.5, 0.25))
    monkeypatch.setattr(kind("classification"), "calibration", lambda self, outputs, targets: (2.0, 0.0))


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("adapter", [None, {"type": "lora", "rank": 2}, {"type": "mtl_lora", "rank": 2}])
def test_a_saved_model_holds_its_line(tiny_recipe: dict[str, Any], tmp_path: Path, adapter: Any) -> None:
    tiny_recipe["model"]["adapter"] = adapter
    tiny_recipe["training"]["epochs"] = 1
    runs = {}
    for calibrate in (False, True):
        tiny_recipe["training"]["calibrate"] = calibrate
        runs[calibrate] = eq.train(tiny_recipe | {"output": str(tmp_path / str(calibrate))}, progress=False)
    assert runs[False].metrics["training"]["calibration"] == {}
    sure = {"scale": 2.0, "offset": 0.0}
    assert runs[True].metrics["training"]["calibration"] == {
        "polarity": {"scale": 0.5, "offset": 0.25},
        "label": sure,
        "topic": sure,
    }
    before, after = (runs[key].metrics["splits"]["test"] for key in (False, True))
    assert before["polarity"]["mse"] != after["polarity"]["mse"]
    assert all(before[name] == after[name] for name in before if name != "polarity")
    tokens = {"input_ids": torch.tensor([[2, 5, 6, 7, 3]]), "attention_mask": torch.ones(1, 5)}
    plain, moved = (load_model(runs[key].model_folder).model.eval()(**tokens).logits[0] for key in (False, True))
    assert moved[0].item() == pytest.approx(0.5 * plain[0].item() + 0.25, abs=1e-5)
    torch.testing.assert_close(moved[1:], 2 * plain[1:], rtol=0, atol=1e-5)  # the same class, twice as sure


@pytest.mark.usefixtures("half")
def test_a_trial_tells_the_same_as_a_run(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["training"] |= {"epochs": 1, "calibrate": True}
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "run")}, progress=False)
    (tmp_path / "data").mkdir()
    trial = run_trial(make_plan(recipes.load(tiny_recipe), tmp_path / "data"), tmp_path / "trial")
    assert trial["training"]["calibration"] == run.metrics["training"]["calibration"] != {}
    # Not the correlations: the outputs of a model this young lie so near to each other that rounding moves them.
    for split in ("validation", "test"):
        for task, metric in (("polarity", "mse"), ("polarity", "mae"), ("label", "accuracy")):
            assert trial["splits"][split][task][metric] == pytest.approx(
                run.metrics["splits"][split][task][metric], rel=1e-5
            )


def test_without_a_validation_split_nothing_is_changed(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["data"]["validation"] = None
    tiny_recipe["training"] |= {"calibrate": True, "epochs": 1}
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "run")}, progress=False)
    assert run.metrics["training"]["calibration"] == {}


def test_a_model_that_is_spread_over_processes_is_refused(tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["training"] |= {"calibrate": True, "arguments": {"fsdp": "full_shard"}}
    with pytest.raises(RecipeError, match=r"training\.calibrate: does not go with training\.arguments\.fsdp"):
        recipes.load(tiny_recipe)
