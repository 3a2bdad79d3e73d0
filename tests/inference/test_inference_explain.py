"""Which words pushed a prediction: the sum, the targets, what cannot be explained, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import explain_helpers
import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from explain_helpers import TEXT, Bag, spoken
from model_helpers import make
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.errors import DataError, EquipoiseError
from equipoise.inference import Model, explain, load
from equipoise.inference._explain import GRADIENT_SHARE
from equipoise.models import LoadedModel, save_model

model = explain_helpers.model
one_thread = explain_helpers.one_thread

HIDDEN = "[UNK]"


def in_double(made: Any, text: tuple[str, ...] = ("text",)) -> Model:
    """In float64, and with a mask token that may also be written: then a hidden text is a text like any other."""
    made.tokenizer.mask_token = HIDDEN
    sidecar = replace(made.sidecar, text=text)
    return Model(LoadedModel(made.model.double().eval(), made.tokenizer, sidecar), device="cpu")


# The sum -------------------------------------------------------------------------------------------------------------


def check_whole(model: Model, text: Any, task: str, hidden: list[str], steps: int = 32) -> dict[str, Any]:
    """The ends of the path are the model's own answers, and the contributions make up the way between them."""
    found = explain(model, text, task, steps=steps)
    fields = [text] if isinstance(text, str) else list(text)
    ends = []
    for texts in (fields, hidden):
        batch = model._loaded.tokenizer(*texts, return_tensors="pt")
        with torch.no_grad():
            ends.append(model._loaded.model(**batch).logits)
    outputs = [model.task_outputs(end.numpy(), task) for end in ends]
    for name, raw in zip(("value", "baseline"), outputs, strict=True):
        if found["unit"] == "score":
            expected = float(raw[0, 0])  # the range is [-1, 1], so scaled units are the user's
        else:
            odds = model.tasks[task].predict(raw)[f"{task}/{found['target']}"][0]
            expected = float(np.log(odds / (1 - odds)))
        assert found[name] == pytest.approx(expected, abs=1e-12), name
    total = sum(word["contribution"] for word in found["words"]) + found["rest"]
    assert total == pytest.approx(found["value"] - found["baseline"], abs=1e-6)
    assert found["completeness_error"] == pytest.approx(abs(found["value"] - found["baseline"] - total), abs=1e-15)
    assert max(abs(word["contribution"]) for word in found["words"]) > 1e-6  # else the sum says nothing
    return found


WAYS: list[dict[str, Any]] = [{}, {"pooling": "mean"}, {"private_layers": 1}]


