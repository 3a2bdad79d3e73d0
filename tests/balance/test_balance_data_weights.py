"""Data weights: hand-computed values, mean 1, running averages, and who is weighed by what."""

import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from equipoise.balance import DAO, DataWeights
from equipoise.errors import BalanceError


def one(rule: object, labels: torch.Tensor, **settings: float) -> torch.Tensor | None:
    return DataWeights(rule, tasks=["t"], **settings)([torch.ones(len(labels))], {"t": labels})[0]


def test_inverse_frequency_by_hand() -> None:
    found = one("inverse_frequency", torch.tensor([0, 0, 0, 1]), exponent=0.5)
    raw = [(3 / 4) ** -0.5] * 3 + [(1 / 4) ** -0.5]
    assert found.tolist() == pytest.approx([4 * x / sum(raw) for x in raw], rel=1e-6)
    assert one("inverse_frequency", torch.tensor([2, 2])).tolist() == [1.0, 1.0]
    assert one("inverse_frequency", torch.tensor([0, 0, 1]), exponent=0.0).tolist() == [1.0, 1.0, 1.0]


def test_inverse_frequency_blends_the_batch_with_the_running_average() -> None:
    weigh = DataWeights("inverse_frequency", tasks=["t"], exponent=1.0, smoothing=0.75)
    weigh([torch.ones(2)], {"t": torch.tensor([0, 1])})
    found = weigh([torch.ones(4)], {"t": torch.tensor([0, 0, 0, 1])})[0]
    # Shares: 0.75 * 1/2 + 0.25 * 3/4 = 9/16 and 7/16.
    raw = [16 / 9] * 3 + [16 / 7]
    assert found.tolist() == pytest.approx([4 * x / sum(raw) for x in raw], rel=1e-6)


def test_more_classes_than_the_grid_has_bins() -> None:
    weigh = DataWeights("inverse_frequency", tasks=["t", "u"], exponent=1.0)
    found = weigh([torch.ones(3), None], {"t": torch.tensor([500, 500, 3])})[0]
    assert found.tolist() == pytest.approx([0.75, 0.75, 1.5])
    fresh = DataWeights("inverse_frequency", tasks=["t", "u"])
    fresh.load_state_dict(weigh.state_dict())
    assert fresh.shares.shape == (2, 501)


def test_density_raises_rare_scores_and_keeps_mean_one() -> None:
    labels = torch.cat([torch.linspace(-0.1, 0.1, 30), torch.tensor([-1.0, 1.0])])
    found = one("density", labels)
    assert found.mean().item() == pytest.approx(1.0)
    assert found[-2:].min() > 2 * found[:30].max()
    even = one("density", torch.linspace(-1, 1, 640))
    assert even[100:540].max() / even[100:540].min() < 1.1, "a flat density weighs alike, but for its edges"


def test_density_by_hand_on_two_far_labels() -> None:
    # Kernels do not overlap, so the density at each is its share: as inverse frequency.
    found = one("density", torch.tensor([0.0, 0.0, 0.0, 1.0]), exponent=1.0)
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0], rel=1e-5)


def test_the_grid_grows_when_labels_leave_it_and_loses_none() -> None:
    weigh = DataWeights("density", tasks=["t"], smoothing=0.5)
    weigh([torch.ones(2)], {"t": torch.tensor([0.0, 1.0])})
    assert weigh.spans.tolist() == [[-0.5, 1.5]]
    found = weigh([torch.ones(3)], {"t": torch.tensor([0.0, 1.0, 50.0])})[0]
    assert weigh.spans[0, 0] == -0.5
    assert weigh.spans[0, 1] > 50
    # 0 and 1 now share the first of 64 bins over [-0.5, 75]: half of the old mass, and two thirds of half of the new.
    occupied = weigh.shares[0].nonzero().flatten().tolist()
    assert occupied[0] == 0
    assert weigh.shares[0, :2].sum().item() == pytest.approx(1 / 2 + 1 / 3)
    assert weigh.shares[0, occupied[-1]].item() == pytest.approx(1 / 6)
    assert weigh.shares.sum().item() == pytest.approx(1.0)
    assert found[2] > found[0]


