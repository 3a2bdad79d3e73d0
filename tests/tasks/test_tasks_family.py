"""What every task kind promises, checked over all registered kinds and over the one that the documentation adds."""

import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_matrix

import equipoise.tasks as tasks
from equipoise.errors import EquipoiseError, RecipeError
from equipoise.tasks import _base

ROOT = Path(__file__).parents[2]

# kind -> (settings, labels that can all be used)
EXAMPLES = {
    "regression": ({"range": (0, 5)}, ["0", "1.5", "5", "2", "3.25", "4"]),
    "classification": (
        {"class_weights": "balanced", "label_smoothing": 0.05},
        ["good", "bad", "good", "fair", "good", "bad"],
    ),
    "multilabel": ({"empty": "none"}, ["joy|awe", "fear", "none", "joy", '["awe","fear"]', "fear|joy"]),
    "ordinal": ({}, ["1", "3", "2", "3", "10", "1"]),
}
GARBAGE = [
    "",
    "   ",
    "\x00",
    "[",
    "[]",
    "[[[]]]",
    '{"a": 1}',
    "|||",
    "nan",
    "-inf",
    "1e999",
    "9" * 5000,
    "--1",
    "½",
    "²",
    "x" * 100_000,
    "\u202ejoy",
    "😀",
    "null",
    "True",
    "3.7",
]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors only: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def column(labels):
    return pa.chunked_array([pa.array(labels, pa.string())])


def fitted(kind):
    settings, labels = EXAMPLES[kind]
    cls = tasks.kind(kind)
    return cls.fit("mood", cls.Settings(column="felt", **settings), column(labels)), labels


def check_contract(task, labels):
    check_round_trip(task, labels)
    check_encode(task, labels)
    targets = task.encode(column(labels)).targets
    check_loss(task, targets)
    check_predictions_and_metrics(task, targets)
    check_baselines(task, targets)


def check_round_trip(task, labels):
    data = task.to_dict()
    assert data["kind"] == task.kind
    assert (data["name"], data["column"]) == (task.name, task.column)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    again = tasks.from_dict(data)
    assert again == task
    assert np.array_equal(again.encode(column(labels)).targets, task.encode(column(labels)).targets, equal_nan=True)
    with pytest.raises((AttributeError, TypeError)):
        task.name = "other"


def check_encode(task, labels):
    usable = task.encode(column(labels))
    assert usable.reasons == {}
    assert usable.targets.dtype == np.float32
    assert not np.isnan(usable.targets).any()
    assert usable.targets.shape[0] == len(labels)

    mixed = task.encode(column([None, "", *labels, "\t"]))
    assert mixed.reasons == {}
    assert np.array_equal(mixed.targets[2:-1], usable.targets)
    assert np.isnan(mixed.targets[[0, 1, -1]]).all()

    garbage = task.encode(column(GARBAGE))
    unusable = {row for row in range(len(GARBAGE)) if np.isnan(garbage.targets[row]).any()}
    missing = {row for row, label in enumerate(GARBAGE) if not label.strip()}
    assert set(garbage.reasons) == unusable - missing
    assert len(garbage.reasons) > 10
    assert all(reason.startswith(task.column) and len(reason) < 400 for reason in garbage.reasons.values())

    # in other forms of the same column: sliced, in chunks, large, as a dictionary, empty
    whole = pa.array(["x", *labels], pa.string())
    for form in (
        whole[1:],
        pa.chunked_array([whole[1:3], whole[3:]]),
        whole[1:].cast(pa.large_string()),
        whole.dictionary_encode()[1:],
    ):
        assert np.array_equal(task.encode(form).targets, usable.targets)
    for empty in (column([]), pa.chunked_array([], pa.string()), pa.nulls(0)):
        assert task.encode(empty).targets.shape == (0, *usable.targets.shape[1:])
    assert np.isnan(task.encode(pa.nulls(3)).targets).all()


def check_loss(task, targets):
    generator = torch.manual_seed(0)
    y, n = torch.from_numpy(targets), len(targets)
    outputs = torch.randn(n, task.size, generator=generator, requires_grad=True)
    losses = task.loss(outputs, y)
    assert losses.shape == (n,)
    assert torch.isfinite(losses).all()
    for row in range(n):  # each example's loss depends on that example, and on it alone
        (gradient,) = torch.autograd.grad(losses[row], outputs, retain_graph=True)
        assert gradient[row].abs().sum() > 0
        assert torch.count_nonzero(gradient) == torch.count_nonzero(gradient[row])
    order = torch.randperm(n, generator=generator)
    assert torch.allclose(task.loss(outputs[order], y[order]), losses[order])
    assert task.loss(outputs[:0], y[:0]).shape == (0,)
    half = task.loss(outputs.to(torch.bfloat16), y)
    assert half.dtype == torch.float32
    assert torch.allclose(half, losses, rtol=0.1, atol=0.05)
    assert len(task.balance_targets(y)) == n


def learned_outputs(task, targets):
    """Outputs that minimise the loss, found by descent: what a perfect model would say."""
    outputs = torch.zeros(len(targets), task.size, requires_grad=True)
    optimiser = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        task.loss(outputs, torch.from_numpy(targets)).sum().backward()
        optimiser.step()
    return outputs.detach().numpy()


