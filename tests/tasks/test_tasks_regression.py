import json
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from sklearn import metrics as reference

from equipoise.errors import DataError, EquipoiseError
from equipoise.tasks import from_dict, kind

Regression = kind("regression")
Settings = Regression.Settings


def column(*labels):
    return pa.chunked_array([pa.array(labels, pa.string())])


def fit(*labels, **settings):
    return Regression.fit("polarity", Settings(**settings), column(*labels))


def test_a_range_is_mapped_to_minus_one_and_one():
    task = fit("0", "10", range=(0, 10))
    assert task.encode(column("0", "5", "10", "7.5")).targets.tolist() == [-1.0, 0.0, 1.0, 0.5]
    assert task.encode(column("0")).targets.dtype == np.float32


def test_standard_scaling_uses_the_population_deviation_of_the_training_labels():
    task = fit("1", "3", None, "x")
    assert (task.offset, task.scale) == (2.0, 1.0)
    assert task.encode(column("5")).targets.tolist() == [3.0]


def test_scaling_can_be_chosen_against_auto():
    assert fit("1", "3", range=(0, 4), scaling="standard").scale == 1.0
    task = fit("1", "3", scaling="none")
    assert (task.offset, task.scale) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "settings", "start"),
    [
        (["40", "60", None], {"range": (0, 100), "scaling": "none"}, 50.0),
        (["-9", "-3"], {"scaling": "none"}, -6.0),
        (["40", "60"], {"range": (0, 100)}, None),
        (["40", "60"], {}, None),
        (["0.1", "0.9"], {"scaling": "none"}, None),
    ],
)
def test_outputs_start_at_the_mean_where_it_is_far(labels, settings, start):
    task = fit(*labels, **settings)
    first = task.first_outputs(task.encode(column(*labels)).targets)
    assert (None if first is None else first.tolist()) == (None if start is None else [start])


def test_numbers_are_read_in_every_usual_form():
    task = fit("1", "3", scaling="none")
    encoded = task.encode(column("0.5", "1e-3", " 0.5 ", "+2", "-.5", "5.", "1E2", "\u00a07"))
    assert encoded.targets.tolist() == pytest.approx([0.5, 0.001, 0.5, 2, -0.5, 5, 100, 7])
    assert encoded.reasons == {}


def test_what_cannot_be_used_is_a_reason_and_what_is_missing_is_not():
    task = Regression.fit("polarity", Settings(range=(-1, 1), column="score"), column("0", "1"))
    encoded = task.encode(column("2.5", "nan", "-inf", "good", "0,5", None, "  ", "0x10", "1_0", "1e999", "0.5"))
    assert encoded.reasons == {
        0: "score '2.5' is outside the range [-1, 1]",
        1: "score 'nan' is not a finite number",
        2: "score '-inf' is not a finite number",
        3: "score 'good' is not a number",
        4: "score '0,5' is not a number",
        7: "score '0x10' is not a number",
        8: "score '1_0' is not a number",
        9: "score '1e999' is outside the range [-1, 1]",
    }
    assert np.isnan(encoded.targets).tolist() == [True] * 10 + [False]


def test_numbers_that_float32_cannot_hold_are_reasons():
    assert fit("1", "3").encode(column("1e39")).reasons == {0: "polarity '1e39' is too large for a 32-bit number"}
    narrow = fit("0", "1e-9").encode(column("3e38"))
    assert list(narrow.reasons) == [0]
    assert np.isnan(narrow.targets).all()


def test_ends_of_the_range_are_inside():
    task = fit("0.1", "0.3", range=(0.1, 0.3))
    assert task.encode(column("0.1", "0.3")).reasons == {}


def test_predictions_are_unscaled_and_clipped():
    task = fit("0", "10", range=(0, 10))
    outputs = np.array([[-3.0], [0.5], [1.5]], dtype=np.float32)
    assert task.predict(outputs)["polarity"].tolist() == [0.0, 7.5, 10.0]
    assert fit("1", "3").predict(outputs)["polarity"].tolist() == [-1.0, 2.5, 3.5]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "mse"}, [0.25, 9.0]),
        ({"loss": "mae"}, [0.5, 3.0]),
        ({"loss": "huber"}, [0.125, 2.5]),
        ({"loss": "huber", "huber_delta": 2.0}, [0.125, 4.0]),
    ],
)
def test_loss_by_hand(settings, expected):
    losses = fit("1", "3", **settings).loss(torch.tensor([[0.5], [3.0]]), torch.zeros(2))
    assert losses.tolist() == expected