def test_a_first_batch_of_one_label_has_a_grid() -> None:
    assert one("density", torch.tensor([0.3, 0.3])).tolist() == [1.0, 1.0]
    assert one("density", torch.tensor([0.0])).tolist() == [1.0]


def test_entropy_by_hand() -> None:
    weigh = DataWeights("entropy", tasks=["a", "b"])
    labels = {"a": torch.tensor([0, 0, 0, 1]), "b": torch.tensor([0, 1, 0, 1])}
    a, b = weigh([torch.ones(4), torch.ones(4)], labels)
    u = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert a.item() == pytest.approx(2 * u / (u + 1), rel=1e-6)
    assert b.item() == pytest.approx(2 / (u + 1), rel=1e-6)


def test_entropy_never_stops_a_task_and_ignores_what_says_nothing() -> None:
    weigh = DataWeights("entropy", tasks=["a", "b"])
    both = torch.tensor([0, 1, 0, 1])
    weigh([torch.ones(4)] * 2, {"a": both, "b": both})
    a, b = weigh([torch.ones(4)] * 2, {"a": torch.zeros(4, dtype=torch.int64), "b": both})
    assert a.item() == pytest.approx(2 * 0.1 / 1.1, rel=1e-6)
    assert (a + b).item() == pytest.approx(2.0)
    a, b = weigh([torch.ones(1), torch.ones(4)], {"a": torch.tensor([0]), "b": both})
    assert (a.item(), b.item()) == (1.0, 1.0)


def test_entropy_takes_scalar_losses_and_scores() -> None:
    weigh = DataWeights("entropy", tasks=["a", "b"])
    spread, narrow = torch.linspace(-1, 1, 32), torch.cat([torch.zeros(31), torch.ones(1)])
    a, b = weigh([torch.tensor(1.0), torch.tensor(1.0)], {"a": spread, "b": narrow})
    assert a > b


def test_one_name_weighs_what_fits_and_a_mapping_is_strict() -> None:
    labels = {"score": torch.linspace(0, 1, 4), "label": torch.tensor([0, 0, 0, 1]), "many": torch.ones(4, 3)}
    losses = [torch.ones(4)] * 3
    tasks = ["score", "label", "many"]
    assert [x is None for x in DataWeights("inverse_frequency", tasks=tasks)(losses, labels)] == [True, False, True]
    assert [x is None for x in DataWeights("density", tasks=tasks)(losses, labels)] == [False, True, True]
    mixed = DataWeights({"score": "density", "label": "inverse_frequency", "many": None}, tasks=tasks)
    assert [x is None for x in mixed(losses, labels)] == [False, False, True]
    with pytest.raises(BalanceError, match=r"task 'score': inverse_frequency weighs integer \[n\] targets, found"):
        DataWeights({"score": "inverse_frequency"}, tasks=tasks)(losses, labels)
    assert DataWeights("density", tasks=tasks)(losses, {}) == [None] * 3


def test_a_batch_without_an_example_here_is_no_error() -> None:
    weigh = DataWeights("entropy", tasks=["a", "b"])
    assert weigh([None, None], {"a": torch.tensor([0, 1])}) == [None, None]
    assert not weigh.shares.any()


