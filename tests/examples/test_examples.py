"""Every example is short, says how to run it, runs, trains both tasks and weighs them as their norms demand."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))

Numbers = dict[str, dict[str, float]]


def example(name: str) -> Callable[..., Any]:
    """The `main` of an example."""
    function: Callable[..., Any] = runpy.run_path(str(FOLDER / name))["main"]
    return function


def check_history(history: list[Numbers], loud: str, quiet: str, *, window: int = 10) -> None:
    """Both losses fall by a third, the weights sum to 2, and the task with the larger norm has the smaller weight."""
    assert len(history) >= 2 * window
    for task in (loud, quiet):
        first, last = ([entry["losses"][task] for entry in part] for part in (history[:window], history[-window:]))
        assert mean(last) < 2 / 3 * mean(first), task
    for entry in history:
        assert sum(entry["weights"].values()) == pytest.approx(2, rel=1e-5)
        assert entry["weights"][loud] < entry["weights"][quiet]
    # The first norms start the running average, so the first weights are 2 (1 / n_i) / sum_j (1 / n_j) by definition.
    norms, weights = history[0]["norms"], history[0]["weights"]
    for task, other in ((loud, quiet), (quiet, loud)):
        assert weights[task] == pytest.approx(2 * norms[other] / (norms[task] + norms[other]), rel=1e-4)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"Run it:  python examples/{path.name}" in text
    assert f"test_{path.stem}" in Path(__file__).read_text(encoding="utf-8"), "no test runs it"


def test_plain_torch() -> None:
    weights = example("plain_torch.py")(steps=60)
    assert weights["score"] < 0.5 < weights["label"]


@pytest.mark.parametrize("exact", [True, False])
def test_different_batches(exact: bool, capsys: pytest.CaptureFixture[str]) -> None:
    history = example("different_batches.py")(steps=120, exact=exact)
    check_history(history, "score", "label")
    # Batches meet in the parameters only, and a method from norms measures no angles there.
    assert history[0]["cosines"] == {}
    assert "weight" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_loop(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(True)  # it is global, and another test may have chosen another precision
    try:
        history = example("accelerate_loop.py")(epochs=3, mixed_precision=precision, folder=str(tmp_path))
    finally:
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        GradientState._reset_state()
    check_history(history, "score", "label")
    assert (tmp_path / "custom_checkpoint_0.pkl").is_file(), "the balancer is in the checkpoint"


def test_stock_trainer(tmp_path: Path) -> None:
    lines = example("stock_trainer.py")(str(tmp_path), steps=100)
    assert len(lines) == 10
    for task in ("score", "label"):
        assert lines[-1][f"{task}/loss"] < 2 / 3 * lines[0][f"{task}/loss"]
    for line in lines:
        assert line["score/norm"] > line["label/norm"]
        assert line["score/weight"] < line["label/weight"]
        assert line["score/weight"] + line["label/weight"] == pytest.approx(2, rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # Lightning's own, on PyTorch's deprecations and on loaders without workers
def test_lightning_module(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    import torch

    main = example("lightning_module.py")
    trainer, module = main(epochs=5)
    check_history(module.history, "score", "label", window=4)

    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["balancer.step"].item() == trainer.fit_loop.total_batch_idx + 1 == 160
    fresh = type(module)()
    fresh.load_state_dict(saved)
    for name, buffer in module.balancer.state_dict().items():
        assert torch.equal(fresh.balancer.state_dict()[name], buffer), name


def test_sentence_transformers_losses(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    lines = example("sentence_transformers_losses.py")(str(tmp_path))
    assert len(lines) == 24
    for task in ("retrieval", "alike"):
        first, last = (mean(line[f"{task}/loss"] for line in part) for part in (lines[:2], lines[-8:]))
        assert last < 2 / 3 * first, task
    # A batch carries one task, yet both have a weight, normalised over both.
    for line in lines:
        assert line["retrieval/weight"] + line["alike/weight"] == pytest.approx(2, rel=1e-5)
        assert line["retrieval/weight"] < line["alike/weight"]


def test_sentence_transformers_one_dataset(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    history = example("sentence_transformers_one_dataset.py")(str(tmp_path))
    check_history(history, "similarity", "topic")
