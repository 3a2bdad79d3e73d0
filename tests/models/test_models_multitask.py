import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ARCHITECTURES, tiny_config
from model_helpers import DECODERS, OUTPUTS, PAIRS, TEXTS, encode, logits_of, make, total_loss, train_step
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel

from equipoise.errors import RecipeError, RunError
from equipoise.models import (
    SIDECAR,
    build,
    cut_task,
    load_backbone,
    load_model,
    output_layer,
    representation,
    save_model,
)
from equipoise.models._multitask import set_head_dropout
from equipoise.recipe import ModelSettings

POOLINGS = ["mean", "cls", "last"]

# Positions that are counted from the first real token, or are relative, do not mind padding on the left.
EITHER_SIDE = ["roberta", "modernbert", "llama", "qwen3"]

STOCK = """
import json, sys, warnings
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
root, texts, pairs = json.loads(sys.argv[1])
found = {}
for name in sys.argv[2:]:
    folder = f"{root}/{name}"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(texts, pairs, return_tensors="pt", padding=True)).logits
    found[name] = {"logits": logits}
    if "/" not in name:
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
        found[name]["pipeline"] = [
            {item["label"]: item["score"] for item in classify({"text": a, "text_pair": b})} for a, b in zip(texts, pairs)
        ]
assert not any(module.split(".")[0] == "equipoise" for module in sys.modules)
torch.save(found, f"{root}/found.pt")
"""


@pytest.fixture(scope="module")
def saved(tiny_backbone, tmp_path_factory):
    """Every architecture, trained one step, saved, and each of its tasks cut out."""
    root = tmp_path_factory.mktemp("saved")
    logits = {}
    for name in ARCHITECTURES:
        made = make(tiny_backbone(name))
        before = output_layer(made.model).weight.detach().clone()
        train_step(made)
        assert not torch.equal(before, output_layer(made.model).weight)
        logits[name] = logits_of(made.model, made.tokenizer)
        save_model(made.model, made.tokenizer, made.sidecar, root / name)
        for task in made.tasks:
            cut_task(load_model(root / name), task, root / f"cut-{name}" / task)
    return root, logits