class Reads(TorchFunctionMode):
    """Counts what would wait for a device: a tensor read by the host."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        names = {"tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__"}
        self.count += getattr(func, "__name__", "") in names
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("rule", ["inverse_frequency", "density", "entropy"])
def test_the_host_reads_once_a_step_however_many_tasks(rule: str, tasks: int) -> None:
    names = ["a", "b", "c"][:tasks]
    weigh = DataWeights(rule, tasks=names)
    labels = torch.tensor([0, 1, 1, 70]) if rule != "density" else torch.tensor([0.0, 0.1, 0.2, 9.0])
    for _ in range(2):
        with Reads() as reads:
            weigh([torch.ones(4)] * tasks, dict.fromkeys(names, labels))
        assert reads.count == 1


def test_entropy_is_exact_in_float64() -> None:
    weigh = DataWeights("entropy", tasks=["a", "b"])
    labels = {"a": torch.tensor([0, 1, 2, 2]), "b": torch.tensor([0, 0, 0, 1])}
    a, b = weigh([torch.ones(4, dtype=torch.float64)] * 2, labels)
    first = -(0.5 * math.log(0.25) + 0.5 * math.log(0.5)) / math.log(3)
    second = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert (a / b).item() == pytest.approx(first / second, rel=1e-13)


@pytest.mark.parametrize(
    ("rule", "loss", "labels", "message"),
    [
        ("inverse_frequency", torch.ones(2), torch.tensor([0, -100]), "class -100 in targets"),
        ("inverse_frequency", torch.ones(2), torch.tensor([0, 1, 1]), "3 targets for 2 losses"),
        ("inverse_frequency", torch.tensor(1.0), torch.tensor([0, 1]), "needs one loss per example"),
        ("density", torch.ones(2), torch.tensor([0.0, float("nan")]), "a target is not finite"),
    ],
)
def test_unusable_targets_are_named_and_change_no_state(rule, loss, labels, message) -> None:
    weigh = DataWeights(rule, tasks=["t"])
    with pytest.raises(BalanceError, match=f"task 't': .*{message}"):
        weigh([loss], {"t": labels})
    assert not weigh.shares.any()
    with pytest.raises(BalanceError, match=r"no task 'tt'\. Did you mean 't'\?"):
        weigh([loss], {"tt": labels})


def test_dao_puts_the_weights_inside_the_loss_but_not_inside_the_norm() -> None:
    def losses() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        hidden = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        return {"r": hidden[:, 0] * 3, "c": hidden[:, 1] * torch.tensor([1.0, 2.0, 3.0, 4.0])}, hidden

    targets = {"r": torch.linspace(0, 1, 4), "c": torch.tensor([0, 0, 0, 1])}
    found, hidden = losses()
    plain = DAO()
    plain(found, shared=hidden)
    found, hidden = losses()
    balancer = DAO(data_weights="inverse_frequency", data_exponent=1.0)
    total = balancer(found, shared=hidden, targets=targets)
    assert balancer.last["norms"] == plain.last["norms"]
    lambdas = plain.last["weights"]
    # Class shares 3/4 and 1/4: weights 2/3 and 2.
    weighted = (2 / 3 * 1 + 2 / 3 * 2 + 2 / 3 * 3 + 2 * 4) / 4
    assert total.item() == pytest.approx(lambdas["r"] * 3 + lambdas["c"] * weighted, rel=1e-12)
    assert balancer.last["weights"] == pytest.approx(lambdas)
    assert balancer.last["data_weights"] == pytest.approx({"r": 1.0, "c": 1.0})


@pytest.mark.parametrize("rule", ["inverse_frequency", "density", "entropy"])
def test_state_round_trip_of_dao_with_data_weights(rule: str) -> None:
    def step(balancer: DAO, number: int) -> float:
        draw = torch.Generator().manual_seed(number)
        hidden = torch.randn(8, 2, generator=draw).requires_grad_()
        targets = {"r": torch.randn(8, generator=draw), "c": torch.randint(0, 3, (8,), generator=draw)}
        losses = {"r": hidden[:, 0].square(), "c": hidden[:, 1].exp()}
        return balancer(losses, shared=hidden, targets=targets).item()

    whole = DAO(data_weights=rule, smoothing=0.9, double_batch=True)
    for number in range(4):
        step(whole, number)
    resumed = DAO(data_weights=rule, smoothing=0.9, double_batch=True)
    resumed.load_state_dict(whole.state_dict())
    assert [step(resumed, number) for number in range(4, 14)] == [step(whole, number) for number in range(4, 14)]
