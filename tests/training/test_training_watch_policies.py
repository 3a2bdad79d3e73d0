"""What becomes of numbers that are not finite: the run stops, leaves the update out, or goes back; killed or not."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_runs import INF, NAN, Fault, GradientFault, LabelFault, LossFault, WeightFault, events, watched
from safetensors.torch import load_file
from stopped_runs import StopAt, comparable, weights
from transformers import TrainerCallback

import equipoise as eq
from equipoise.balance import NotFiniteError
from equipoise.errors import BalanceError, RecipeError, RunError
from equipoise.training import MultiTaskTrainer, resume, train
from equipoise.training import _pages as pages
from equipoise.training._run import build_trainer
from equipoise.training._trial import run_trial
from equipoise.training._watch_guard import OVERFLOWS, SKIPS

SHORT = ["training.max_steps=12", "data.test=null", "training.log_every_steps=1", "training.evaluate_every_steps=6"]
SKIP = [*SHORT, "training.on_nonfinite=skip"]
BACK = [
    "training.max_steps=12", "data.test=null", "training.log_every_steps=1", "training.checkpoint_every_steps=3",
    "training.evaluate_every_steps=12", "training.on_nonfinite=rollback", "model.dropout=0.1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report at the end of these runs: it takes longer than they do."""
    monkeypatch.setattr(pages, "write_pages", lambda *args: [])


def kinds(run: eq.Run) -> list[tuple[int, str, str | None]]:
    return [(e["step"], e["kind"], e["task"]) for e in events(run) if e["kind"] != "worse_than_constant"]


def steps(run: eq.Run) -> list[int]:
    return [line["step"] for line in run.history if "tasks" in line]


# Stop -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "task", "words"),
    [
        ("loss", "nonfinite_loss", "topic", r"step 5: task 'topic': the loss is not finite\. Look at its data"),
        (
            "label",
            "nonfinite_label",
            "polarity",
            r"task 'polarity': the loss is not finite, because a label is not\. Look",
        ),
        ("gradient", "nonfinite_gradient", None, r"step 5: the gradient of the weights is not finite, although.*Lower"),
        (
            "weight",
            "nonfinite_weight",
            "polarity",
            r"step 4: .* is not finite, because the weight classifier\.bias is not",
        ),
    ],
)
def test_a_run_stops_and_says_where_and_why(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: str, kind: str, task: str | None, words: str
) -> None:
    faults = {
        "loss": lambda: LossFault(monkeypatch, "topic", [5], INF),
        "label": lambda: LabelFault(monkeypatch, "polarity", [5]),
        "gradient": lambda: GradientFault([5], NAN),
        "weight": lambda: WeightFault([3]),
    }
    settings = [*SHORT, "training.checkpoint_every_steps=2"]
    with pytest.raises(BalanceError, match=rf"{words}.*\. The last good checkpoint is .*checkpoint-") as caught:
        train(tiny_recipe, overrides=settings, progress=False, callbacks=[faults[fault]()])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, NotFiniteError)
    run = eq.Run(Path(tiny_recipe["output"]))
    failed = 4 if fault == "weight" else 5
    assert kinds(run) == [(failed, kind, task)]
    assert steps(run)[-1] == failed - 1