@pytest.fixture(scope="module")
def stock(saved):
    """What transformers alone makes of the folders, in a process that never imports equipoise."""
    root, _ = saved
    names = [name for a in ARCHITECTURES for name in (a, f"cut-{a}/polarity", f"cut-{a}/label")]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, json.dumps([str(root), TEXTS, PAIRS]), *names],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(root / "found.pt", weights_only=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_and_loaded_gives_equal_logits_to_the_bit(saved, name):
    root, logits = saved
    loaded = load_model(root / name)
    assert not loaded.model.training
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), logits[name])
    assert list(loaded.sidecar.tasks) == ["polarity", "label"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stock_model_gives_equal_logits_to_the_bit(saved, stock, name):
    assert torch.equal(stock[name]["logits"], saved[1][name])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stock_pipeline_gives_raw_values(saved, stock, name):
    for row, values in zip(saved[1][name].tolist(), stock[name]["pipeline"], strict=True):
        assert values == pytest.approx(dict(zip(OUTPUTS, row, strict=True)), abs=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cut_task_is_its_columns(saved, stock, name):
    root, logits = saved
    whole = output_layer(load_model(root / name).model)
    for task, rows in {"polarity": slice(0, 1), "label": slice(1, 4)}.items():
        # Weights to the bit; a product of another width may differ in its last digit.
        assert_close(stock[f"cut-{name}/{task}"]["logits"], logits[name][:, rows], rtol=1e-5, atol=1e-6)
        weights = load_file(root / f"cut-{name}" / task / "model.safetensors")
        (cut,) = [weights[key] for key in weights if torch.equal(weights[key], whole.weight[rows])]
        assert cut.shape == (rows.stop - rows.start, 32)
        assert len(weights) == len(load_file(root / name / "model.safetensors"))
    score = json.loads((root / f"cut-{name}" / "polarity" / "config.json").read_text())
    label = json.loads((root / f"cut-{name}" / "label" / "config.json").read_text())
    assert (score["problem_type"], score["id2label"]) == ("regression", {"0": "polarity"})
    assert label["problem_type"] == "single_label_classification"
    assert list(label["id2label"].values()) == ["negative", "neutral", "positive"]
    assert not (root / f"cut-{name}" / "label" / SIDECAR).exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folder_holds_a_stock_configuration_and_no_pickle(saved, name):
    root, _ = saved
    config = json.loads((root / name / "config.json").read_text())
    assert config["id2label"] == {str(index): output for index, output in enumerate(OUTPUTS)}
    assert config["label2id"] == {output: index for index, output in enumerate(OUTPUTS)}
    assert config["problem_type"] == "regression"
    assert config["architectures"][0].endswith("ForSequenceClassification")
    suffixes = {
        path.suffix for folder in (name, f"cut-{name}") for path in (root / folder).rglob("*") if path.is_file()
    }
    assert suffixes <= {".json", ".safetensors", ".txt", ".jinja"}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_poolings_save_and_load(tiny_backbone, tmp_path, name, pooling):
    made = make(tiny_backbone(name), pooling=pooling)
    train_step(made)
    assert all(p.grad is not None for p in made.model.parameters() if p.requires_grad)
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    own = getattr(made.model, made.model.base_model_prefix).state_dict()
    assert all(torch.equal(own[key], value) for key, value in encoder.state_dict().items())
    with pytest.raises(RunError, match="no stock head"):
        cut_task(loaded, "label", tmp_path / "cut")


@pytest.mark.parametrize("pooling", ["native", *POOLINGS])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_representation_carries_the_gradient(tiny_backbone, name, pooling):
    made = make(tiny_backbone(name), pooling=pooling)
    model = made.model.double().eval()
    logits = model(**encode(made.tokenizer)).logits
    shared = representation(model)
    loss = total_loss(logits, made.tasks)
    (found,) = torch.autograd.grad(loss, shared, retain_graph=True)
    # The reference: the output layer's formula alone, on a leaf.
    leaf = shared.detach().clone().requires_grad_()
    layer = output_layer(model)
    again = torch.nn.functional.linear(leaf, layer.weight, layer.bias)
    if again.ndim == 3:  # a decoder's stock head reads every position and picks the last one that is no padding
        last = encode(made.tokenizer)["attention_mask"].sum(1) - 1
        again = again[torch.arange(len(again)), last]
    assert_close(again, logits, rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad(total_loss(again, made.tasks), leaf)
    assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert found.abs().sum() > 0
    with pytest.raises(RuntimeError, match="no forward pass"):
        representation(model)


def test_output_shows_the_representation(tiny_backbone):
    made = make(tiny_backbone("bert"))
    outputs = made.model(**encode(made.tokenizer))
    assert outputs.shared is representation(made.model)
    assert outputs.shared.shape == (len(TEXTS), 32)


@pytest.mark.parametrize(
    ("name", "pooling"),
    # The stock head of an encoder reads position 0, which must be a token.
    [(name, p) for name in EITHER_SIDE for p in ["native", *POOLINGS] if name in DECODERS or p != "native"],
)
def test_padding_side_does_not_matter(tiny_backbone, name, pooling):
    made = make(tiny_backbone(name), pooling=pooling)
    right = logits_of(made.model, made.tokenizer, side="right")
    assert_close(logits_of(made.model, made.tokenizer, side="left"), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", [None, {"merge": False}])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_token_types_are_made_only_where_the_model_has_some(tiny_backbone, tmp_path, name, adapter):
    folder = shutil.copytree(tiny_backbone(name), tmp_path / "backbone")
    if name == "roberta":  # the real one's table of token types has one row
        config = tiny_config(name, 43)
        config.type_vocab_size = 1
        AutoModel.from_config(config).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's and others' say
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    made = make(folder, adapter=adapter)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for tokenizer in (made.tokenizer, loaded.tokenizer):
        assert ("token_type_ids" in encode(tokenizer)) == (name == "bert")
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), logits_of(made.model, made.tokenizer))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_head_dropout(tiny_backbone, name):
    backbone = load_backbone(str(tiny_backbone(name)))
    if name in DECODERS:
        with pytest.raises(RecipeError, match=r"model\.dropout: .*no dropout before its heads"):
            set_head_dropout(backbone.config, 0.37, "native")
    else:
        model = make(tiny_backbone(name), dropout=0.37).model
        outside = [child for key, child in model.named_children() if key != model.base_model_prefix]
        rates = [m.p for child in outside for m in child.modules() if type(m).__name__.endswith("Dropout")]
        assert 0.37 in rates, model
    made = make(tiny_backbone(name), dropout=0.37, pooling="mean")
    assert made.model.dropout.p == 0.37


def test_max_length_above_the_backbones_limit(tiny_backbone):
    backbone = load_backbone(str(tiny_backbone("bert")))
    assert backbone.max_length == 64
    with pytest.raises(RecipeError, match=r"model\.max_length: 65 is more than the 64 tokens that '.*' reads"):
        build(ModelSettings(backbone=backbone.name, max_length=65), backbone, {})


def test_roberta_counts_positions_from_its_padding_index(tiny_backbone):
    backbone = load_backbone(str(tiny_backbone("roberta")))
    backbone.tokenizer.model_max_length = 10**30  # "no limit"
    assert backbone.max_length == 65


def test_gradient_checkpointing_changes_no_gradient(tiny_backbone):
    gradients = []
    for checkpointing in (False, True):
        made = make(tiny_backbone("bert"), gradient_checkpointing=checkpointing, dropout=0.0)
        for module in made.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train_step(made)
        gradients.append([p.grad for p in made.model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(plain, checkpointed)


def test_a_checkpoints_own_head_gives_way(saved):
    root, _ = saved
    made = make(root / "cut-bert" / "label")
    assert output_layer(made.model).out_features == len(OUTPUTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "the weights cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "the weights cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / SIDECAR).unlink(), "not a model that Equipoise saved"),
        (lambda folder: _half_a_character(folder / SIDECAR), "is damaged: UnicodeEncodeError"),
        (lambda folder: _drop_weight(folder / "model.safetensors"), "the weights are incomplete, 1 are missing"),
    ],
)
def test_damaged_folder(saved, tmp_path, damage, message):
    folder = shutil.copytree(saved[0] / "bert", tmp_path / "model")
    damage(folder)
    with pytest.raises(RunError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def _half_a_character(path):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"private_modules": ["\ud800"]}))


def _drop_weight(path):
    weights = load_file(path)
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, path, metadata={"format": "pt"})


def test_cut_task_that_is_not_there(saved, tmp_path):
    with pytest.raises(RunError, match=r"no task 'lable' in this model\. Tasks: polarity, label"):
        cut_task(load_model(saved[0] / "bert"), "lable", tmp_path)
