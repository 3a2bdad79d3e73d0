"""What a fine-tuned model must beat: a constant, and a classical model on words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.tasks import Task

logger = logging.getLogger(__name__)

#: No more training rows than this are fitted, so that a baseline takes minutes on any table.
MAX_ROWS = 50_000


def baselines(
    tasks: Mapping[str, Task],
    train_texts: Sequence[str],
    train_targets: Mapping[str, NDArray[np.float32]],
    texts: Mapping[str, Sequence[str]],
    targets: Mapping[str, Mapping[str, NDArray[np.float32]]],
    *,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Fits both baselines of every task on the training split and judges them on other splits.

    `constant` says the mean or the class frequencies of the training targets. `tfidf` is ridge or logistic regression on
    words and pairs of words, weighted (1 + log tf) idf, each text scaled to length 1. Both are judged by the task's own
    metrics, as the fine-tuned model is.

    Args:
        tasks: task name -> fitted task.
        train_texts: `[n]`; the two texts of a pair joined by the caller.
        train_targets: task name -> `[n]` or `[n, classes]`, NaN where a row carries no label.
        texts: split name -> texts.
        targets: split name -> task name -> targets.
        max_rows: the most labelled rows that `tfidf` is fitted on for one task; of more, a seeded sample is drawn.
        seed: of that sample.

    Returns:
        split -> task -> `constant`: metrics, `tfidf`: metrics, or None where the texts hold no words, and `fitted_on`:
        the number of rows that `tfidf` was fitted on.
    """
    results: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in texts}
    for rows, names in _tasks_by_rows(tasks, train_targets, max_rows, seed):
        features = _features([train_texts[row] for row in rows], texts) if len(rows) else None
        for name in names:
            task, known = tasks[name], train_targets[name]
            predict = task.fit_baseline(features[0], known[rows]) if features else None
            constant = task.constant_outputs(known)
            for split in texts:
                true = targets[split][name]
                results[split][name] = {
                    "constant": task.metrics(np.tile(constant, (len(true), 1)), true),
                    "tfidf": task.metrics(predict(features[1][split]), true) if features and predict else None,
                    "fitted_on": len(rows),
                }
    return {split: {name: found[name] for name in tasks} for split, found in results.items()}


def _tasks_by_rows(
    tasks: Mapping[str, Task], targets: Mapping[str, NDArray[np.float32]], max_rows: int, seed: int
) -> list[tuple[NDArray[np.int64], list[str]]]:
    """Tasks that are fitted on the same rows come together, so that their texts are counted once."""
    groups: dict[bytes, tuple[NDArray[np.int64], list[str]]] = {}
    for name in tasks:
        known = ~np.isnan(targets[name])
        rows = np.flatnonzero(known if known.ndim == 1 else known.all(axis=1))
        if len(rows) > max_rows:
            logger.info("%s: the tf-idf baseline is fitted on %d of %d labelled rows", name, max_rows, len(rows))
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))
        groups.setdefault(rows.tobytes(), (rows, []))[1].append(name)
    return list(groups.values())


def _features(train_texts: Sequence[str], texts: Mapping[str, Sequence[str]]) -> tuple[Any, dict[str, Any]] | None:
    """Sparse tf-idf features of the training texts and of each split; None where there are no words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        # A pair of words that occurs once tells nothing in a large table, and may be all there is in a small one.
        min_df=2 if len(train_texts) >= 1000 else 1,
        max_features=200_000,
        token_pattern=r"(?u)\b\w+\b",  # words of one letter too: in Chinese they are words
        dtype=np.float32,
    )
    try:
        train = vectorizer.fit_transform(train_texts)
    except ValueError as error:
        if "vocabulary" not in str(error) and "no terms" not in str(error).lower():
            raise
        logger.warning("no tf-idf baseline: %s", error)
        return None
    return train, {split: vectorizer.transform(some) for split, some in texts.items()}
