"""DualProj: by hand, no task is harmed, TorchJD's aggregator, and the solver's install line."""

import pytest
import torch
from jacobians import combined, draw, named, step

from equipoise.balance._dualproj import DualProj
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")
pytest.importorskip("quadprog")


def test_without_conflict_it_is_the_mean() -> None:
    assert step(DualProj(), {"a": [1, 0], "b": [1, 1]}) == pytest.approx({"a": 0.5, "b": 0.5}, rel=1e-3)


def test_two_tasks_in_conflict_by_hand() -> None:
    # The mean (-0.5, 0.5) harms a = (2, 0), so it is projected to (0, 0.5) = (1.5 a + b) / 2.
    assert step(DualProj(), {"a": [2, 0], "b": [-3, 1]}) == pytest.approx({"a": 0.75, "b": 0.5}, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_torchjd_and_no_task_is_harmed(seed: int) -> None:
    jacobian = draw(seed, size=4)
    found = combined(step(DualProj(), named(jacobian)), jacobian)
    torch.testing.assert_close(found, aggregation.DualProj()(jacobian), rtol=1e-7, atol=1e-9)
    assert (jacobian @ found).min() > -1e-2


def test_small_gradients_are_projected_too() -> None:
    rows = draw(3, size=2)
    expected = step(DualProj(), named(rows))
    assert max(abs(weight - 0.25) for weight in expected.values()) > 0.01, "there is a conflict"
    assert step(DualProj(), named(rows * 1e-8)) == pytest.approx(expected, rel=1e-2)


def test_scale_and_preferences() -> None:
    jacobian, wishes = draw(1, size=4), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    preferences = dict(zip("abcd", wishes.tolist(), strict=True))
    found = step(DualProj(preferences=preferences, scale="tasks"), named(jacobian))
    expected = 4 * aggregation.DualProj(pref_vector=wishes)(jacobian)
    torch.testing.assert_close(combined(found, jacobian), expected, rtol=1e-7, atol=1e-9)


def test_a_missing_solver_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(BalanceError, match=r'pip install "equipoise\[quadprog\]"'):
        DualProj()
