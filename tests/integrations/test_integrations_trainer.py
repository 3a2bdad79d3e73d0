"""A stock Trainer with a balancer: the update is the plain loop's, accumulation counts right, resuming is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutput

from equipoise.balance import DAO, Balancer, Equal, Fixed
from equipoise.errors import BalanceError
from equipoise.integrations import BalancedLossMixin, BalancedTrainer

TASKS = ["score", "label"]


class Model(nn.Module):
    """Takes **kwargs, as many models do: the stock Trainer then believes that the loss is scaled for accumulation."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout))
        self.score, self.label = nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor, score: Tensor, labels: Tensor, **kwargs: Any) -> dict[str, Any]:
        assert "num_items_in_batch" not in kwargs
        hidden = self.encoder(x)
        scores, logits = self.score(hidden).squeeze(-1).float(), self.label(hidden).float()
        losses = {
            "score": 30 * F.mse_loss(scores, score, reduction="none"),
            "label": F.cross_entropy(logits, labels, reduction="none"),
        }
        return {"losses": losses, "targets": {"score": score, "label": labels}, "scores": scores, "logits": logits}


class Backbone(nn.Module):
    """Gives a ModelOutput, as backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.linear(x).tanh())


class Pooled(nn.Module):
    """Takes the first entry of what the backbone gives."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.backbone(x).last_hidden_state
        return hidden


class Wrapped(Model):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Pooled()  # type: ignore[assignment]


def rows(count: int = 64) -> list[dict[str, Any]]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": r, "score": float(r[0]), "labels": int(r[1] > 0)} for r in x]


def trainer(
    folder: Path,
    balancer: Balancer,
    *,
    model: nn.Module | None = None,
    shared: Any = "encoder",
    cls: type[BalancedTrainer] = BalancedTrainer,
    compute_loss_func: Any = None,
    **settings: Any,
) -> BalancedTrainer:
    defaults = {
        "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 0.05, "logging_steps": 1, "optim": "sgd",
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential",
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "label_names": ["score", "labels"], "dataloader_pin_memory": False,
    }  # fmt: skip
    torch.manual_seed(0)
    return cls(
        model=Model() if model is None else model,
        args=TrainingArguments(str(folder), **defaults | settings),
        train_dataset=rows(),
        balancer=balancer,
        shared=shared,
        compute_loss_func=compute_loss_func,
    )


