import json
import logging

import numpy as np
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from equipoise.evaluation import _baselines, baselines
from equipoise.tasks import kind

WORDS = {"good": 0.8, "fine": 0.2, "bad": -0.7}


def table(n, seed=0):
    """Texts whose score and class hang on one word."""
    rng = np.random.default_rng(seed)
    words = rng.choice(list(WORDS), n)
    texts = [f"the quarter was {word} for firm {rng.integers(9)}" for word in words]
    scores = np.array([WORDS[word] for word in words]) + rng.normal(0, 0.05, n)
    return texts, [f"{score:.3f}" for score in scores], [str(word) for word in words]


@pytest.fixture(scope="module")
def fitted():
    texts, scores, words = table(120)
    scores, words = pa.chunked_array([scores]), pa.chunked_array([words])
    regression, classification = kind("regression"), kind("classification")
    tasks = {
        "polarity": regression.fit("polarity", regression.Settings(range=(-1, 1)), scores),
        "label": classification.fit("label", classification.Settings(), words),
    }
    targets = {"polarity": tasks["polarity"].encode(scores).targets, "label": tasks["label"].encode(words).targets}
    return tasks, texts, targets


def split(tasks, n=60, seed=1):
    texts, scores, words = table(n, seed)
    columns = {"polarity": pa.array(scores), "label": pa.array(words)}
    return {"test": texts}, {"test": {name: tasks[name].encode(columns[name]).targets for name in tasks}}


def test_words_beat_a_constant_on_unseen_texts(fitted):
    tasks, texts, targets = fitted
    results = baselines(tasks, texts, targets, *split(tasks))
    polarity, label = results["test"]["polarity"], results["test"]["label"]
    assert list(results["test"]) == ["polarity", "label"]
    assert polarity["tfidf"]["mse"] < 0.02 < polarity["constant"]["mse"]
    assert label["tfidf"]["accuracy"] > 0.95 > label["constant"]["accuracy"]
    assert polarity["fitted_on"] == label["fitted_on"] == 120
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_the_constant_is_the_training_mean_not_the_test_mean(fitted):
    tasks, texts, targets = fitted
    test_texts, test_targets = split(tasks)
    found = baselines(tasks, texts, targets, test_texts, test_targets)["test"]["polarity"]["constant"]
    expected = np.mean((test_targets["test"]["polarity"] - targets["polarity"].mean()) ** 2)
    assert found["mse"] == pytest.approx(expected, rel=1e-4)


def test_ridge_is_the_one_that_scikit_learn_gives_for_one_of_the_penalties(fitted):
    tasks, texts, targets = fitted
    test_texts, test_targets = split(tasks)
    found = baselines(tasks, texts, targets, test_texts, test_targets)["test"]["polarity"]["tfidf"]["mse"]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    train, test = vectorizer.fit_transform(texts), vectorizer.transform(test_texts["test"])
    errors = []
    for alpha in (0.1, 1.0, 10.0):
        predicted = Ridge(alpha=alpha).fit(train, targets["polarity"]).predict(test)
        errors.append(np.mean((np.clip(predicted, -1, 1) - test_targets["test"]["polarity"]) ** 2))
    assert min(abs(found - error) for error in errors) < 1e-4
    assert found == pytest.approx(min(errors), abs=1e-4)  # and of these the right one, chosen without the test texts


def test_rows_without_a_label_are_left_out_task_by_task(fitted):
    tasks, texts, targets = fitted
    sparse = {name: values.copy() for name, values in targets.items()}
    sparse["label"][40:] = np.nan
    results = baselines(tasks, texts, sparse, *split(tasks))["test"]
    assert (results["polarity"]["fitted_on"], results["label"]["fitted_on"]) == (120, 40)
    assert results["label"]["tfidf"]["accuracy"] > 0.9


def test_a_sample_of_too_many_rows_is_counted_logged_and_seeded(fitted, caplog):
    tasks, texts, targets = fitted
    caplog.set_level(logging.INFO)
    first, again, other = (
        baselines(tasks, texts, targets, *split(tasks), max_rows=30, seed=seed)["test"]["polarity"]
        for seed in (0, 0, 1)
    )
    assert first["fitted_on"] == 30
    assert "polarity: the tf-idf baseline is fitted on 30 of 120 labelled rows" in caplog.text
    assert first == again
    assert first["tfidf"]["mse"] != other["tfidf"]["mse"]


def test_tasks_with_the_same_rows_share_their_features(fitted, monkeypatch):
    tasks, texts, targets = fitted
    calls, real = [], _baselines._features
    monkeypatch.setattr(_baselines, "_features", lambda *given: calls.append(1) or real(*given))
    baselines(tasks, texts, targets, *split(tasks))
    assert len(calls) == 1


def test_texts_without_words_have_no_word_baseline(fitted, caplog):
    tasks, texts, targets = fitted
    results = baselines(tasks, ["?!"] * len(texts), targets, *split(tasks))["test"]
    assert results["polarity"]["tfidf"] is None
    assert results["polarity"]["constant"]["n"] == 60
    assert "no tf-idf baseline" in caplog.text


def test_a_task_without_labels_has_no_word_baseline(fitted):
    tasks, texts, targets = fitted
    nothing = {name: np.full_like(values, np.nan) for name, values in targets.items()}
    results = baselines(tasks, texts, nothing, *split(tasks))["test"]
    assert results["label"]["tfidf"] is None
    assert results["label"]["fitted_on"] == 0
    assert np.isfinite(results["label"]["constant"]["accuracy"])
