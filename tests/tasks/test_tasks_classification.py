import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from sklearn import metrics as reference

from equipoise.errors import DataError, EquipoiseError, RecipeError
from equipoise.tasks import from_dict, kind

Classification, Regression = kind("classification"), kind("regression")
Settings = Classification.Settings
SENTIMENT = ("negative", "neutral", "positive")


def column(*labels):
    return pa.chunked_array([pa.array(labels, pa.string())])


def fit(*labels, **settings):
    return Classification.fit("label", Settings(**settings), column(*labels))


def polarity(*labels):
    return Regression.fit(
        "polarity", Regression.Settings(column="score", range=(-1, 1)), column(*labels or ("-1", "1"))
    )


def test_classes_are_sorted_and_whole_numbers_as_numbers():
    assert fit("b", "a", "c", "a").labels == ("a", "b", "c")
    assert fit("10", "2", "1", "0").labels == ("0", "1", "2", "10")
    assert fit("10", "2", "x").labels == ("10", "2", "x")
    assert fit("9" * 5000, "1").labels == ("1", "9" * 5000)


def test_an_explicit_order_stands():
    task = fit("a", "b", labels=["b", "a"])
    assert task.outputs == ["label/b", "label/a"]
    assert task.encode(column("a", "b")).targets.tolist() == [1.0, 0.0]


def test_unseen_classes_are_reasons_that_say_what_to_do():
    task = fit(*SENTIMENT)
    encoded = task.encode(column("Neutral", "mixed", None, " ", " neutral "))
    assert encoded.reasons == {
        0: "label 'Neutral' is not one of negative, neutral, positive. Set tasks.label.labels, or casefold: true",
        1: "label 'mixed' is not one of negative, neutral, positive. Set tasks.label.labels",
    }
    assert encoded.targets[4] == 1.0
    assert np.isnan(encoded.targets[:4]).all()


def test_casefold_joins_capitals_and_keeps_explicit_names():
    assert fit("Yes", "no", "YES", casefold=True).labels == ("no", "yes")
    task = fit("yes", "No", labels=["No", "Yes"], casefold=True)
    assert task.encode(column("YES", "nO")).targets.tolist() == [1.0, 0.0]
    assert task.predict(np.array([[0.0, 1.0]], np.float32))["label"].tolist() == ["Yes"]


@pytest.mark.parametrize("labels", [("a", "a"), (None, ""), ()])
def test_fewer_than_two_classes_is_an_error(labels):
    with pytest.raises(DataError, match="at least two classes are needed"):
        fit(*labels)


def test_a_class_without_example_is_logged(caplog):
    fit("a", "b", labels=["a", "b", "c"])
    assert "label: no training example of c" in caplog.text


def test_balanced_weights_by_hand():
    task = fit("a", "a", "a", "b", class_weights="balanced")
    assert task.weights == pytest.approx((4 / (2 * 3), 4 / (2 * 1)))
    mean = np.mean(np.array(task.weights)[task.encode(column("a", "a", "a", "b")).targets.astype(int)])
    assert mean == pytest.approx(1.0)


def test_named_weights_follow_the_class_order():
    assert fit("a", "b", labels=["b", "a"], class_weights={"a": 2, "b": 3}).weights == (3.0, 2.0)
    assert fit("0", "1", class_weights={0: 2, 1: 3}).weights == (2.0, 3.0)
    with pytest.raises(RecipeError, match="class_weights: names a, but the classes are a, b"):
        fit("a", "b", class_weights={"a": 2})


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_weighted_smoothed_cross_entropy(smoothing):
    task = fit("a", "b", "c", class_weights={"a": 1, "b": 2, "c": 5}, label_smoothing=smoothing)
    outputs, targets = torch.randn(6, 3, generator=torch.manual_seed(0)), torch.tensor([0.0, 1, 2, 2, 1, 0])
    logs = outputs.double().log_softmax(1)
    spread = torch.full((6, 3), smoothing / 3).double()
    spread[range(6), targets.long()] += 1 - smoothing
    expected = torch.tensor([1.0, 2, 5, 5, 2, 1]) * -(spread * logs).sum(1)
    assert torch.allclose(task.loss(outputs, targets).double(), expected, atol=1e-6)


