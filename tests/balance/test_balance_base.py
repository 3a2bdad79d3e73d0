"""What all methods share: checks of the input, names, registry, state before the first step."""

import copy

import pytest
import torch

from equipoise.balance import DAO, Balancer, Equal, available, create, describe, register
from equipoise.balance._registry import _BALANCERS
from equipoise.errors import BalanceError


def pair(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(value, requires_grad=True), "b": torch.tensor(2 * value, requires_grad=True)}


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(BalanceError, match=r"^no balancer 'equl'\. Did you mean 'equal'\? Available: .*dao, .*equal, "):
        create("equl", ["a"])


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(BalanceError, match=r"^balancer 'dao' has no setting 'smothing'\. Did you mean 'smoothing'\?"):
        create("dao", ["a"], smothing=0.9)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(BalanceError, match="balancer 'fixed': missing a required argument: 'weights'"):
        create("fixed", ["a"])


def test_a_method_of_one_s_own_is_registered_once() -> None:
    try:

        @register("mine")
        class Mine(Equal):
            """Equal by another name."""

        assert available()["mine"] is Mine
        assert isinstance(create("mine", ["a"]), Mine)
        with pytest.raises(BalanceError, match="registered already"):
            register("mine")(DAO)
    finally:
        _BALANCERS.pop("mine", None)


def test_describe_has_a_row_for_each_method() -> None:
    rows = describe()
    assert [row["method"] for row in rows] == list(available())
    assert next(row["needs"] for row in rows if row["method"] == "equal") == "nothing"
    assert "smoothing" in next(row["settings"] for row in rows if row["method"] == "dao")


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "no losses"),
        ({"a": torch.zeros(0), "b": torch.zeros(0)}, "no task is present"),
        ({"a": 1.0}, "task 'a': a loss is a floating-point tensor.*found float"),
        ({"a": torch.ones(2, 2)}, r"task 'a'.*found torch.float32 \[2, 2\]"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "task 'a'.*found torch.int64"),
        ({"a": torch.tensor(1.0)}, "task 'a': the loss carries no gradient"),
        ({"labels": torch.tensor(1.0)}, r"no task 'labels'\. Did you mean 'label'\? Tasks: a, b, label"),
    ],
)
def test_unusable_losses_are_named(losses: dict, message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        Equal(tasks=["a", "b", "label"])(losses)


@pytest.mark.parametrize("tasks", [[], "ab", ["a", "a"], ["a", 3], [""]])
def test_unusable_task_names_are_refused(tasks: object) -> None:
    with pytest.raises(BalanceError, match="tasks must"):
        Equal(tasks=tasks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "task"}, r"scale must be one of 'tasks', 'one', found 'task'\. Did you mean 'tasks'\?"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be one of"),
        ({"monitor_every": 0}, "whole number N >= 1, found 0"),
        ({"monitor_every": 1.5}, "whole number"),
    ],
)
def test_unusable_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        Equal(**settings)


def test_names_come_from_the_first_call_and_stay() -> None:
    balancer = Equal()
    balancer(pair())
    assert balancer.tasks == ("a", "b")
    with pytest.raises(BalanceError, match="no task 'c'"):
        balancer({"c": torch.tensor(1.0, requires_grad=True)})


def test_loading_names_a_nameless_balancer_and_refuses_other_tasks() -> None:
    trained = Equal(tasks=["a", "b"])
    trained(pair())
    fresh = Equal()
    fresh.load_state_dict(trained.state_dict())
    assert fresh.tasks == ("a", "b")
    assert fresh.step == 1
    with pytest.raises(BalanceError, match="saved state is of tasks a, b, not of a, c"):
        Equal(tasks=["a", "c"]).load_state_dict(trained.state_dict())


def test_a_state_saved_before_the_first_step_loads_as_new() -> None:
    named = DAO(tasks=["a", "b"])
    named.load_state_dict(DAO().state_dict())
    assert named.tasks == ("a", "b")
    assert named.norms.tolist() == [0.0, 0.0]


def test_what_was_last_measured_is_in_the_state_and_a_state_without_it_loads() -> None:
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    whole = DAO(every=3)
    whole({"a": hidden[:, 0] * 3, "b": hidden[:, 1]}, shared=hidden)
    resumed, old = DAO(every=3), DAO(every=3, tasks=["a", "b"])
    resumed.load_state_dict(whole.state_dict())
    assert resumed.last["norms"] == whole.last["norms"] == {"a": 3.0, "b": 1.0}
    assert resumed.last["cosines"] == whole.last["cosines"] == {"a|b": 0.0}
    old.load_state_dict({key: value for key, value in whole.state_dict().items() if not key.startswith("last_")})
    assert (old.last["norms"], old.last["cosines"]) == ({}, {})
    assert old.norms.tolist() == [3.0, 1.0]


def test_state_of_a_balancer_inside_a_model_loads() -> None:
    model = torch.nn.ModuleDict({"balancer": Equal()})
    model["balancer"](pair())
    other = torch.nn.ModuleDict({"balancer": Equal()})
    other.load_state_dict(model.state_dict())
    assert other["balancer"].tasks == ("a", "b")


def test_every_task_not_finite_cannot_be_skipped() -> None:
    with pytest.raises(BalanceError, match="No task is left to train on"):
        Equal(on_nonfinite="skip")(pair(float("nan")))


def test_monitoring_measures_for_methods_that_do_not_need_it() -> None:
    hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)
    losses = {"a": 3 * hidden[0, 0], "b": 4 * hidden[0, 0]}
    balancer = Equal(monitor=True, monitor_every=2)
    assert balancer.requires == {"shared"}
    assert Equal().requires == frozenset()
    balancer(losses, shared=hidden)
    assert balancer.last["norms"] == {"a": 3.0, "b": 4.0}
    assert balancer.last["cosines"] == {"a|b": pytest.approx(1.0)}
    balancer({"a": 5 * hidden[0, 0], "b": hidden[0, 1]}, shared=hidden)
    assert balancer.last["norms"] == {"a": 3.0, "b": 4.0}, "the second step is not measured"
    balancer({"a": 5 * hidden[0, 0], "b": hidden[0, 1]}, shared=hidden)
    assert balancer.last["norms"] == {"a": 5.0, "b": 1.0}
    assert balancer.last["weights"] == {"a": 1.0, "b": 1.0}
    with pytest.raises(BalanceError, match="Equal needs shared"):
        balancer(losses)


def test_reading_last_gives_plain_numbers_and_training_does_not_convert(monkeypatch) -> None:
    reads = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.dtype) or original(tensor))
    balancer = Equal(tasks=["a", "b"])
    reads.clear()
    balancer(pair())
    assert len(reads) == 1, "one wait a step: the check that all is finite"
    assert balancer.last["losses"] == {"a": 1.0, "b": 2.0}
    assert type(balancer.last["losses"]["a"]) is float


def test_averages_keep_float32_when_the_model_is_cast_to_bfloat16() -> None:
    balancer = DAO(tasks=["a", "b"]).to(torch.bfloat16)
    hidden = torch.ones(1, 2, requires_grad=True)
    balancer({"a": 3 * hidden[0, 0], "b": hidden[0, 1]}, shared=hidden)
    assert balancer.norms.dtype == torch.float32
    assert balancer.norms.tolist() == [3.0, 1.0]


def test_a_balancer_can_be_copied() -> None:
    balancer = Equal(tasks=["a", "b"])
    balancer(pair())
    assert copy.deepcopy(balancer).last == balancer.last


def test_a_method_without_weigh_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Balancer()(pair())
