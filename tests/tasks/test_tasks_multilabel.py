import json
import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from sklearn import metrics as reference

from equipoise.errors import DataError
from equipoise.tasks import from_dict, kind

Multilabel = kind("multilabel")
Settings = Multilabel.Settings


def column(*labels):
    return pa.chunked_array([pa.array(labels, pa.string())])


def fit(*labels, **settings):
    return Multilabel.fit("emotions", Settings(**settings), column(*labels))


def test_cells_are_separated_names_or_json_lists():
    task = fit("joy|fear", '["anger", "joy"]', "none", empty="none")
    assert task.labels == ("anger", "fear", "joy")
    encoded = task.encode(column("joy", " fear | joy |", '["joy","joy"]', "[]", "none"))
    assert encoded.targets.tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert encoded.reasons == {}
    assert encoded.targets.dtype == np.float32


def test_what_cannot_be_read_is_a_reason_and_what_is_missing_is_not():
    task = fit("joy|fear", empty="none")
    encoded = task.encode(column("", None, "awe|joy", "[1", '["joy", null]', "|", "joy|none", "[" * 100_000, '["a|b"]'))
    assert np.isnan(encoded.targets).all()
    assert 0 not in encoded.reasons
    assert 1 not in encoded.reasons
    assert encoded.reasons[2] == "emotions 'awe|joy': 'awe' is not one of fear, joy. Set tasks.emotions.labels"
    assert encoded.reasons[3] == "emotions '[1' is not a JSON list"
    assert encoded.reasons[4] == "emotions '[\"joy\", null]' is not a JSON list of class names"
    assert encoded.reasons[5] == "emotions '|' names no class"
    assert encoded.reasons[6] == "emotions 'joy|none' names classes, and 'none', which means none of them"
    assert set(encoded.reasons) == {2, 3, 4, 5, 6, 7, 8}


def test_another_separator():
    assert fit("a, b", "c", separator=",").labels == ("a", "b", "c")
    with pytest.raises(DataError, match=r"class 'a\|b' holds the separator '\|'. Set tasks.emotions.separator"):
        fit('["a|b"]', "c")


def test_loss_is_the_mean_over_classes_of_binary_cross_entropy():
    task = fit("a|b", "c")
    outputs, targets = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    s = 1 / (1 + np.exp(-np.array([0.0, 2.0, -1.0])))
    expected = -(np.log(s[0]) + np.log(1 - s[1]) + np.log(s[2])) / 3
    assert task.loss(outputs, targets).tolist() == pytest.approx([expected])


def test_prediction_columns_by_hand():
    outputs = np.array([[0.0, 3.0, -3.0], [-1.0, -1.0, -1.0]], np.float32)
    columns = fit("a|b", "c").predict(outputs)
    assert list(columns) == ["emotions", "emotions/a", "emotions/b", "emotions/c"]
    assert columns["emotions"].tolist() == ["a|b", ""]  # sigmoid(0) = threshold is present
    assert columns["emotions/b"] == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(1))])
    strict = fit("a|b", "c", threshold=0.9, empty="none", separator=";;", labels=["a", "b", "c", "a|b"])
    outputs = np.append(outputs, [[9.0], [-9.0]], axis=1)
    assert strict.predict(outputs)["emotions"].tolist() == ["b;;a|b", "none"]


def test_decode_is_the_inverse_of_encode():
    task = fit("a|b", "c", empty="none")
    cells = ["b", "a|c", "none", None]
    assert task.decode(task.encode(column(*cells)).targets).tolist() == cells


def test_metrics_against_scikit_learn():
    rng = np.random.default_rng(0)
    task = fit("a|b", "c|d")
    targets, outputs = (rng.random((60, 4)) < 0.4).astype(np.float32), rng.normal(size=(60, 4)).astype(np.float32)
    targets[:, 3], outputs[:, 3] = 0, -5  # d is neither true nor predicted
    targets[7] = np.nan
    true, scores = np.delete(targets, 7, 0).astype(int), np.delete(outputs, 7, 0)
    predicted = (scores >= 0).astype(int)
    found = task.metrics(outputs, targets)
    assert found["n"] == 59
    for average in ("micro", "macro"):
        expected = reference.f1_score(true, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    # classes without a true example take no part
    expected = reference.average_precision_score(true[:, :3], scores[:, :3], average="macro")
    assert found["average_precision"] == pytest.approx(expected)
    assert found["per_class"]["d"] == {"precision": 0, "recall": 0, "f1": 0, "n": 0}


def test_without_a_true_or_predicted_class_there_is_no_micro_f1():
    found = fit("a", "b").metrics(np.full((2, 2), -1, np.float32), np.zeros((2, 2), np.float32))
    assert (found["micro_f1"], found["average_precision"], found["subset_accuracy"]) == (None, None, 1.0)


def test_summary_counts_rows_of_no_class():
    task = fit("a|b", "a", "[]", "")
    targets = task.encode(column("a|b", "a", "[]", "")).targets
    assert task.summary(targets) == {"n": 3, "counts": {"a": 2, "b": 1}, "none": 1}


def test_a_class_with_every_or_no_row_has_a_finite_baseline():
    from scipy.sparse import csr_matrix

    task = fit("a|b", "c")
    targets = np.array([[1, 0, 1], [1, 0, 0]], np.float32)
    outputs = task.fit_baseline(csr_matrix(np.eye(2)), targets)(csr_matrix(np.eye(2)))
    assert np.isfinite(outputs).all()
    assert (task.predict(outputs)["emotions/a"] > 0.99).all()
    assert (task.predict(outputs)["emotions/b"] < 0.01).all()


def test_too_few_classes_and_classes_without_example(caplog):
    with pytest.raises(DataError, match="1 classes in column 'emotions'"):
        fit("a", "a", "[]")
    caplog.set_level(logging.WARNING)
    fit("a", "b", labels=["a", "b", "c"])
    assert "no training example of c" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a|b", "c"]}, "holds the separator"),
        ({"labels": ["a", "none"], "empty": "none"}, "cannot be one of the labels"),
        ({"empty": ""}, "must not be blank"),
        ({"separator": ""}, "at least 1 character"),
        ({"threshold": 1}, "less than 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)


def test_golden_json():
    golden = json.loads(
        '{"kind": "multilabel", "name": "emotions", "column": "felt", "labels": ["fear", "joy"], "separator": ";",'
        ' "empty": "none", "threshold": 0.4}'
    )
    settings = Settings(column="felt", separator=";", empty="none", threshold=0.4)
    assert Multilabel.fit("emotions", settings, column("joy;fear", "none")).to_dict() == golden
    assert from_dict(golden).to_dict() == golden
