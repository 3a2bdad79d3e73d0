"""Blocks that part in the middle of a training: when, what happens to the optimiser, and that a stopped run ends alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import encode, make
from stopped_runs import StopAt, comparable, weights
from torch import Tensor
from transformers.trainer_callback import TrainerControl, TrainerState

import equipoise as eq
from equipoise.errors import RecipeError, RunError
from equipoise.models import load_model, private_of, split
from equipoise.training import resume, train
from equipoise.training._branching import Branching, part_optimizer
from equipoise.training._parameters import parameter_groups, shared_parameters

CONFLICT = [
    "model.private_layers=1", "model.private_when=conflict", "model.private_patience=5", "model.private_below=1.0",
]  # fmt: skip


def losses_along(model: Any, cosine: float) -> dict[str, Tensor]:
    """Losses whose gradients at the last block have this cosine, by construction."""
    points = list(model.bert.encoder.layer[1].parameters())
    one = torch.zeros_like(points[0])
    one.view(-1)[0] = 3.0
    other = torch.zeros_like(points[0])
    other.view(-1)[:2] = torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    total = sum((p * 0).sum() for p in points)
    return {
        "polarity": ((points[0] * one).sum() + total).repeat(2),
        "label": ((points[0] * other).sum() + total).repeat(3),
    }


def watcher(tiny_backbone: Callable[[str], Path], **settings: Any) -> tuple[Branching, list[str]]:
    model = make(tiny_backbone("bert"), private_layers=1, private_when="conflict").model
    said: list[str] = []
    options = {"patience": 20, "below": -0.1, "say": said.append, **settings}
    return Branching(model, ["polarity", "label"], **options), said


def steps(watch: Branching, start: int, stop: int, cosine: float) -> None:
    optimizer = torch.optim.AdamW(watch.model.parameters())
    for step in range(start, stop):
        watch.observe(losses_along(watch.model, cosine) if watch.model.private is None else {}, step)
        watch.on_step_end(None, TrainerState(global_step=step + 1), TrainerControl(), optimizer=optimizer)  # type: ignore[arg-type]


def test_mean_and_patience_by_hand(tiny_backbone: Callable[[str], Path]) -> None:
    watch, said = watcher(tiny_backbone)
    steps(watch, 0, 1, 0.5)
    assert watch.means == {"polarity|label": pytest.approx(0.5, abs=1e-6)}
    steps(watch, 1, 11, -0.8)  # measured at 10 alone
    assert watch.means["polarity|label"] == pytest.approx(0.9 * 0.5 + 0.1 * -0.8, abs=1e-6)
    mean, step = watch.means["polarity|label"], 11
    while mean >= -0.1:
        step += 10
        mean = 0.9 * mean + 0.1 * -0.8
        steps(watch, step - 10, step, -0.8)
        assert watch.means["polarity|label"] == pytest.approx(mean, abs=1e-6)
        assert watch.since == (step - 1 if mean < -0.1 else None)
    steps(watch, step, step + 18, -0.8)
    assert (watch.model.private, watch.parted, said) == (None, None, [])
    steps(watch, step + 18, step + 19, -0.8)
    assert watch.model.private is not None
    assert watch.parted == watch.since + 20 == step + 19
    (line,) = said
    assert f"step {step + 19}: the last block now exists once a task: the gradients of polarity and label have" in line


def test_an_agreement_in_between_starts_the_wait_anew(tiny_backbone: Callable[[str], Path]) -> None:
    watch, _ = watcher(tiny_backbone)
    steps(watch, 0, 1, -0.2)
    assert watch.since == 0
    steps(watch, 10, 11, 0.9)  # 0.9 * -0.2 + 0.1 * 0.9 = -0.09
    assert watch.since is None
    steps(watch, 20, 40, 0.9)
    assert watch.model.private is None


def test_a_task_without_labels_is_not_measured(tiny_backbone: Callable[[str], Path]) -> None:
    watch, _ = watcher(tiny_backbone)
    watch.observe({**losses_along(watch.model, -1.0), "label": torch.empty(0)}, 0)
    assert watch.means == {}


def test_measuring_leaves_the_graph_and_the_gradients_alone(tiny_backbone: Callable[[str], Path]) -> None:
    watch, _ = watcher(tiny_backbone)
    losses = losses_along(watch.model, 0.0)
    watch.observe(losses, 0)
    assert all(p.grad is None for p in watch.model.parameters())
    sum(loss.sum() for loss in losses.values()).backward()
    assert watch.model.bert.encoder.layer[1].attention.self.query.weight.grad is not None


def test_several_processes_are_refused(tiny_backbone: Callable[[str], Path]) -> None:
    watch, _ = watcher(tiny_backbone)
    arguments: Any = type("Two", (), {"world_size": 2})
    with pytest.raises(RunError, match=r"model\.private_when: conflict trains in one process only"):
        watch.on_train_begin(arguments, TrainerState(), TrainerControl())


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_optimiser_is_that_of_the_parted_model(tiny_backbone: Callable[[str], Path], name: str) -> None:
    made = make(tiny_backbone(name), private_layers=1, private_when="conflict")
    decays = {key for key, p in made.model.named_parameters() if p.ndim > 1}
    rates = {"learning_rate": 1e-3, "head_learning_rate": 1e-2, "weight_decay": 0.1}
    own = torch.nn.Parameter(torch.ones(2))  # a balancer's
    groups = [*parameter_groups(made.model, decays=decays, **rates), {"params": [own], "lr": 0.5}]
    optimizer = torch.optim.AdamW(groups)
    made.model(**encode(made.tokenizer)).logits.square().sum().backward()
    optimizer.step()
    before = dict(optimizer.state)
    parts = split(made.model, made.model.private_plan)
    part_optimizer(optimizer, made.model, parts)

    decays = {key for key, p in made.model.named_parameters() if p.ndim > 1}
    anew = parameter_groups(made.model, decays=decays, **rates)
    for group, wanted in zip(
        optimizer.param_groups, [*anew, {"params": [own], "lr": 0.5, "weight_decay": 0.01}], strict=True
    ):
        assert [id(p) for p in group["params"]] == [id(p) for p in wanted["params"]]
        assert (group["lr"], group["weight_decay"]) == (wanted["lr"], wanted["weight_decay"])
    for original, copies in parts.items():
        for each in copies[1:]:
            assert optimizer.state[each].keys() == before[original].keys()
            for key, value in before[original].items():
                assert torch.equal(optimizer.state[each][key], value)
                assert optimizer.state[each][key] is not value
    optimizer.zero_grad()
    made.model(**encode(made.tokenizer)).logits[:, 0].sum().backward()
    optimizer.step()
    assert not any(torch.equal(one, other) for one, other in parts.values())


@pytest.mark.parametrize("when", ["always", "conflict"])
def test_shared_parameters_are_those_below_the_fan(tiny_backbone: Callable[[str], Path], when: str) -> None:
    model = make(tiny_backbone("bert"), private_layers=1, private_when=when).model
    names = {id(p): name for name, p in model.named_parameters()}
    last = [names[id(p)] for p in shared_parameters(model, "last_layer")]
    assert last
    assert all(name.startswith("bert.encoder.layer.0.") for name in last)
    everything = [names[id(p)] for p in shared_parameters(model, "all")]
    assert not [
        name for name in everything if name.startswith(("bert.encoder.layer.1.", "bert.pooler.", "classifier."))
    ]
    assert [name for name in everything if name.startswith("bert.embeddings.")]
    groups = parameter_groups(model, decays=set(), learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.0)
    rate_of = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    copied = {name: rate for name, rate in rate_of.items() if name.startswith("bert.encoder.layer.1.")}
    assert set(copied.values()) == {1e-3}
    assert {rate for name, rate in rate_of.items() if name.startswith(("bert.pooler", "classifier"))} == {1e-2}


def test_no_shared_block_is_left(tiny_backbone: Callable[[str], Path]) -> None:
    model = make(tiny_backbone("bert"), private_layers=2).model
    with pytest.raises(RunError, match=r"balance\.shared: 'last_layer' names no trained parameter"):
        shared_parameters(model, "last_layer")


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [[], ["balance.shared=last_layer"], ["model.adapter={rank: 2}"]])
def test_private_layers_train_save_and_predict(
    tiny_recipe: dict[str, Any], tmp_path: Path, settings: list[str]
) -> None:
    run = train(tiny_recipe, overrides=["model.private_layers=1", "training.max_steps=4", *settings], progress=False)
    loaded = load_model(run.model_folder)
    assert loaded.model.private.layers == 1
    assert run.metrics["training"]["private_layers"] == 1
    block = loaded.model.bert.encoder.layer[1]
    values = [torch.cat([p.flatten() for p in one.parameters()]) for one in block.copies]
    assert not torch.equal(values[0], values[1])
    assert all(values["norm"] > 0 for values in run.history[0]["tasks"].values())
    assert len(eq.load(run).predict(["strong profit", "weak oil"])) == 2


@pytest.mark.parametrize(
    ("stop", "overrides"),
    [
        (5, ["training.checkpoint_every_steps=3"]),  # before the parting (step 6), with a mean to remember
        (13, ["training.checkpoint_every_steps=4", "training.accumulation=1"]),  # after it
        (7, ["training.checkpoint_every_steps=6"]),  # at it
    ],
)
def test_a_stopped_run_that_parts_ends_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, stop: int, overrides: list[str]
) -> None:
    settings = [*CONFLICT, "training.max_steps=16", *overrides]
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "whole", progress=False)
    (note,) = [line for line in whole.history if "note" in line]
    assert (note["step"], note["private_layers"]) == (5, 1)
    assert "the last block now exists once a task: the gradients of" in note["note"]
    assert private_of(load_model(whole.model_folder).model) is not None
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=settings, output=tmp_path / "broken", progress=False, callbacks=[StopAt(stop)])
    continued = resume(tmp_path / "broken", progress=False)
    expected = weights(whole)
    assert set(weights(continued)) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in weights(continued).items())
    assert comparable(continued.history) == comparable(whole.history)


def test_private_layers_from_the_start_resume_bit_equal(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = ["model.private_layers=1", "training.max_steps=12", "training.checkpoint_every_steps=4"]
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=settings, output=tmp_path / "broken", progress=False, callbacks=[StopAt(6)])
    continued = resume(tmp_path / "broken", progress=False)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(continued).items())
    assert comparable(continued.history) == comparable(whole.history)


def test_without_conflict_the_run_is_that_of_shared_blocks(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = ["training.max_steps=6", "balance={method: equal}"]
    never = [*CONFLICT[:2], "model.private_below=-1.0"]
    watched = train(tiny_recipe, overrides=[*settings, *never], output=tmp_path / "watched", progress=False)
    plain = train(tiny_recipe, overrides=settings, output=tmp_path / "plain", progress=False)
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(watched).items())
    assert json.loads((watched.model_folder / "multitask.json").read_text())["private_layers"] == 0
    assert (watched.model_folder / "model.safetensors").exists()


def test_the_best_weights_may_be_those_from_before_the_parting(tiny_recipe: dict[str, Any]) -> None:
    # A rate that wrecks the weights: what comes after the first evaluation is worse.
    settings = ["training.learning_rate=0.3", "training.warmup=0.9", "training.evaluate_every_steps=4"]
    settings += ["training.max_steps=12", "training.select=polarity.mse", "training.keep_checkpoints=true"]
    run = train(tiny_recipe, overrides=[*CONFLICT, *settings], progress=False)
    assert [line["step"] for line in run.history if "note" in line] == [5]
    assert run.metrics["training"]["best_step"] == 4
    assert run.metrics["training"]["private_layers"] == 0
    assert private_of(load_model(run.model_folder).model) is None
    first = next(line for line in run.history if "metrics" in line)
    found = run.metrics["splits"]["validation"]["polarity"]["mse"]
    assert found == pytest.approx(first["metrics"]["polarity"]["mse"], rel=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.compile=true", r"training\.compile: a compiled model cannot part"),
        ("training.averaging=ema", r"training\.averaging: does not go with model\.private_when"),
    ],
)
def test_what_cannot_part(tiny_recipe: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        eq.recipe.load(tiny_recipe, [*CONFLICT, override])
