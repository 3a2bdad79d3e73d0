"""The adapter: what TorchJD's modules get, what they remember, what is refused, and what is said when one is missing."""

import io
import subprocess
import sys

import pytest
import torch
from jacobians import TASKS, combined, crossed, draw, named, step, turn

from equipoise.balance import Balancer, measure
from equipoise.balance._foreign import ask, build, packed
from equipoise.balance._mgda import MGDA
from equipoise.balance._streams import stream
from equipoise.balance._torchjd import TorchJDBalancer
from equipoise.errors import BalanceError

aggregation = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")

STATEFUL = {
    "GradVac": lambda: aggregation.GradVacWeighting(),
    "PCD": lambda: aggregation.PCDWeighting(tau=0.3),
    "CRMOGM": lambda: aggregation.CRMOGMWeighting(aggregation.PCGradWeighting(), alpha=0.7),
    "DWA": lambda: scalarization.DWA(),
    "FAMO": lambda: scalarization.FAMO(4),
    "MoDo": lambda: aggregation.MoDoWeighting(),
    "SDMGrad": lambda: aggregation.SDMGradWeighting(),
    "own": lambda: Own(),
}


class Own(aggregation.Weighting):
    """A user's weighting with a memory that it tells nobody about."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[torch.Tensor] = []

    def forward(self, gramian):
        self.history.append(gramian.diagonal().sqrt())
        return 1 / torch.stack(self.history).mean(0)


def advance(balancer: Balancer, number: int) -> list[float]:
    """A step of whatever kind the module needs, with an absent task in some."""
    jacobian = draw(number)
    if balancer.kind == "cross":
        return turn(balancer, crossed(jacobian @ draw(number + 1).T / 10)).tolist()
    rows = named(jacobian.abs() if balancer.kind == "scalarizer" else jacobian)  # losses above zero
    if number % 3 == 1:
        del rows["c"]
    weights = list(step(balancer, rows).values())
    if "after" in balancer.requires:
        balancer.observe_after({task: 0.9 * row.sum() / (1 + k) for k, (task, row) in enumerate(rows.items())})
    elif balancer.kind == "scalarizer" and number % 2:
        balancer.weighting.step()
    return weights


@pytest.mark.parametrize("name", STATEFUL)
def test_state_that_torchjd_does_not_save_is_restored_to_the_bit(name: str) -> None:
    whole = TorchJDBalancer(weighting=STATEFUL[name](), tasks=TASKS)
    whole.fit(torch.device("cpu"), torch.float64)
    for number in range(5):
        advance(whole, number)
    stored = io.BytesIO()
    torch.save(whole.state_dict(), stored)
    assert all(isinstance(value, torch.Tensor) for value in whole.state_dict().values())
    stored.seek(0)
    resumed = TorchJDBalancer(weighting=STATEFUL[name](), tasks=TASKS)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    expected = [advance(whole, number) for number in range(5, 12)]
    assert [advance(resumed, number) for number in range(5, 12)] == expected
    fresh = TorchJDBalancer(weighting=STATEFUL[name](), tasks=TASKS)
    fresh.fit(torch.device("cpu"), torch.float64)
    if name != "SDMGrad":  # which forgets its start within a step
        assert [advance(fresh, number) for number in range(5, 12)] != expected, "the state matters"


@pytest.mark.parametrize("name", STATEFUL)
def test_weigh_changes_nothing(name: str) -> None:
    balancer = TorchJDBalancer(weighting=STATEFUL[name](), tasks=TASKS)
    balancer.fit(torch.device("cpu"), torch.float64)
    for number in range(3):
        advance(balancer, number)
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    losses, present = torch.arange(1.0, 5.0).double(), torch.ones(4, dtype=torch.bool)
    cross = crossed(draw(0, 4, 4))
    hidden = torch.ones(1, 7, dtype=torch.float64, requires_grad=True)
    found = measure([(hidden[0] * row).sum() for row in draw(9)], hidden)
    balancer.weigh(losses, present, {"cross": cross, "scalarizer": None}.get(balancer.kind, found))
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)


def test_a_setting_of_the_recipe_is_not_overwritten_by_a_checkpoint() -> None:
    old = TorchJDBalancer(weighting="GradVacWeighting", settings={"beta": 0.9}, tasks=TASKS)
    advance(old, 0)
    new = TorchJDBalancer(weighting="GradVacWeighting", settings={"beta": 0.1}, tasks=TASKS)
    new.load_state_dict(old.state_dict())
    assert new.weighting.beta == 0.1
    assert torch.equal(new.weighting._phi_t, old.weighting._phi_t)


@pytest.mark.parametrize("form", ["name", "object", "aggregator"])
def test_it_is_the_same_as_our_method(form: str) -> None:
    given = {
        "name": "MGDAWeighting",
        "object": aggregation.MGDAWeighting(),
        "aggregator": aggregation.MGDA(),
    }[form]
    jacobian = draw(0)
    assert step(TorchJDBalancer(weighting=given), named(jacobian)) == pytest.approx(step(MGDA(), named(jacobian)))


@pytest.mark.parametrize("seed", range(3))
def test_stateful_weightings_as_torchjd_over_steps(seed: int) -> None:
    balancer, reference = TorchJDBalancer(weighting="GradVacWeighting", seed=seed), aggregation.GradVac()
    for number in range(6):
        jacobian = draw(number, size=4)
        found = combined(step(balancer, named(jacobian)), jacobian)
        with torch.random.fork_rng():
            torch.manual_seed(stream(seed, number))
            torch.testing.assert_close(found, reference(jacobian), rtol=1e-9, atol=1e-10)


def test_the_memory_of_an_absent_task_stays() -> None:
    balancer = TorchJDBalancer(weighting="GradVacWeighting")
    step(balancer, named(draw(0)))
    before = balancer.weighting._phi_t.clone()
    rows = named(draw(1))
    del rows["b"]
    step(balancer, rows)
    after = balancer.weighting._phi_t
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[0, 2], before[0, 2])


def test_a_task_without_gradient_gets_the_mean_of_the_others_from_a_stateful_weighting_too() -> None:
    found = step(TorchJDBalancer(weighting="GradVacWeighting"), {"a": [1, 0], "b": [-1, 1], "c": [0, 0]})
    assert found == pytest.approx({"a": 2, "b": 1.5, "c": 1.75}, rel=1e-6)


def test_a_scalarizer_by_hand() -> None:
    balancer = TorchJDBalancer(weighting=scalarization.GeometricMean())
    assert balancer.requires == frozenset()
    losses = {"b": torch.tensor(4.0, requires_grad=True), "a": torch.tensor(1.0, requires_grad=True)}
    balancer(losses)
    assert balancer.last["weights"] == pytest.approx({"b": 2 / 2 / 4, "a": 2 / 2 / 1})


def test_a_scalarizer_gets_the_last_known_losses_of_absent_tasks_and_the_mean_of_unknown_ones() -> None:
    asked = []

    class Spy(scalarization.Scalarizer):
        def forward(self, values):
            asked.append(values.detach().clone().tolist())
            return values.square().sum() / 2

    balancer = TorchJDBalancer(weighting=Spy(), tasks=["c", "a", "b"])

    def call(**values: float) -> dict[str, float]:
        balancer({task: torch.tensor(value, requires_grad=True) for task, value in values.items()})
        return balancer.last["weights"]

    assert call(c=5.0, a=1.0) == {"c": 5.0, "a": 1.0}
    assert asked[-1] == [1.0, 3.0, 5.0], "in the order of the names"
    assert call(b=7.0, a=2.0) == {"a": 2.0, "b": 7.0}
    assert asked[-1] == [2.0, 7.0, 5.0]


def test_settings_from_a_recipe_become_tensors_by_name() -> None:
    settings = {"weights": {"c": 3.0, "a": 1.0, "b": 2.0}}
    balancer = TorchJDBalancer(weighting="Constant", settings=settings, tasks=["c", "a", "b"])
    balancer({task: torch.tensor(1.0, requires_grad=True) for task in "abc"})
    assert balancer.last["weights"] == settings["weights"]
    listed = TorchJDBalancer(weighting="Constant", settings={"weights": [1.0, 2.0]}, tasks=["b", "a"])
    listed({task: torch.tensor(1.0, requires_grad=True) for task in "ab"})
    assert listed.last["weights"] == {"b": 2.0, "a": 1.0}


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        (aggregation.ExcessMTLWeighting(), "ExcessMTLWeighting needs the gradients themselves"),
        (aggregation.MeanWeighting(), "MeanWeighting needs the gradients themselves"),
        (aggregation.CRMOGMWeighting(aggregation.ExcessMTLWeighting()), "ExcessMTLWeighting needs the gradients"),
        (aggregation.TrimmedMean(1), "weighting must be a Weighting or a Scalarizer"),
        (aggregation.MGDAWeighting, "weighting must be a Weighting or a Scalarizer"),
        (3, "weighting must be a Weighting or a Scalarizer"),
        ("MGDA", r"TorchJD has no 'MGDA'. It has: .*MGDAWeighting"),
        (scalarization.UW(4), "UW learns parameters of its own"),
        (scalarization.IMTLL(4), "IMTLL learns parameters of its own"),
    ],
)
def test_what_needs_more_is_refused(weighting: object, words: str) -> None:
    with pytest.raises(BalanceError, match=words):
        TorchJDBalancer(weighting=weighting)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilon": -1}, "MGDAWeighting: epsilon must be positive"),
        ({"nonsense": 1}, "MGDAWeighting: .*nonsense"),
        ({"epsilon": ["a"]}, r"settings\.epsilon must be a list of numbers"),
        ({"epsilon": {"a": 1}}, r"settings\.epsilon must give every task a number"),
        ("epsilon", "settings must map"),
    ],
)
def test_settings(settings: object, words: str) -> None:
    with pytest.raises(BalanceError, match=words):
        TorchJDBalancer(weighting="MGDAWeighting", settings=settings)
    with pytest.raises(BalanceError, match="settings go with a name"):
        TorchJDBalancer(weighting=aggregation.MGDAWeighting(), settings={"epsilon": 0.1})


def test_a_weighting_that_refuses_its_input_is_named() -> None:
    with pytest.raises(BalanceError, match=r"TorchJD's KrumWeighting: .*at least 5 rows"):
        step(TorchJDBalancer(weighting="KrumWeighting", settings={"n_byzantine": 2}), named(draw(0)))


def test_two_half_batches_are_measured_at_parameters_only() -> None:
    balancer = TorchJDBalancer(weighting="MoDoWeighting")
    assert balancer.double_batch
    assert balancer.scopes == {"parameters"}


def test_without_torchjd_there_is_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    for make in (MGDA, lambda: TorchJDBalancer(weighting="MGDAWeighting")):
        with pytest.raises(BalanceError, match=r'pip install "equipoise\[torchjd\]"'):
            make()


def test_without_its_solver_there_is_the_solver_s_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    for name, extra in (("CAGradWeighting", "cvxpy"), ("UPGradWeighting", "quadprog")):
        with pytest.raises(BalanceError, match=rf'pip install "equipoise\[{extra}\]"'):
            build(name, **({"c": 0.4} if extra == "cvxpy" else {}))


def test_importing_the_package_does_not_import_torchjd() -> None:
    code = (
        "import sys, equipoise.balance._torchjd, equipoise.balance._mgda; "
        "raise SystemExit(any(name.startswith(('torchjd', 'cvxpy', 'scipy')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_random_numbers_are_the_seed_s_and_the_step_s() -> None:
    random = scalarization.Random()
    values = torch.ones(3, dtype=torch.float64)
    before = torch.get_rng_state()
    one, same, other = (ask(random, values * torch.arange(1, 4), stream(0, step)).item() for step in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)
    assert len({stream(seed, step) for seed in range(30) for step in range(30)}) == 900


@pytest.mark.parametrize("name", ["/forward", "/epsilon_", "/__class__", "x/beta", "beta", "a/b/c", "/_forward_hooks"])
def test_a_state_sets_nothing_that_a_fresh_module_does_not_have(name: str) -> None:
    balancer = TorchJDBalancer(weighting="GradVacWeighting")
    before = dict(vars(balancer.weighting))
    with pytest.raises(BalanceError, match=r"the saved state has '.*', and GradVacWeighting has no such"):
        balancer.set_extra_state(packed({name: 1}))
    assert vars(balancer.weighting) == before


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(BalanceError, match="the saved state of GradVacWeighting is a list"):
        TorchJDBalancer(weighting="GradVacWeighting").set_extra_state(packed([1]))


@pytest.mark.parametrize("kind", [aggregation.Weighting, scalarization.Scalarizer])
def test_a_module_that_fails_half_way_remembers_nothing_of_it(kind: type) -> None:
    class Fails(kind):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.register_buffer("mean", None)

        def forward(self, statistic):
            self.calls += 1
            self.mean = statistic.detach() * 1
            if self.calls == 2:
                raise ArithmeticError("no such root")
            return statistic.sum() if kind is scalarization.Scalarizer else torch.ones(len(statistic))

    balancer = TorchJDBalancer(weighting=Fails())
    step(balancer, {"a": [1, 0], "b": [0, 2]})
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    for _ in range(2):  # the second time for the same reason as the first
        with pytest.raises(BalanceError, match="TorchJD's Fails: no such root"):
            step(balancer, {"a": [3, 0], "b": [0, 4]})
    torch.testing.assert_close(dict(balancer.state_dict()), before, rtol=0, atol=0)
    assert balancer.weighting.calls == 1


def test_a_memory_that_begins_with_the_first_step_is_refused_then_and_not_when_a_run_is_resumed() -> None:
    class Late(aggregation.Weighting):
        def forward(self, gramian):
            self.last = gramian
            return torch.ones(len(gramian))

    with pytest.raises(BalanceError, match=r"Late makes '/last' while it runs.*__init__"):
        step(TorchJDBalancer(weighting=Late()), {"a": [1, 0], "b": [0, 2]})
