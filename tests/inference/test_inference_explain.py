"""Which words pushed a prediction: the sum, the spans, the targets, and what cannot be explained."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st
from model_helpers import make
from torch import nn
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.errors import DataError, EquipoiseError
from equipoise.inference import Model, explain, load
from equipoise.inference._words import spread, words_of
from equipoise.models import LoadedModel, Sidecar, build, load_backbone, save_model
from equipoise.recipe import ModelSettings
from equipoise.tasks import Task, kind

TEXT = "Strong profit, weak 🎉 oil: the bank says"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


HIDDEN = "[UNK]"


def in_double(made: Any, text: tuple[str, ...] = ("text",)) -> Model:
    """In float64, and with a mask token that may also be written: then a hidden text is a text like any other."""
    made.tokenizer.mask_token = HIDDEN
    sidecar = replace(made.sidecar, text=text)
    return Model(LoadedModel(made.model.double().eval(), made.tokenizer, sidecar), device="cpu")


def spoken(found: dict[str, Any]) -> dict[str, float]:
    return {word["text"]: word["contribution"] for word in found["words"]}


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


class Bag(nn.Module):
    """Adds up one number a token, so that what each word contributes can be worked out by hand."""

    def __init__(self, numbers: list[float]) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(numbers, dtype=torch.float64)[:, None])

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        total = self.table(input_ids).sum(dim=1)  # [n, 1]
        return SimpleNamespace(logits=torch.cat([total, 2 * total, -total, 0 * total], dim=1))


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


def many_tasks() -> dict[str, Task]:
    def fitted(name: str, type_: str, cells: list[str], **settings: Any) -> Task:
        one = kind(type_)
        return one.fit(name, one.Settings(type=type_, **settings), pa.chunked_array([cells]))

    return {
        "stars": fitted("stars", "regression", ["1", "3", "5", "4"], range=(1, 5)),
        "growth": fitted("growth", "regression", ["-10", "30", "55"]),
        "label": fitted("label", "classification", ["negative", "neutral", "positive"]),
        "urgency": fitted("urgency", "ordinal", ["low", "high", "medium"], labels=["low", "medium", "high"]),
        "moods": fitted("moods", "multilabel", ["joy|fear", "awe", "joy"]),
    }


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[[str], Path]) -> Model:
    return many(tiny_backbone("bert"))


def many(folder: Path, max_length: int = 24) -> Model:
    tasks = many_tasks()
    settings = ModelSettings(backbone=str(folder), max_length=max_length)
    backbone = load_backbone(settings.backbone)
    torch.manual_seed(1)
    network = build(settings, backbone, tasks)
    sidecar = Sidecar(tasks, "native", max_length, ("text",), settings.backbone)
    return Model(LoadedModel(network.eval(), backbone.tokenizer, sidecar), device="cpu")


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


# Spans ---------------------------------------------------------------------------------------------------------------

ODD = [
    ("Don't panic: 3.5% of U.S.-based firms", ["Don't", "panic", ":", "3.5", "%", "of", "U", ".", "S", ".-", "based", "firms"]),
    ("🎉🚀 great!🇩🇪 👩‍👩‍👧", ["🎉🚀", "great", "!🇩🇪", "👩‍👩‍👧"]),
    ("الربح قوي، جدًّا", ["الربح", "قوي", "،", "جدًّا"]),
    ("שלום עולם!", ["שלום", "עולם", "!"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("利润rise 強い", ["利", "润", "rise", "強", "い"]),
    ("cafe\u0301 e.g.\t\n x_y", ["cafe\u0301", "e", ".", "g", ".", "x_y"]),
    ("\u202eloss\u202c", ["\u202e", "loss", "\u202c"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ODD)
def test_words_of_many_scripts(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == expected


@given(st.text(max_size=40))
def test_words_cover_all_but_white_space_once(text: str) -> None:
    spans = words_of(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    covered = {at for start, end in spans for at in range(start, end)}
    assert covered == {at for at, character in enumerate(text) if not character.isspace()}


def test_tokens_are_shared_out_by_characters() -> None:
    words = [(0, 4), (4, 6), (7, 9)]
    # Two tokens in one word; one over two words, of 1 and 2 characters; two on one character; a blank; nothing at all.
    tokens = [(0, 2), (2, 3), (3, 6), (7, 8), (7, 8), (6, 7), (9, 9)]
    sums, rest = spread(words, tokens, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert sums == pytest.approx([1 + 2 + 1, 2, 9])
    assert rest == pytest.approx(13)


@pytest.mark.parametrize("text", [text for text, _ in ODD])
def test_spans_fit_the_text_whatever_is_written_in_it(model: Model, text: str) -> None:
    found = explain(model, text, "stars", steps=4)
    assert [(word["start"], word["end"]) for word in found["words"]] == words_of(text)
    assert all(text[word["start"] : word["end"]] == word["text"] for word in found["words"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("text", [text for text, _ in ODD])
def test_bytes_of_a_character_come_to_its_word(text: str) -> None:
    """A tokenizer of bytes, whose tokens are parts of a character."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {symbol: at for at, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    numbers = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(0)).tolist()
    sidecar = Sidecar({"stars": many_tasks()["stars"]}, "native", 512, ("text",), "tiny")
    model = Model(LoadedModel(Bag(numbers), tokenizer, sidecar), device="cpu")
    found = explain(model, text, "stars", steps=2)

    def by_hand(piece: str) -> float:
        symbols = backend.pre_tokenizer.pre_tokenize_str(piece)[0][0]
        assert len(symbols) == len(piece.encode())
        return sum(2 * (numbers[alphabet[symbol]] - numbers[-1]) for symbol in symbols)  # stars are 3 + 2 x

    assert [(word["text"], word["contribution"]) for word in found["words"]] == [
        (text[start:end], pytest.approx(by_hand(text[start:end]))) for start, end in words_of(text)
    ]
    blanks = "".join(character for character in text if character.isspace())
    assert found["rest"] == pytest.approx(by_hand(blanks) if blanks else 0, abs=1e-9)


def test_words_that_were_cut_off_have_no_contribution(tiny_backbone: Callable[[str], Path]) -> None:
    model = many(tiny_backbone("bert"), max_length=8)  # six words beside [CLS] and [SEP]
    text = "strong profit weak oil the bank says , 🎉"
    found = explain(model, text, "stars")
    assert [word["contribution"] is None for word in found["words"]] == [False] * 6 + [True] * 3
    assert found["words"][-1] == {"text": "🎉", "start": 39, "end": 40, "field": "text", "contribution": None}
    fits = explain(model, "strong profit weak oil the bank", "stars")
    assert fits["value"] == pytest.approx(found["value"], abs=1e-6)
    assert fits["words"] == [
        {**word, "contribution": pytest.approx(word["contribution"], abs=1e-6)} for word in found["words"][:6]
    ]
    assert not [word for word in fits["words"] if word["contribution"] is None]
    model._loaded.tokenizer.truncation_side = "left"
    cut = explain(model, text, "stars")
    assert [word["contribution"] is None for word in cut["words"]] == [True] * 3 + [False] * 6


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
