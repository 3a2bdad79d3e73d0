import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from sklearn import metrics as reference
from torch.nn.functional import logsigmoid

from equipoise.errors import DataError, RecipeError
from equipoise.tasks import from_dict, kind

Ordinal = kind("ordinal")
Settings = Ordinal.Settings
LEVELS = ["low", "medium", "high"]


def column(*labels):
    return pa.chunked_array([pa.array(labels, pa.string())])


def fit(*labels, **settings):
    return Ordinal.fit("intensity", Settings(**settings), column(*labels))


@pytest.fixture
def task():
    return fit(*LEVELS, labels=LEVELS)


def test_whole_numbers_have_an_order_and_names_need_one():
    assert fit("10", "2", "-1").labels == ("-1", "2", "10")
    with pytest.raises(DataError, match=r"the order of high, low is not known. Set tasks.intensity.labels"):
        fit("low", "high")


def test_ranks_follow_the_labels(task):
    assert task.outputs == ["intensity>low", "intensity>medium"]
    encoded = task.encode(column("high", "low", "extreme", None))
    assert encoded.targets[:2].tolist() == [2.0, 0.0]
    assert encoded.reasons == {
        2: "intensity 'extreme' is not one of low, medium, high. Set tasks.intensity.labels, from the lowest up"
    }


def test_ranks_derived_from_a_score():
    score = kind("regression").fit(
        "polarity", kind("regression").Settings(column="score", range=[-1, 1]), column("-1", "0.5")
    )
    training = column("-1", "-0.5", "0.25", "0.75", None, "7")
    bands = Ordinal.fit("band", Settings(**{"from": "polarity", "bins": 2}), training, source=score)
    assert (bands.column, bands.labels, bands.thresholds) == ("score", ("bin1", "bin2"), (-0.125,))
    assert bands.outputs == ["band>bin1"]
    encoded = bands.encode(training)
    assert encoded.targets[:4].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert encoded.reasons == {5: "score '7' is outside the range [-1, 1]"}
    assert bands.summary(encoded.targets)["thresholds"] == [-0.125]

    again = from_dict(json.loads(json.dumps(bands.to_dict())))
    assert again == bands
    assert again.encode(column("-0.125")).targets.tolist() == [1.0]  # a score on a threshold goes up


def test_thresholds_with_names_of_their_own():
    settings = Settings(**{"from": "polarity", "thresholds": [-0.5, 0.5], "labels": LEVELS})
    score = kind("regression").fit("polarity", kind("regression").Settings(), column("-1", "1"))
    bands = Ordinal.fit("band", settings, column("-1", "0", "1"), source=score)
    assert bands.predict(np.array([[5.0, 5.0], [-5.0, 5.0]], np.float32))["band"].tolist() == ["high", "low"]
    with pytest.raises(ValidationError, match="from and column exclude each other"):
        Settings(**{"from": "polarity", "bins": 2, "column": "c"})
    with pytest.raises(RecipeError, match=r"tasks\.band\.from: there is no task 'polarity'"):
        Ordinal.fit("band", settings, column("-1", "0", "1"))


def test_models_saved_before_ranks_could_be_derived(task):
    saved = {key: value for key, value in task.to_dict().items() if key not in ("thresholds", "source")}
    assert from_dict(saved) == task


def test_loss_by_hand(task):
    a, b = 0.7, -0.3
    losses = task.loss(torch.tensor([[a, b]] * 3), torch.tensor([0.0, 1.0, 2.0]))

    def s(x):
        return 1 / (1 + math.exp(-x))

    expected = [
        -math.log(1 - s(a)) / 2,  # low takes part in the first output only
        -(math.log(s(a)) + math.log(1 - s(b))) / 2,
        -(math.log(s(a)) + math.log(s(b))) / 2,
    ]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)