def plain_loop(balancer: Balancer, at: str, steps: int = 6) -> Model:
    """What the Trainer must do, written out."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = rows()
    for step in range(steps):
        batch = data[8 * step % 64 :][:8]
        x, score = torch.stack([r["x"] for r in batch]), torch.tensor([r["score"] for r in batch])
        labels = torch.tensor([r["labels"] for r in batch])
        hidden = model.encoder(x)
        losses = {
            "score": 30 * F.mse_loss(model.score(hidden).squeeze(-1), score),
            "label": F.cross_entropy(model.label(hidden), labels),
        }
        shared = hidden if at == "representation" else list(model.encoder.parameters())
        optimizer.zero_grad()
        balancer(losses, shared=shared).backward()
        optimizer.step()
    return model


def same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("at", ["representation", "parameters"])
def test_the_update_is_that_of_a_plain_loop(tmp_path: Path, at: str) -> None:
    shared = "encoder" if at == "representation" else lambda model: model.encoder.parameters()
    ours = trainer(tmp_path, DAO(tasks=TASKS), shared=shared)
    ours.train()
    same(ours.model, plain_loop(DAO(tasks=TASKS), at), rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):  # and not that of equal weights
        same(ours.model, plain_loop(Equal(), at), rtol=1e-2, atol=1e-3)


def test_accumulated_batches_count_as_one_large_batch(tmp_path: Path) -> None:
    weights = {"score": 0.3, "label": 2.0}
    large = trainer(tmp_path / "large", Fixed(weights=weights), per_device_train_batch_size=16, max_steps=4)
    small = trainer(tmp_path / "small", Fixed(weights=weights), gradient_accumulation_steps=2, max_steps=4)
    large.train()
    small.train()
    assert small.model_accepts_loss_kwargs, "else this test cannot fail"
    same(large.model, small.model, rtol=1e-5, atol=1e-6)
    logged = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (large, small)]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


def test_the_balancer_is_told_how_long_an_epoch_is(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS), gradient_accumulation_steps=2)
    ours.train()
    assert ours.balancer.epoch == 8  # 64 rows, one call for each 8 of them


def test_every_task_is_logged(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS, scale="one"))
    ours.train()
    lines = [line for line in ours.state.log_history if "loss" in line]
    assert len(lines) == 6
    for line in lines:
        weighed = sum(line[f"{task}/weight"] * line[f"{task}/loss"] for task in TASKS)
        assert line["loss"] == pytest.approx(weighed, rel=1e-4)
        assert line["score/norm"] > line["label/norm"]


class OneTaskAtATime(BalancedTrainer):
    """Drops one task from each micro-batch, in turn."""

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        losses, _ = super().task_losses(model, inputs)
        task = TASKS[int(self.balancer.step) % 2]
        return {task: losses[task]}, {}


def test_a_task_that_is_absent_keeps_its_weight_in_the_logs(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS), cls=OneTaskAtATime, gradient_accumulation_steps=2)
    ours.train()
    for line in (line for line in ours.state.log_history if "loss" in line):
        assert line["score/weight"] + line["label/weight"] == pytest.approx(2, rel=1e-5)
        assert line["score/weight"] < line["label/weight"]
        assert {"score/loss", "label/loss"} <= line.keys()


@pytest.mark.parametrize("tasks", [TASKS, None], ids=["named", "learned names"])
def test_resuming_is_exact(tmp_path: Path, tasks: list[str] | None) -> None:
    def make(folder: str) -> BalancedTrainer:
        balancer = DAO(tasks=tasks, smoothing=0.9, data_weights="inverse_frequency")
        return trainer(
            tmp_path / folder, balancer, model=Model(dropout=0.3), optim="adamw_torch", gradient_accumulation_steps=2,
            save_strategy="steps", save_steps=3, train_sampling_strategy="random",
        )  # fmt: skip

    whole = make("whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    saved = load_file(checkpoint / "balancer.safetensors")
    assert saved["step"].item() == 6, "two micro-batches a step"

    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    same(whole.model, resumed.model, rtol=0, atol=0)
    same(whole.balancer, resumed.balancer, rtol=0, atol=0)
    assert resumed.balancer.tasks == tuple(TASKS)
    keys = [f"{task}/{kind}" for task in TASKS for kind in ("weight", "loss", "norm")]
    one, other = ([{k: line[k] for k in keys} for line in t.state.log_history[3:6]] for t in (whole, resumed))
    assert one == other


def test_a_checkpoint_without_a_balancer_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, Equal(), max_steps=2, save_strategy="steps", save_steps=1).train()
    (tmp_path / "checkpoint-1" / "balancer.safetensors").unlink()
    with pytest.raises(BalanceError, match=r"checkpoint-1 has no balancer\.safetensors"):
        trainer(tmp_path, Equal()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_evaluation_changes_no_state_and_predicts_no_losses(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS))
    ours.train()
    before = {name: value.clone() for name, value in ours.balancer.state_dict().items()}
    metrics = ours.evaluate(rows(20))
    assert metrics["eval_loss"] > 0
    found = ours.predict(rows(20))
    assert [array.shape for array in found.predictions] == [(20,), (20, 2)]  # scores and logits
    assert [array.shape for array in found.label_ids] == [(20,), (20,)]
    for name, value in ours.balancer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bf16_measures_the_tensor_itself_not_the_copy_that_accelerate_returns(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS), bf16=True)
    ours.train()
    last = ours.balancer.last
    assert last["norms"]["score"] > last["norms"]["label"] > 0


def test_a_backbone_that_gives_a_model_output(tmp_path: Path) -> None:
    ours = trainer(tmp_path, DAO(tasks=TASKS), model=Wrapped(), shared="encoder.backbone", max_steps=2)
    ours.train()
    assert ours.balancer.last["norms"].keys() == set(TASKS)
    assert not ours.model.encoder.backbone._forward_hooks


def test_the_mixin_joins_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Own(Trainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log({**logs, "mine": 1.0}, start_time)

    class Both(BalancedLossMixin, Own):
        pass

    ours = trainer(tmp_path, Fixed(weights={"score": 1.0, "label": 3.0}), shared=None, cls=Both, max_steps=1)  # type: ignore[arg-type]
    ours.train()
    line = ours.state.log_history[0]
    assert line["mine"] == 1.0
    assert line["label/weight"] == 3.0


class Bad(Model):
    def forward(self, x: Tensor, score: Tensor, labels: Tensor) -> dict[str, Any]:  # type: ignore[override]
        return {"loss": super().forward(x, score, labels)["losses"]["score"].mean()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": None}, "DAO needs shared: the name of the submodule"),
        ({"shared": "encoda"}, "no submodule 'encoda'. It has encoder, score, label"),
        ({"model": Bad()}, "must return a mapping with `losses`.*found one with loss"),
        ({"compute_loss_func": sum}, "compute_loss_func acts on one loss"),
    ],
    ids=["no shared", "unknown module", "no losses", "a loss function"],
)
def test_what_cannot_work_is_said(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BalanceError, match=message):
        trainer(tmp_path, DAO(tasks=TASKS), **settings).train()


def test_a_balancer_that_needs_more_is_refused(tmp_path: Path) -> None:
    balancer = Equal()
    balancer.requires = frozenset({"validation"})
    with pytest.raises(BalanceError, match="Equal requires validation, which this trainer does not feed it"):
        trainer(tmp_path, balancer)