def test_a_weight_that_is_not_finite_is_in_no_checkpoint(tiny_recipe: dict[str, Any]) -> None:
    settings = [*SHORT, "training.checkpoint_every_steps=2"]
    with pytest.raises(BalanceError, match=r"step 4: the weight classifier\.bias is not finite.*checkpoint-2$"):
        train(tiny_recipe, overrides=settings, progress=False, callbacks=[WeightFault([4])])
    run = eq.Run(Path(tiny_recipe["output"]))
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2"]
    saved = load_file(run.checkpoints()[-1] / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_a_weight_that_the_last_update_breaks_is_not_saved(tiny_recipe: dict[str, Any]) -> None:
    with pytest.raises(BalanceError, match=r"step 11: the weight classifier\.bias is not finite"):
        train(tiny_recipe, overrides=[*SHORT, "training.max_steps=11"], progress=False, callbacks=[WeightFault([11])])
    assert not eq.Run(Path(tiny_recipe["output"])).model_folder.exists()


def test_outputs_that_are_not_finite_on_validation_stop_the_run(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MultiTaskTrainer.outputs_of

    def overflowing(self: Any, dataset: Any) -> Any:
        outputs = plain(self, dataset)
        outputs[3, 0] = INF
        return outputs

    monkeypatch.setattr(MultiTaskTrainer, "outputs_of", overflowing)
    with pytest.raises(BalanceError, match=r"step 6: the outputs of polarity on validation are not finite"):
        train(tiny_recipe, overrides=SHORT, progress=False)


# Skip -----------------------------------------------------------------------------------------------------------------


class Snapshots(TrainerCallback):
    """Everything that an update changes, as it is before each."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.at: dict[int, list[Any]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        average = trainer.average._average
        self.at[state.global_step + 1] = copy.deepcopy([
            dict(trainer.model.state_dict()),
            trainer.optimizer.state_dict()["state"],
            trainer.lr_scheduler.state_dict(),
            dict(trainer.balancer.state_dict()),
            None if average is None else dict(average.state_dict()),
        ])  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(-7), other.nan_to_num(-7))
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        ("loss", "{method: dao, smoothing: 0.9}"),
        ("gradient", "famo"),
        pytest.param("gradient", "{method: dao, smoothing: 0.9}", marks=pytest.mark.slow),
        pytest.param("loss", "famo", marks=pytest.mark.slow),
        pytest.param("loss", "{method: coba, window: 4, warmup: 2}", marks=pytest.mark.slow),
        pytest.param("gradient", "{method: coba, window: 4, warmup: 2}", marks=pytest.mark.slow),
    ],
)
def test_an_update_that_is_left_out_changes_nothing(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, method: str
) -> None:
    snapshots = Snapshots()
    plain = MultiTaskTrainer.train

    def trained(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        snapshots.trainer = trainer
        return plain(trainer, *args, **kwargs)

    monkeypatch.setattr(MultiTaskTrainer, "train", trained)
    settings = [*SKIP, "training.accumulation=2", f"balance={method}", "training.averaging=ema", "training.max_steps=7"]
    # The second of the update's two batches: what the first one did has to be undone.
    made = {
        "loss": lambda: LossFault(monkeypatch, "label", [4], NAN, batch=2),
        "gradient": lambda: GradientFault([4], NAN, batch=2),
    }[fault]()
    found, said = watched(tiny_recipe, tmp_path, settings, snapshots, made)
    assert made.struck == 1
    kept = [same(snapshots.at[step], snapshots.at[step + 1]) for step in range(1, 7)]
    assert kept == [False, False, False, True, False, False]
    for before, after in zip(snapshots.at[5], snapshots.at[6], strict=True):
        assert not same(before, after), "what never changes would prove nothing"
    assert len(said) == 1
    assert found[0]["message"].endswith("the update is left out (1 so far)")
    run = eq.Run(tmp_path / "run")
    assert steps(run) == [1, 2, 3, 5, 6, 7], "a step that was not made has no mean loss"


def test_the_logged_loss_is_the_mean_of_the_updates_that_were_made(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a rate of nothing, no update changes the next one's loss.
    settings = ["training.max_steps=9", "data.test=null", "data.validation=null", "balance=equal"]
    settings += ["training.learning_rate=1e-30", "training.log_every_steps=3", "training.on_nonfinite=skip"]
    watched(tiny_recipe, tmp_path / "plain", [*settings, "training.log_every_steps=1"])
    every = {line["step"]: line["loss"] for line in eq.Run(tmp_path / "plain" / "run").history if "loss" in line}
    watched(tiny_recipe, tmp_path / "skip", settings, LossFault(monkeypatch, "label", [5, 7], NAN))
    found = {line["step"]: line["loss"] for line in eq.Run(tmp_path / "skip" / "run").history if "loss" in line}
    expected = {3: (every[2] + every[3]) / 2, 6: (every[4] + every[6]) / 2, 9: (every[8] + every[9]) / 2}
    assert found.pop(1) == every[1]
    assert found == {step: pytest.approx(value, rel=1e-5) for step, value in expected.items()}


def test_too_many_in_a_row_stop_the_run(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.on_nonfinite=skip", "data.test=null", "data.validation=null"]
    # An update that is made in between breaks the row.
    bad = [*range(2, 2 + SKIPS), *range(3 + SKIPS, 4 + 2 * SKIPS)]
    with pytest.raises(BalanceError, match=rf"step {3 + 2 * SKIPS}: .*\. {SKIPS} updates in a row were left out"):
        watched(tiny_recipe, tmp_path, settings, LossFault(monkeypatch, "label", bad, NAN))
    found = events(eq.Run(tmp_path / "run"))
    assert [e["step"] for e in found] == bad
    assert [e["values"].get("skipped") for e in found] == [*range(1, 2 * SKIPS + 1), None]


def test_a_weight_is_not_mended_by_leaving_updates_out(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = ["training.on_nonfinite=skip", "data.test=null", "data.validation=null"]
    with pytest.raises(BalanceError, match=r"step 5: .*No later step mends a weight"):
        watched(tiny_recipe, tmp_path, settings, WeightFault([4]))


@pytest.mark.parametrize("stop", [4, pytest.param(5, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_that_left_updates_out_resumes_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    settings = [*SKIP, "training.checkpoint_every_steps=3", "training.averaging=ema", "training.log_every_steps=2"]
    fault = LossFault(monkeypatch, "label", [4, 5, 9], NAN)
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "whole", progress=False, callbacks=[fault])
    assert [step for step, _, _ in kinds(whole)] == [4, 5, 9]
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny_recipe, overrides=settings, output=tmp_path / "broken", progress=False, callbacks=[fault, StopAt(stop)]
        )
    assert_equal_runs(resume(tmp_path / "broken", progress=False, callbacks=[fault]), whole)


def assert_equal_runs(run: eq.Run, other: eq.Run) -> None:
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(run).items())
    assert comparable(run.history) == comparable(other.history)
    assert run.metrics["splits"] == other.metrics["splits"]


class Scaled(TrainerCallback):
    """Gives a training on the processor the gradient scaler that half precision has on a GPU."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        plain = MultiTaskTrainer.train

        def train_scaled(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
            return plain(trainer, *args, **kwargs)

        patch.setattr(MultiTaskTrainer, "train", train_scaled)


def test_under_a_gradient_scaler_an_overflow_is_ordinary_and_a_loss_is_not(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SKIP, "data.validation=null", "training.evaluate_every_steps=null", "training.averaging=ema"]
    faults = [Scaled(monkeypatch), GradientFault([3, 4], INF), LossFault(monkeypatch, "label", [7], NAN)]
    found, _ = watched(tiny_recipe, tmp_path, settings, *faults)
    assert [(e["step"], e["kind"]) for e in found] == [(7, "nonfinite_loss")]
    assert steps(eq.Run(tmp_path / "run"))[-1] == 12


@pytest.mark.parametrize("policy", [pytest.param("stop", marks=pytest.mark.slow), "skip"])
def test_an_overflow_that_does_not_end_is_a_fault(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    settings = ["training.epochs=4", "data.test=null", "data.validation=null", f"training.on_nonfinite={policy}"]
    words = rf"step {OVERFLOWS + 3}: the gradient of the weights has not been finite in {OVERFLOWS + 1} updates on end"
    with pytest.raises(BalanceError, match=words):
        watched(tiny_recipe, tmp_path, settings, Scaled(monkeypatch), GradientFault(range(3, 99), NAN))


# Rollback -------------------------------------------------------------------------------------------------------------


def rates(run: eq.Run) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in run.history if "learning_rate" in line}


class StopOnPass(TrainerCallback):
    """Ends a training without warning when it is at a step for the n-th time."""

    def __init__(self, step: int, times: int) -> None:
        self.step, self.left = step, times

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= state.global_step == self.step
        if state.global_step == self.step and not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "back"), [(8, 6), pytest.param(2, 0, marks=pytest.mark.slow)])
def test_a_run_goes_back_and_on_at_half_the_rate_and_resumes_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, back: int
) -> None:
    plain = train(tiny_recipe, overrides=BACK, output=tmp_path / "plain", progress=False)
    fault = [LossFault(monkeypatch, "topic", [step], NAN, once=True)]
    whole = train(tiny_recipe, overrides=BACK, output=tmp_path / "whole", progress=False, callbacks=fault)
    assert kinds(whole) == [(back, "rollback", "topic")]
    (event,) = [e for e in events(whole) if e["kind"] == "rollback"]
    assert event["values"] == {"failed": step, "rollbacks": 1, "rate": 0.5}
    place = f"step {back}" if back else "the start"
    assert event["message"].startswith(
        f"step {step}: task 'topic': the loss is not finite; the training goes back to {place}"
    )
    assert steps(whole) == list(range(1, 13)), "no gap, and no line twice"
    for at, rate in rates(whole).items():
        assert rate == pytest.approx(rates(plain)[at] * (0.5 if at > back else 1), rel=1e-5)
    assert not all(torch.equal(value, weights(plain)[name]) for name, value in weights(whole).items())
    # Killed after it went back, before its next checkpoint, and after that.
    monkeypatch.undo()
    monkeypatch.setattr(pages, "write_pages", lambda *args: [])
    for number, stop in enumerate([StopOnPass(back + 1, 2), StopOnPass(10, 1)]):
        folder = tmp_path / f"broken{number}"
        with monkeypatch.context() as patch:
            fault = [LossFault(patch, "topic", [step], NAN, once=True)]
            with pytest.raises(KeyboardInterrupt):
                train(tiny_recipe, overrides=BACK, output=folder, progress=False, callbacks=[*fault, stop])
        assert_equal_runs(resume(folder, progress=False), whole)


