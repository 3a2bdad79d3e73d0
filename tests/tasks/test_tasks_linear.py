import logging

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge

from equipoise.tasks import _linear


def table(n, noise):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 30))
    return csr_matrix(features), features[:, 0] + rng.normal(0, noise, n)


@pytest.mark.parametrize(("n", "noise", "strength"), [(60, 3.0, 10.0), (200, 0.001, 0.1), (40, 0.001, 1.0)])
def test_ridge_takes_the_penalty_that_errs_least_on_held_out_rows(n, noise, strength):
    features, values = table(n, noise)  # noise asks for a strong penalty; under 50 rows the middle one is taken
    expected = Ridge(alpha=strength).fit(features, values).predict(features)
    assert _linear.ridge(features, values)(features) == pytest.approx(expected)


def test_logistic_gives_the_probabilities_of_all_classes_also_of_absent_ones():
    features, values = table(40, 0.1)
    classes = np.where(values > 0, 3, 1)
    found = _linear.logistic(features, classes, 5)(features)
    expected = LogisticRegression(C=10.0, max_iter=1000).fit(features, classes).predict_proba(features)
    assert found[:, [1, 3]] == pytest.approx(expected)
    assert (found[:, [0, 2, 4]] == 0).all()


def test_a_single_class_is_certain():
    features, _ = table(4, 0.1)
    assert _linear.logistic(features, np.full(4, 2), 3)(features).tolist() == [[0, 0, 1]] * 4


def test_a_class_that_is_held_out_whole_is_no_obstacle():
    features, _ = table(50, 0.1)
    order = np.random.default_rng(0).permutation(50)
    for row in order[[0, 20]]:  # the only row of class 1 falls into the held-out fifth, or into the rest
        classes = np.zeros(50, dtype=np.int64)
        classes[row] = 1
        assert np.isfinite(_linear.logistic(features, classes, 2)(features)).all()


def test_a_fit_that_has_not_converged_is_logged_and_does_not_warn(caplog):
    caplog.set_level(logging.WARNING)
    features, values = table(60, 0.1)
    _linear._fitted(LogisticRegression(C=1e6, max_iter=1), features, (values > 0).astype(int))
    assert "stopped before it had converged" in caplog.text
