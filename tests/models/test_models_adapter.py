import shutil

import pytest
import torch
from conftest import ARCHITECTURES
from model_helpers import encode, logits_of, make, train_step
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from equipoise.errors import EquipoiseError, RecipeError, RunError
from equipoise.models import _adapter as adapter_module
from equipoise.models import cut_task, load_model, modules_to_save, representation, save_model, target_pattern
from equipoise.models._adapter import quantization_config

LORA = {"rank": 4, "dropout": 0.0}


def without(folder, tmp_path, part):
    """A copy of a backbone whose checkpoint lacks every weight with `part` in its name."""
    copied = shutil.copytree(folder, tmp_path / f"without-{part}")
    weights = load_file(copied / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    return copied


def round_trip(made, folder):
    """Logits as trained; of the adapter saved alone; merged; merged, saved and loaded."""
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, folder / "adapter")
    alone = load_model(folder / "adapter")
    assert_close(logits_of(alone.model, alone.tokenizer), wanted, rtol=0, atol=0)
    merged = made.model.merge_and_unload()
    save_model(merged, made.tokenizer, made.sidecar, folder / "merged")
    loaded = load_model(folder / "merged")
    assert_close(logits_of(loaded.model, loaded.tokenizer), wanted, rtol=1e-5, atol=1e-5)
    return wanted


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trains_saves_and_merges(tiny_backbone, tmp_path, name):
    made = make(tiny_backbone(name), adapter=LORA)
    before = {key: p.detach().clone() for key, p in made.model.named_parameters()}
    untrained = logits_of(made.model, made.tokenizer)
    train_step(made)
    train_step(made)  # the second matrix starts at zero, so the first one moves from the second step on
    for key, parameter in made.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} waits for a gradient in vain"
        else:
            assert torch.equal(parameter, before[key]), key
    moved = [key for key, p in made.model.named_parameters() if p.requires_grad and not torch.equal(p, before[key])]
    assert any("lora_A" in key for key in moved)
    assert any("lora_B" in key for key in moved)
    assert any("modules_to_save" in key for key in moved)
    wanted = round_trip(made, tmp_path)
    assert not torch.allclose(wanted, untrained)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert_close(logits_of(stock, made.tokenizer), wanted, rtol=1e-5, atol=1e-5)
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} <= {".json", ".safetensors", ".txt", ".jinja"}
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


@pytest.mark.parametrize("pooling", ["native", "mean"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_backbone_without_a_pooler_in_its_checkpoint(tiny_backbone, tmp_path, name, pooling):
    folder = without(tiny_backbone(name), tmp_path, "pooler")
    made = make(folder, adapter=LORA, pooling=pooling)
    train_step(made)
    waiting = [key for key, p in made.model.named_parameters() if p.requires_grad and p.grad is None]
    assert waiting == []
    torch.manual_seed(99)  # a new pooler made at random on loading would differ
    round_trip(made, tmp_path)


def test_whole_model_without_a_pooler_in_its_checkpoint(tiny_backbone, tmp_path):
    made = make(without(tiny_backbone("bert"), tmp_path, "pooler"))
    train_step(made)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), logits_of(made.model, made.tokenizer))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapter_with_our_pooling(tiny_backbone, tmp_path, name, pooling):
    made = make(tiny_backbone(name), adapter=LORA, pooling=pooling)
    train_step(made)
    assert [key for key, p in made.model.named_parameters() if p.requires_grad and p.grad is None] == []
    round_trip(made, tmp_path)


def test_backbone_with_a_head_of_its_own(tiny_backbone, tmp_path):
    whole = make(tiny_backbone("roberta"))
    save_model(whole.model, whole.tokenizer, whole.sidecar, tmp_path / "whole")
    cut_task(load_model(tmp_path / "whole"), "label", tmp_path / "head")
    made = make(tmp_path / "head", adapter=LORA)
    train_step(made)
    round_trip(made, tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_representation_through_the_wrapper(tiny_backbone, name):
    made = make(tiny_backbone(name), adapter=LORA)
    logits = made.model(**encode(made.tokenizer)).logits
    shared = representation(made.model)
    (gradient,) = torch.autograd.grad(logits.sum(), shared)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_checkpointing_reaches_the_adapter(tiny_backbone, name):
    made = make(tiny_backbone(name), adapter=LORA, gradient_checkpointing=True)
    train_step(made)
    assert all(p.grad is not None for p in made.model.parameters() if p.requires_grad)


def test_targets(tiny_backbone):
    made = make(tiny_backbone("bert"), adapter={**LORA, "targets": ["query", "value"]})
    adapted = {
        key.split(".lora_A")[0].rpartition(".")[2] for key, _ in made.model.named_parameters() if "lora_A" in key
    }
    assert adapted == {"query", "value"}


def test_unknown_target(tiny_backbone):
    with pytest.raises(
        RecipeError, match=r"model\.adapter\.targets: no linear layer 'q_proj' in the backbone\. Available: .*query.*"
    ):
        make(tiny_backbone("bert"), adapter={"targets": ["query", "q_proj"]})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pattern_names_linear_layers_of_the_backbone_alone(tiny_backbone, name):
    import re

    model = make(tiny_backbone(name)).model
    pattern = target_pattern(model, None)
    chosen = [key for key, _ in model.named_modules() if re.fullmatch(pattern, key)]
    assert chosen
    assert all(key.startswith(f"{model.base_model_prefix}.") for key in chosen)
    assert all(isinstance(model.get_submodule(key), torch.nn.Linear) for key in chosen)
    assert not any(key.startswith(f"{model.base_model_prefix}.") for key in modules_to_save(model))


def test_quantization_without_its_package(monkeypatch):
    monkeypatch.setattr(adapter_module, "find_spec", lambda name: None)
    with pytest.raises(EquipoiseError, match=r"needs bitsandbytes: pip install \"equipoise\[quantization\]\""):
        quantization_config(None)


def test_adapter_that_is_not_merged_cannot_be_cut(tiny_backbone, tmp_path):
    made = make(tiny_backbone("bert"), adapter=LORA)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "adapter")
    with pytest.raises(RunError, match=r"the adapter is not merged"):
        cut_task(load_model(tmp_path / "adapter"), "label", tmp_path / "cut")


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_adapter(tiny_backbone, tmp_path, file):
    made = make(tiny_backbone("bert"), adapter=LORA)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    (tmp_path / file).write_text("{")
    with pytest.raises(RunError, match="cannot be loaded"):
        load_model(tmp_path)


def test_backbone_of_an_adapter_is_gone(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    made = make(folder, adapter=LORA)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "adapter")
    shutil.rmtree(folder)
    with pytest.raises(RunError, match=r"model\.backbone: there is no folder"):
        load_model(tmp_path / "adapter")