def test_prediction_columns_by_hand():
    task = fit("a", "b", "c")
    columns = task.predict(np.log(np.array([[0.2, 0.7, 0.1]], np.float32)))
    assert list(columns) == ["label", "label/a", "label/b", "label/c"]
    assert columns["label"].tolist() == ["b"]
    assert [columns[f"label/{name}"][0] for name in "abc"] == pytest.approx([0.2, 0.7, 0.1])
    assert task.decode(np.array([0, np.nan, 2], np.float32)).tolist() == ["a", None, "c"]


def test_probabilities_of_huge_logits_stay_finite():
    columns = fit("a", "b").predict(np.array([[3e38, -3e38]], np.float32))
    assert (columns["label/a"][0], columns["label/b"][0]) == (1.0, 0.0)


def test_metrics_against_scikit_learn():
    rng = np.random.default_rng(1)
    task = fit("a", "b", "c", "d")
    targets, outputs = rng.integers(0, 3, 50).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    outputs[:, 3] = -9  # class d is neither true nor predicted: it counts 0
    true, predicted = targets.astype(int), outputs.argmax(1)
    found = task.metrics(outputs, targets)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    expected = reference.f1_score(true, predicted, labels=range(4), average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)
    assert found["mcc"] == pytest.approx(reference.matthews_corrcoef(true, predicted))
    assert found["confusion_matrix"] == reference.confusion_matrix(true, predicted, labels=range(4)).tolist()
    precision, recall, f1, n = reference.precision_recall_fscore_support(
        true, predicted, labels=range(4), zero_division=0
    )
    for k, name in enumerate("abcd"):
        expected = {"precision": precision[k], "recall": recall[k], "f1": f1[k], "n": n[k]}
        assert found["per_class"][name] == pytest.approx(expected)


def test_a_constant_prediction_has_no_matthews_correlation():
    outputs = np.array([[1, 0], [1, 0]], np.float32)
    assert fit("a", "b").metrics(outputs, np.array([0, 1], np.float32))["mcc"] == 0.0


def test_an_output_that_is_not_a_number_is_no_class():
    outputs = np.array([[np.nan, 0.0]], np.float32)
    for judge in (lambda task: task.predict(outputs), lambda task: task.metrics(outputs, np.zeros(1, np.float32))):
        with pytest.raises(EquipoiseError, match="not finite in 1 of 1 rows"):
            judge(fit("a", "b"))


def test_classes_derived_at_thresholds():
    settings = Settings(**{"from": "polarity", "thresholds": [-0.5, 0.5], "labels": list(SENTIMENT)})
    task = Classification.fit("band", settings, column("-1", "0", "1"), source=polarity())
    encoded = task.encode(column("-0.51", "-0.5", "0.49", "0.5", None, "2"))
    assert encoded.targets[:4].tolist() == [0.0, 1.0, 1.0, 2.0]  # a score on a threshold goes up
    assert np.isnan(encoded.targets[4:]).all()
    assert encoded.reasons == {5: "score '2' is outside the range [-1, 1]"}
    assert (settings.derived_from, task.column) == ("polarity", "score")


def test_derived_bins_are_fitted_on_the_training_split():
    settings = Settings(**{"from": "polarity", "bins": 2})
    training = column("-1", "-0.5", "0.25", "0.75", None, "7")
    task = Classification.fit("band", settings, training, source=polarity())
    assert (task.labels, task.thresholds) == (("bin1", "bin2"), (-0.125,))
    assert task.summary(task.encode(training).targets) == {
        "n": 4,
        "counts": {"bin1": 2, "bin2": 2},
        "thresholds": [-0.125],
    }
    again = from_dict(json.loads(json.dumps(task.to_dict())))
    assert again == task
    assert again.encode(column("-0.125")).targets.tolist() == [1.0]