def check_predictions_and_metrics(task, targets):
    assert task.size == len(task.outputs) == len(set(task.outputs))
    assert all(output.startswith(task.name) for output in task.outputs)
    outputs, n = learned_outputs(task, targets), len(targets)
    columns = task.predict(outputs)
    assert next(iter(columns)) == task.name
    assert all(name.startswith(f"{task.name}/") for name in list(columns)[1:])
    assert all(values.shape == (n,) for values in columns.values())
    assert all(((values >= 0) & (values <= 1)).all() for values in list(columns.values())[1:])
    # what minimises the loss predicts the truth
    true = task.decode(targets)
    if true.dtype == object:
        assert columns[task.name].tolist() == true.tolist()
    else:
        assert columns[task.name] == pytest.approx(true, abs=0.05)

    metric, direction = task.main_metric
    found = task.metrics(outputs, targets)
    assert found["n"] == n
    constant = task.metrics(np.tile(task.constant_outputs(targets), (n, 1)), targets)
    assert (found[metric] > constant[metric]) if direction == "max" else (found[metric] < constant[metric])

    # rows without a label take no part, whatever the model says of them
    masked, spoilt = targets.copy(), outputs.copy()
    masked[1], spoilt[1] = np.nan, np.nan
    assert task.metrics(spoilt, masked) == task.metrics(np.delete(outputs, 1, 0), np.delete(targets, 1, 0))
    spoilt[0] = np.inf
    with pytest.raises(EquipoiseError, match=f"{task.name}: the model's output is not finite in 1 of {n - 1} rows"):
        task.metrics(spoilt, masked)

    for some in (found, constant, task.metrics(outputs, np.full_like(targets, np.nan)), task.summary(targets)):
        assert json.loads(json.dumps(some, allow_nan=False)) == some  # plain numbers, none of them NaN
    assert task.metrics(outputs[:0], targets[:0])["n"] == 0
    assert task.summary(masked)["n"] == n - 1
    assert task.summary(targets[:0])["n"] == 0


def check_baselines(task, targets):
    constant = task.constant_outputs(targets)
    assert constant.shape == (task.size,)
    assert constant.dtype == np.float32
    assert np.isfinite(constant).all()
    assert np.isfinite(task.constant_outputs(np.full_like(targets, np.nan))).all()

    many = np.tile(targets, (12, *[1] * (targets.ndim - 1)))
    features = csr_matrix(np.tile(np.eye(len(targets), dtype=np.float32), (12, 1)))  # one word tells all
    outputs = task.fit_baseline(features, many)(features)
    assert outputs.shape == (len(many), task.size)
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    metric, direction = task.main_metric
    learned = task.metrics(outputs, many)[metric]
    dull = task.metrics(np.tile(constant, (len(many), 1)), many)[metric]
    assert learned > dull if direction == "max" else learned < dull
    assert np.isfinite(task.fit_baseline(features[:2], many[:2])(features[:2])).all()


def test_every_kind_has_an_example():
    assert set(EXAMPLES) == set(tasks.available())


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_contract(kind):
    check_contract(*fitted(kind))


def test_contract_of_a_derived_task():
    source, labels = fitted("regression")
    cls = tasks.kind("classification")
    settings = cls.Settings(**{"from": "mood", "bins": 3})
    check_contract(cls.fit("band", settings, column(labels), source=source), labels)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_settings_are_described_and_strict(kind):
    settings = tasks.kind(kind).Settings
    assert settings.model_fields["type"].default == kind
    assert all(field.description for field in settings.model_fields.values())
    dumped = settings().model_dump(mode="json", by_alias=True)
    assert settings.model_validate(dumped) == settings()  # a recipe with every default written out reads the same
    assert json.dumps(settings.model_json_schema())
    with pytest.raises(ValueError, match="Extra inputs"):
        settings(colour="red")


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_the_page_on_kinds_names_every_key_and_metric(kind):
    page = (ROOT / "docs" / "tasks.md").read_text()
    section = re.search(rf"^## {kind}\n(.*?)^## ", page, re.DOTALL | re.MULTILINE).group(1)
    task, labels = fitted(kind)
    targets = task.encode(column(labels)).targets
    metrics = task.metrics(np.zeros((len(labels), task.size), np.float32), targets)
    keys = {field.alias or name for name, field in task.Settings.model_fields.items()} - {"type", "column"}
    assert [name for name in [*keys, *metrics] if f"`{name}`" not in section] == []


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no task type 'regresion'. Did you mean 'regression'\? Available: classif"):
        tasks.kind("regresion")


def test_checking_a_recipe_loads_nothing_heavy():
    heavy = "torch sklearn scipy pandas pyarrow"
    code = f"import sys, equipoise.tasks; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_on_adding_a_kind_adds_one_by_adding_one_file(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "add-a-task-kind.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "_count.py").write_text(code)
    monkeypatch.setattr(_base, "_KINDS", dict(_base._KINDS))
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        tasks._import_kinds()
        assert "count" in tasks.available()
        count = tasks.kind("count")
        labels = ["0", "1", "4", "2", "7", "0"]
        task = count.fit("replies", count.Settings(column="felt"), column(labels))
        assert task.encode(column(["1.5", "-1"])).reasons == {
            0: "felt '1.5' is not a whole number",
            1: "felt '-1' is outside the range [0, 1000000]",
        }
        loss = task.loss(torch.tensor([[0.5]]), torch.tensor([3.0]))
        assert loss.item() == pytest.approx(math.exp(0.5) - 3 * 0.5)
        check_contract(task, labels)
    finally:
        sys.modules.pop("equipoise.tasks._count", None)
        vars(tasks).pop("_count", None)
    monkeypatch.undo()
    assert "count" not in tasks.available()