def test_a_fault_that_stays_ends_the_run_after_so_many_rollbacks(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = LossFault(monkeypatch, "topic", [8], NAN)
    with pytest.raises(BalanceError, match=r"step 8: .* The training was taken back 2 times.*checkpoint-6$"):
        train(tiny_recipe, overrides=[*BACK, "training.max_rollbacks=2"], progress=False, callbacks=[fault])
    assert fault.struck == 3
    run = eq.Run(Path(tiny_recipe["output"]))
    assert kinds(run) == [(6, "rollback", "topic"), (6, "rollback", "topic"), (8, "nonfinite_loss", "topic")]
    assert [e["values"].get("rate") for e in events(run)] == [0.5, 0.25, None]
    # The count is not forgotten by a run that is started again.
    with pytest.raises(BalanceError, match="was taken back 2 times"):
        resume(run.folder, progress=False, callbacks=[fault])
    assert fault.struck == 4


def test_a_weight_is_mended_by_going_back_and_a_damaged_checkpoint_is_passed_over(
    tiny_recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Damage(Fault):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.strikes():
                path = Path(tiny_recipe["output"]) / "checkpoints" / "checkpoint-6" / "model.safetensors"
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)

    run = train(tiny_recipe, overrides=BACK, callbacks=[Damage([7], once=True), WeightFault([8], once=True)])
    assert kinds(run) == [(3, "rollback", "polarity")]
    assert steps(run) == list(range(1, 13))
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-6 is damaged" in said
    assert "because the weight classifier.bias is not; the training goes back to step 3" in said
    assert all(math.isfinite(value.sum()) for value in weights(run).values())


def test_where_a_policy_cannot_be_followed_it_is_refused(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equipoise.training import make_plan

    with pytest.raises(RecipeError, match=r"training\.on_nonfinite: skip does not go with training\.arguments\.fsdp"):
        eq.recipe.load(tiny_recipe, ["training.on_nonfinite=skip", "training.arguments={fsdp: full_shard}"])
    with pytest.raises(RecipeError, match=r"training\.on_nonfinite: .*'stop', 'skip' or 'rollback'"):
        eq.recipe.load(tiny_recipe, ["training.on_nonfinite=ignore"])
    with pytest.raises(RecipeError, match=r"training\.max_rollbacks"):
        eq.recipe.load(tiny_recipe, ["training.max_rollbacks=0"])
    (tmp_path / "cache").mkdir()
    plan = make_plan(eq.recipe.load(tiny_recipe, BACK), tmp_path / "cache")
    with pytest.raises(
        RunError, match=r"training\.on_nonfinite: rollback goes back to a checkpoint.*equipoise compare"
    ):
        run_trial(plan, tmp_path / "trial")
    with monkeypatch.context() as patched:
        patched.setattr(MultiTaskTrainer, "sharded", True)
        with pytest.raises(
            RunError, match=r"training\.on_nonfinite: rollback does not go with a model that is sharded"
        ):
            build_trainer(plan, eq.Run(tmp_path / "sharded"), [])