def papers_loss(logits, y, classes):
    """Equation 7 of the paper, by conditional subsets as the authors' code goes."""
    total, terms = torch.zeros(()), 0
    for k in range(classes - 1):
        subset = y > k - 1
        above = (y[subset] > k).float()
        f = logits[subset, k]
        total = total - (logsigmoid(f) * above + (logsigmoid(f) - f) * (1 - above)).sum()
        terms += int(subset.sum())
    return total / terms, terms


def test_mean_loss_is_the_papers_up_to_the_stated_factor():
    generator = torch.manual_seed(0)
    task = fit("0", "1", "2", "3", "4")
    logits, y = torch.randn(32, 4, generator=generator), torch.randint(0, 5, (32,), generator=generator)
    expected, terms = papers_loss(logits, y, 5)
    assert task.loss(logits, y.float()).mean().item() == pytest.approx(expected.item() * terms / (32 * 4), rel=1e-5)


def test_outputs_that_take_no_part_get_no_gradient(task):
    outputs = torch.tensor([[0.5, float("inf")]], requires_grad=True)
    task.loss(outputs, torch.tensor([0.0])).sum().backward()
    assert outputs.grad[0, 1] == 0
    assert outputs.grad[0, 0] != 0


def test_prediction_by_hand(task):
    # P(>low) = .8; P(>medium | >low) = .6, so P(>medium) = .48: rank 1
    p = np.array([[0.8, 0.6], [0.4, 0.9], [0.9, 0.9]])
    columns = task.predict(np.log(p / (1 - p)).astype(np.float32))
    assert list(columns) == ["intensity", "intensity/low", "intensity/medium", "intensity/high"]
    assert columns["intensity"].tolist() == ["medium", "low", "high"]
    assert columns["intensity/low"] == pytest.approx([0.2, 0.6, 0.1])
    assert columns["intensity/medium"] == pytest.approx([0.32, 0.04, 0.09])
    assert columns["intensity/high"] == pytest.approx([0.48, 0.36, 0.81])


def test_metrics_against_scikit_learn(task):
    rng = np.random.default_rng(0)
    targets, outputs = rng.integers(0, 3, 40).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    rank = {name: k for k, name in enumerate(LEVELS)}
    predicted = [rank[name] for name in task.predict(outputs)["intensity"]]
    found, true = task.metrics(outputs, targets), targets.astype(int)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted))
    assert found["quadratic_kappa"] == pytest.approx(
        reference.cohen_kappa_score(true, predicted, labels=[0, 1, 2], weights="quadratic")
    )
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(true, predicted, average="macro"))
    assert found["confusion_matrix"] == reference.confusion_matrix(true, predicted).tolist()


def test_kappa_of_one_class_has_no_meaning(task):
    found = task.metrics(np.full((3, 2), -5, np.float32), np.zeros(3, np.float32))
    assert (found["quadratic_kappa"], found["mae"]) == (None, 0.0)


def test_constant_outputs_state_the_class_frequencies(task):
    outputs = task.constant_outputs(np.array([0, 1, 1, 2, np.nan], np.float32))
    columns = task.predict(outputs[None])
    assert [columns[f"intensity/{name}"][0] for name in LEVELS] == pytest.approx([0.25, 0.5, 0.25])
    assert columns["intensity"].tolist() == ["medium"]


def test_one_class_only_is_an_error():
    with pytest.raises(DataError, match="only the class '3'"):
        fit("3", "3")
    with pytest.raises(DataError, match=r"no usable label .*: intensity 'x' is not one of low"):
        fit("x", "y", labels=LEVELS)


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], []])
def test_impossible_settings(labels):
    with pytest.raises(ValidationError):
        Settings(labels=labels)


def test_golden_json():
    golden = json.loads(
        '{"kind": "ordinal", "name": "stars", "column": "rating", "labels": ["1", "2", "5"], "thresholds": null, '
        '"source": null}'
    )
    assert Ordinal.fit("stars", Settings(column="rating"), column("5", "1", "2")).to_dict() == golden
    assert from_dict(golden).to_dict() == golden