def test_metrics_against_scipy_and_scikit_learn():
    rng = np.random.default_rng(0)
    task = fit("0", "10", range=(0, 10))
    targets, outputs = rng.uniform(-1, 1, 40).astype(np.float32), rng.normal(0, 1, (40, 1)).astype(np.float32)
    targets[3] = np.nan
    true = np.delete(targets.astype(float), 3) * 5 + 5
    predicted = np.clip(np.delete(outputs[:, 0].astype(float), 3) * 5 + 5, 0, 10)
    found = task.metrics(outputs, targets)
    assert found["mse"] == pytest.approx(reference.mean_squared_error(true, predicted))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted))
    assert found["r2"] == pytest.approx(reference.r2_score(true, predicted))
    assert found["pearson"] == pytest.approx(stats.pearsonr(true, predicted)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(true, predicted)[0])
    covariance = np.cov(true, predicted, ddof=0)
    ccc = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (true.mean() - predicted.mean()) ** 2)
    assert found["ccc"] == pytest.approx(ccc)
    assert found["n"] == 39


def test_concordance_by_hand():
    # true 0, 2; predicted 1, 3: covariance 1, variances 1 and 1, means differ by 1
    task = fit("0", "2", scaling="none")
    found = task.metrics(np.array([[1.0], [3.0]], np.float32), np.array([0.0, 2.0], np.float32))
    assert found["ccc"] == pytest.approx(2 / 3)
    assert found["pearson"] == pytest.approx(1.0)


def test_constants_have_no_correlation():
    task = fit("0", "2", scaling="none")
    constant, varied = np.full((3, 1), 0.1, np.float32), np.array([[0.1], [0.2], [0.3]], np.float32)
    found = task.metrics(constant, varied[:, 0])
    assert (found["pearson"], found["spearman"], found["ccc"]) == (None, None, 0.0)
    found = task.metrics(varied, constant[:, 0])
    assert (found["pearson"], found["r2"]) == (None, None)
    assert task.metrics(constant, constant[:, 0])["ccc"] is None


def test_constant_labels_and_no_labels_are_errors():
    with pytest.raises(DataError, match=r"every polarity of the training split is 0.5"):
        fit("0.5", "0.5")
    with pytest.raises(DataError, match=r"none of the 2 training rows has a usable polarity: polarity 'a' is not"):
        fit("a", None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"range": (1, -1)}, "range must go up, not from 1 to -1"),
        ({"range": (0, float("inf"))}, "finite"),
        ({"scaling": "range"}, "scaling: range needs a range"),
        ({"huber_delta": 2.0}, "huber_delta has no effect with loss: mse"),
        ({"loss": "huber", "huber_delta": 0}, "greater than 0"),
        ({"from": "x"}, "Extra inputs"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)


def test_golden_json():
    golden = json.loads(
        '{"kind": "regression", "name": "polarity", "column": "score", "range": [0.0, 10.0], "offset": 5.0, "scale": 5.0,'
        ' "loss": "huber", "huber_delta": 0.5}'
    )
    settings = Settings(column="score", range=(0, 10), loss="huber", huber_delta=0.5)
    assert Regression.fit("polarity", settings, column("1", "2")).to_dict() == golden
    assert from_dict(golden).to_dict() == golden


def test_a_diverged_model_is_an_error_not_a_score():
    with pytest.raises(EquipoiseError, match="polarity: the model's output is not finite in 1 of 2 rows"):
        fit("1", "3").metrics(np.array([[np.nan], [1]], np.float32), np.zeros(2, np.float32))


def test_a_million_rows_take_seconds():
    labels = pa.chunked_array([[str(i / 7) for i in range(1_000_000)]])
    start = time.perf_counter()
    assert not np.isnan(fit("1", "3").encode(labels).targets).any()
    assert time.perf_counter() - start < 10