@pytest.mark.parametrize("settings", WAYS, ids=["native", "mean", "private"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contributions_sum_to_the_difference(
    tiny_backbone: Callable[[str], Path], architecture: str, settings: dict[str, Any]
) -> None:
    model = in_double(make(tiny_backbone(architecture), **settings))
    text = "strong profit weak oil the bank"
    score = check_whole(model, text, "polarity", [" ".join([HIDDEN] * 6)])
    assert (score["target"], score["unit"]) == (None, "score")
    label = check_whole(model, text, "label", [" ".join([HIDDEN] * 6)])
    assert (label["target"], label["unit"]) == (model.predict([text])["label"][0], "log-odds")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v2"])
def test_pairs_name_the_field_of_each_word(tiny_backbone: Callable[[str], Path], architecture: str) -> None:
    model = in_double(make(tiny_backbone(architecture)), ("text", "about"))
    hidden = [" ".join([HIDDEN] * count) for count in (2, 3)]
    found = check_whole(model, ("strong profit", "the oil bank"), "label", hidden)
    assert [(word["text"], word["field"]) for word in found["words"]] == [
        ("strong", "text"), ("profit", "text"), ("the", "about"), ("oil", "about"), ("bank", "about"),
    ]  # fmt: skip
    assert found["rest"] == pytest.approx(0, abs=1e-15)  # the special tokens are those of the baseline
    with pytest.raises(DataError, match=r"trained on pairs \(text, about\); found 'strong'"):
        explain(model, "strong", "label")
    with pytest.raises(DataError, match="text: about is empty"):
        explain(model, ("strong", " "), "label")


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_every_task_has_its_own_adapters(tiny_backbone: Callable[[str], Path], architecture: str) -> None:
    made = make(tiny_backbone(architecture), adapter={"type": "mtl_lora", "rank": 4, "dropout": 0.0})
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.model.named_parameters():  # at the start the tasks don't differ
        if "lora_B" in name or "lora_transform" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model = in_double(made)
    for task in ("polarity", "label"):
        check_whole(model, "strong profit weak", task, [" ".join([HIDDEN] * 3)], steps=512)


def test_a_bag_of_words_is_taken_apart_by_hand(tiny_backbone: Callable[[str], Path]) -> None:
    made = make(tiny_backbone("bert"))
    numbers = [0.0] * len(made.tokenizer)
    vocabulary = made.tokenizer.get_vocab()
    for word, number in {"[PAD]": 0.1, "[CLS]": 7.0, "[SEP]": -9.0, "strong": 1.0, "loss": -0.5, ",": 0.25}.items():
        numbers[vocabulary[word]] = number
    model = Model(LoadedModel(Bag(numbers), made.tokenizer, made.sidecar), device="cpu")
    found = explain(model, "strong, loss strong", "polarity", steps=1)
    expected = {"strong": 0.9, ",": 0.15, "loss": -0.6}
    assert [(w["text"], w["contribution"]) for w in found["words"]] == [
        (word, pytest.approx(expected[word])) for word in ("strong", ",", "loss", "strong")
    ]
    assert found["value"] == pytest.approx(7 + 1 + 0.25 - 0.5 + 1 - 9)
    assert found["baseline"] == pytest.approx(7 + 4 * 0.1 - 9)
    # The class's odds are not linear in the sum, and one step of the integral is not enough for them.
    coarse, fine = (explain(model, "strong, loss strong", "label", steps=steps) for steps in (1, 32))
    assert coarse["completeness_error"] > 1e-4 > 1e-7 > fine["completeness_error"]


# Targets -------------------------------------------------------------------------------------------------------------


def test_values_are_those_of_predict(model: Model) -> None:
    row = model.predict([TEXT]).iloc[0]
    assert explain(model, TEXT, "stars")["value"] == pytest.approx(row["stars"], abs=1e-5)
    assert explain(model, TEXT, "growth")["value"] == pytest.approx(row["growth"], abs=1e-4)
    for task, classes in {"label": 3, "urgency": 3, "moods": 3}.items():
        names = [column.removeprefix(f"{task}/") for column in row.index if column.startswith(f"{task}/")]
        assert len(names) == classes
        for name in names:
            found = explain(model, TEXT, task, target=name)
            assert found["target"] == name
            assert 1 / (1 + np.exp(-found["value"])) == pytest.approx(row[f"{task}/{name}"], abs=1e-5), (task, name)
            assert found["completeness_error"] < 1e-4
    assert explain(model, TEXT, "urgency")["target"] == row["urgency"]
    moods = max(("awe", "fear", "joy"), key=lambda name: row[f"moods/{name}"])
    assert explain(model, TEXT, "moods")["target"] == moods


def test_what_is_near_certain_still_has_odds(model: Model) -> None:
    from equipoise.inference._explain_targets import reader

    read, _ = reader(model.tasks["label"], "positive")
    outputs = torch.tensor([[0.0, 0.0, 60.0]], requires_grad=True)  # 1 - p is 1e-26, which float32 next to 1 hasn't
    assert read(outputs).item() == pytest.approx(60 - np.log(2), rel=1e-6)
    read(outputs).backward()
    assert outputs.grad is not None
    assert outputs.grad[0].tolist() == pytest.approx([-0.5, -0.5, 1.0])


def test_nothing_stays_behind(model: Model) -> None:
    network = model._loaded.model
    before = model.outputs([TEXT])
    explain(model, TEXT, "label")
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.get_input_embeddings()._forward_hooks
    assert network._tap.value.grad_fn is None  # no graph is kept alive
    np.testing.assert_array_equal(model.outputs([TEXT]), before)
    assert explain(model, TEXT, "label") == explain(model, TEXT, "label")


def test_gradients_walk_back_through_few_tokens_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's memory grew by what a whole budget of tokens keeps for a gradient."""
    length = len(model._loaded.tokenizer(TEXT)["input_ids"])
    monkeypatch.setattr(model, "max_tokens", GRADIENT_SHARE * 5 * length)
    rows: list[int] = []
    embeddings = model._loaded.model.get_input_embeddings()
    watch = embeddings.register_forward_hook(
        lambda _, ids, __: rows.append(len(ids[0])) if torch.is_grad_enabled() else None
    )
    try:
        explain(model, TEXT, "stars", steps=32)
    finally:
        watch.remove()
    assert max(rows) == 5
    assert sum(rows) >= 32


def test_another_thread_predicts_undisturbed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = model.outputs(["loss falls"])
    network = model._loaded.model
    seen: list[np.ndarray[Any, Any]] = []
    with ThreadPoolExecutor(1) as pool:

        def meanwhile(*_: Any) -> None:
            if not seen:
                seen.append(np.empty(0))
                seen[0] = pool.submit(model.outputs, ["loss falls"]).result()

        # Runs while the exchange of the explanation's own pass stands.
        handle = network.bert.encoder.register_forward_pre_hook(meanwhile)
        try:
            explain(model, TEXT, "label")
        finally:
            handle.remove()
    np.testing.assert_allclose(seen[0], before, atol=1e-6)


# What cannot be explained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "task", "target", "message"),
    [
        (TEXT, "lable", None, r"no task 'lable'\. Did you mean 'label'\? Tasks: stars, growth, label, urgency, moods"),
        (
            TEXT,
            "label",
            "positiv",
            r"no class 'positiv' in task 'label'\. Did you mean 'positive'\? Classes: negative, ",
        ),
        (TEXT, "stars", "five", r"'stars' is a score and has no class 'five'\. Leave the target out"),
        ("  ", "label", None, "text: text is empty"),
        (None, "label", None, "text: expected one text, found None"),
        (("a", "b"), "label", None, r"text: expected one text, found \('a', 'b'\)"),
    ],
)
def test_what_is_wrong_is_said(model: Model, text: Any, task: str, target: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        explain(model, text, task, target=target)


@pytest.mark.parametrize("steps", [0, -1, True, 2.5])
def test_steps_are_a_count(model: Model, steps: Any) -> None:
    with pytest.raises(DataError, match="steps: expected a whole number from 1 on"):
        explain(model, TEXT, "label", steps=steps)


def test_without_captum_the_error_says_what_to_install(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(EquipoiseError, match=r'pip install "equipoise\[explain\]"'):
        explain(model, TEXT, "label")


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("explain") / "model"
    save_model(model._loaded.model, model._loaded.tokenizer, model._loaded.sidecar, where)
    return where


def test_the_command_prints_words_or_json(folder: Path, model: Model) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["explain", str(folder), TEXT, "--json", "--task", "label", "--task", "stars"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["task"] for one in found] == ["label", "stars"]
    assert found[1]["value"] == pytest.approx(explain(model, TEXT, "stars")["value"], abs=1e-6)
    done = runner.invoke(app, ["explain", str(folder), TEXT, "--task", "label", "--target", "neutral"])
    assert done.exit_code == 0, done.output
    assert TEXT in done.stdout
    assert "label neutral" in done.stdout
    everything = runner.invoke(app, ["explain", str(folder), "[red]strong[/red] profit"])  # no markup of rich
    assert everything.exit_code == 0, everything.output
    assert everything.stdout.count("[red]strong[/red] profit") == 5  # a line for each task


def test_a_model_in_bf16_is_explained_by_its_float32_weights(folder: Path, model: Model) -> None:
    coarse = load(folder, device="cpu", precision="bf16")
    assert coarse.precision == "bf16"
    found, exact = explain(coarse, TEXT, "stars"), explain(model, TEXT, "stars")
    assert found["value"] == pytest.approx(exact["value"], abs=1e-6)
    assert spoken(found) == pytest.approx(spoken(exact), abs=1e-6)


def test_the_command_says_what_is_wrong(folder: Path) -> None:
    done = CliRunner().invoke(app, ["explain", str(folder), TEXT, "--task", "lable"])
    assert isinstance(done.exception, DataError)
    done = CliRunner().invoke(app, ["explain", str(folder), TEXT, "--target", "neutral"])
    assert isinstance(done.exception, DataError)
    assert "--target goes with one --task" in str(done.exception)
