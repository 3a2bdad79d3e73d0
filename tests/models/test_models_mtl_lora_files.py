"""Task-specific adapters on disk: saved, loaded, cut out, damaged."""

import json
import shutil

import pytest
import torch
from conftest import ARCHITECTURES
from model_helpers import logits_of, make
from mtl_lora_helpers import COLUMNS, OWN, SOME, trained
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from equipoise.errors import RunError
from equipoise.models import cut_task, load_model, restore_private, save_model


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_saved_and_loaded_gives_equal_logits_to_the_bit(tiny_backbone, tmp_path, name, pooling):
    made = trained(tiny_backbone(name), pooling=pooling)
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt", ".jinja"}
    loaded = load_model(tmp_path)
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)
    with pytest.raises((OSError, ValueError)):  # no stock code takes it for a model
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    again = tmp_path / "again"
    save_model(loaded.model, loaded.tokenizer, loaded.sidecar, again)
    assert (again / "mtl_lora.safetensors").read_bytes() == (tmp_path / "mtl_lora.safetensors").read_bytes()
    assert (again / "mtl_lora.json").read_text() == (tmp_path / "mtl_lora.json").read_text()
    # A checkpoint goes back into a model that trains.
    fresh = make(tiny_backbone(name), seed=5, adapter=OWN, pooling=pooling)
    assert not torch.equal(logits_of(fresh.model, fresh.tokenizer), wanted)
    assert restore_private(fresh.model, tmp_path)
    assert torch.equal(logits_of(fresh.model, fresh.tokenizer), wanted)
    trains = {key for key, p in made.model.named_parameters() if p.requires_grad}
    assert {key for key, p in fresh.model.named_parameters() if p.requires_grad} == trains


def test_gathered_weights_are_saved_in_place_of_the_models_own(tiny_backbone, tmp_path):
    made = trained(tiny_backbone("bert"))
    gathered = {key: torch.full_like(value, 0.25) for key, value in made.model.state_dict().items()}
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path, state_dict=gathered)
    weights = load_file(tmp_path / "mtl_lora.safetensors")
    assert set(weights) == {key for key, p in made.model.named_parameters() if p.requires_grad}
    assert all((value == 0.25).all() for value in weights.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cut_task_is_stock_and_gives_its_columns(tiny_backbone, tmp_path, name):
    made = trained(tiny_backbone(name))
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "whole")
    loaded = load_model(tmp_path / "whole")
    pretrained = logits_of(make(tiny_backbone(name)).model, made.tokenizer)
    for task, columns in COLUMNS.items():
        cut_task(loaded, task, tmp_path / task)
        stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / task, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert_close(logits_of(stock, made.tokenizer), wanted[:, columns], rtol=1e-5, atol=1e-5)
        assert (wanted[:, columns] - pretrained[:, columns]).abs().max() > 1e-3
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)  # cutting leaves the model as it was


def test_a_pooler_that_the_checkpoint_lacks_trains_and_is_saved(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    made = trained(folder)
    assert made.model.bert.pooler.dense.weight.grad.abs().sum() > 0
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "adapter")
    torch.manual_seed(99)  # a new pooler made at random on loading would differ
    loaded = load_model(tmp_path / "adapter")
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)


def damage(folder, **changes):
    data = json.loads((folder / "mtl_lora.json").read_text())
    (folder / "mtl_lora.json").write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 9}, r"mtl_lora\.json has format version 9; this Equipoise reads 1"),
        ({"modules": []}, r"mtl_lora\.json is damaged: modules is \[\]"),
        ({"modules": ["bert.no.such"]}, r"no module 'bert\.no\.such' to be adapted"),
        ({"modules": ["bert.embeddings.word_embeddings"]}, "is no linear layer, so it cannot be adapted"),
        ({"rank": True}, "is damaged: rank is True"),
        ({"rank": 4.0}, "is damaged: rank is 4.0"),
        ({"alpha": 0}, "is damaged: alpha is 0"),
        ({"temperature": 0.0}, "is damaged: temperature is 0.0"),
        ({"dropout": 1}, "is damaged: dropout is 1"),
        ({"up_projections": None}, "is damaged: up_projections is None"),
        ({"rank": 5}, "cannot be loaded"),
    ],
)
def test_a_damaged_folder(tiny_backbone, tmp_path, changes, message):
    made = make(tiny_backbone("bert"), adapter=OWN)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    damage(tmp_path, **changes)
    with pytest.raises(RunError, match=message):
        load_model(tmp_path)


def test_damaged_weights(tiny_backbone, tmp_path):
    made = make(tiny_backbone("bert"), adapter=OWN)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    path = tmp_path / "mtl_lora.safetensors"
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if key != "classifier.bias"}, path)
    with pytest.raises(RunError, match=r"is incomplete, 1 weights are missing, such as classifier\.bias"):
        load_model(tmp_path)
    save_file({**weights, "elsewhere": torch.ones(1)}, path)
    with pytest.raises(RunError, match="there is no place for elsewhere"):
        load_model(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(RunError, match="the adapter cannot be loaded"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match="the adapter cannot be loaded"):
        load_model(tmp_path)
