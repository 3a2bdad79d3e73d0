"""SDMGrad: by hand, and TorchJD's weighting."""

import pytest
import torch
from jacobians import crossed, draw, turn

from equipoise.balance._sdmgrad import SDMGrad
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")


def test_one_step_by_hand() -> None:
    balancer = SDMGrad(tasks=["a", "b"], pull=1.0, rate=0.5, momentum=0.0, iterations=1)
    # s = (2 + 1) / 2, A / s^2 = diag(16, 4) / 9; v - rate A (v + p) = (0.5 - 8/9, 0.5 - 2/9); projected on the simplex.
    first, second = 0.5 - 8 / 9, 0.5 - 2 / 9
    shift = (first + second - 1) / 2
    point = (first - shift, second - shift)
    weights = turn(balancer, crossed([[4.0, 0.0], [0.0, 1.0]]))
    assert weights.tolist() == pytest.approx([(v + 0.5) / 2 for v in point], rel=1e-6)


@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_torchjd_over_ten_steps(pull: float) -> None:
    balancer, reference = SDMGrad(tasks=["a", "b", "c"], pull=pull), aggregation.SDMGradWeighting(lambda_=pull)
    balancer.fit(torch.device("cpu"), torch.float64)
    for number in range(10):
        cross = draw(number, 3, 3)
        torch.testing.assert_close(turn(balancer, crossed(cross)), reference(cross), rtol=1e-13, atol=1e-15)


def test_a_strong_pull_is_the_mean() -> None:
    balancer = SDMGrad(tasks=["a", "b"], pull=1e6)
    assert turn(balancer, crossed([[4.0, 0.0], [0.0, 1.0]])).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_the_unit_of_the_losses_cancels() -> None:
    plain, scaled = SDMGrad(tasks=["a", "b"]), SDMGrad(tasks=["a", "b"])
    cross = torch.tensor([[4.0, -1.0], [-1.0, 1.0]])
    assert turn(plain, crossed(cross)).tolist() == pytest.approx(turn(scaled, crossed(1e4 * cross)).tolist(), rel=1e-6)


def test_an_absent_task_keeps_its_point() -> None:
    balancer = SDMGrad(tasks=["a", "b", "c"])
    turn(balancer, crossed(torch.diag(torch.tensor([1.0, 1.1, 1.2]))))
    before = balancer.point.clone()
    weights = turn(balancer, crossed(torch.diag(torch.tensor([5.0, 0.0, 1.0])), [True, False, True]))
    assert balancer.point[1].item() == pytest.approx(before[1].item(), rel=1e-6)
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert weights[0] < weights[2]


def test_one_task_has_the_weight_one() -> None:
    assert turn(SDMGrad(tasks=["a"]), crossed([[3.0]])).tolist() == [1.0]


def test_state_goes_on_to_the_bit() -> None:
    whole = SDMGrad(tasks=["a", "b", "c"])
    for number in range(3):
        turn(whole, crossed(draw(number, 3, 3)))
    resumed = SDMGrad(tasks=["a", "b", "c"])
    resumed.load_state_dict(whole.state_dict())
    for number in range(3, 8):
        assert turn(resumed, crossed(draw(number, 3, 3))).tolist() == turn(whole, crossed(draw(number, 3, 3))).tolist()


@pytest.mark.parametrize(
    ("setting", "value"), [("pull", -1), ("rate", 0), ("momentum", 1), ("iterations", 0), ("iterations", "20")]
)
def test_settings(setting: str, value: object) -> None:
    with pytest.raises(BalanceError, match=f"{setting} must be"):
        SDMGrad(**{setting: value})