def test_derivation_that_cannot_be():
    settings = Settings(**{"from": "polarity", "bins": 3})
    with pytest.raises(DataError, match="band: 3 bins need as many distinct values, and the training split has 2"):
        Classification.fit("band", settings, column("0", "1"), source=polarity())
    with pytest.raises(RecipeError, match="no task 'polarity'"):
        Classification.fit("band", settings, column("0", "1"))
    with pytest.raises(RecipeError, match="nothing can be derived from a classification task"):
        Classification.fit("band", settings, column("0", "1"), source=fit("a", "b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"from": "p", "column": "c", "bins": 2}, "from and column exclude each other"),
        ({"bins": 2}, "bins needs from"),
        ({"thresholds": [0.0]}, "thresholds needs from"),
        ({"from": "p"}, "either bins or thresholds, and has neither"),
        ({"from": "p", "bins": 2, "thresholds": [0.0]}, "either bins or thresholds, not both"),
        ({"from": "p", "thresholds": [0.5, 0.5]}, "thresholds must go up: 0.5, 0.5"),
        ({"from": "p", "thresholds": []}, "at least 1 item"),
        ({"from": "p", "bins": 3, "labels": ["a", "b"]}, "labels gives 2 names for 3 classes"),
        ({"from": "p", "thresholds": [0], "labels": ["a", "b", "c"]}, "labels gives 3 names for 2 classes"),
        ({"from": "p", "bins": 2, "casefold": True}, "casefold has no effect with from"),
        ({"labels": ["a", "b", "a"]}, "more than once: a"),
        ({"labels": ["a", "A"], "casefold": True}, "more than once: a"),
        ({"labels": ["a"]}, "at least two classes"),
        ({"labels": ["a", " b"]}, "white space"),
        ({"labels": [True, False]}, "class name True must be in quotes"),
        ({"class_weights": {"a": 0, "b": 1}}, "class_weights must be greater than 0: a: 0"),
        ({"labels": ["a", "b"], "class_weights": {"a": 1, "c": 1}}, "differs from labels in b, c"),
        ({"label_smoothing": 1.0}, "less than 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)


def test_whole_numbers_in_yaml_are_class_names():
    assert Settings(labels=[0, 1, 2]).labels == ["0", "1", "2"]


def test_golden_json():
    golden = json.loads(
        """{"kind": "classification", "name": "band", "column": "score", "labels": ["low", "high"], "casefold": false,
        "weights": [0.75, 1.5], "label_smoothing": 0.1, "thresholds": [0.25],
        "source": {"kind": "regression", "name": "polarity", "column": "score", "range": [-1.0, 1.0], "offset": 0.0,
        "scale": 1.0, "loss": "mse", "huber_delta": 1.0}}"""
    )
    settings = {"from": "polarity", "thresholds": [0.25], "labels": ["low", "high"], "class_weights": "balanced"}
    settings = Settings(**settings, label_smoothing=0.1)
    task = Classification.fit("band", settings, column("0", "-1", "1"), source=polarity())
    assert task.to_dict() == golden
    assert from_dict(golden).to_dict() == golden


def test_many_classes_are_not_all_listed():
    reason = fit(*[f"c{k:02}" for k in range(77)]).encode(column("x" * 500)).reasons[0]
    assert "c11 and 65 more" in reason
    assert len(reason) < 250


def test_a_column_of_scores_is_not_taken_for_classes() -> None:
    labels = pa.chunked_array([[str(i / 1000) for i in range(1001)]])
    with pytest.raises(DataError, match=r"label: column 'label' holds 1001 different labels.*Is it a score"):
        kind("classification").fit("label", kind("classification").Settings(type="classification"), labels)
