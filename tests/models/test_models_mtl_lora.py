"""Task-specific adapters, against stock models that hold each task's weights, and against LoRA."""

import copy
import math
import re

import pyarrow as pa
import pytest
import torch
from model_helpers import encode, logits_of, make, make_tasks, total_loss, train_step
from mtl_lora_helpers import COLUMNS, OWN, SOME, layers_of, trained
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from equipoise.errors import RecipeError
from equipoise.models import build, load_backbone, representation
from equipoise.models._mtl_lora import AdaptedLinear, Shape, Turn, fold, task_parameters
from equipoise.models._private import private_parameters
from equipoise.recipe import AdapterSettings, ModelSettings
from equipoise.tasks import kind


def no_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


# One layer ------------------------------------------------------------------------------------------------------------


def small_layer():
    """Two inputs, one output, rank 1, two up-projections; every number is chosen."""
    turn = Turn()
    layer = AdaptedLinear(nn.Linear(2, 1), turn, 2, Shape((), 1, 3.0, 0.0, 2, 0.5))
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[10.0, 20.0]]))
        layer.base.bias.copy_(torch.tensor([0.5]))
        layer.lora_A.copy_(torch.tensor([[1.0, -2.0]]))
        layer.lora_B.copy_(torch.tensor([[[2.0]], [[6.0]]]))
        layer.lora_transform.copy_(torch.tensor([[[1.0]], [[-0.5]]]))
        # Divided by the temperature: 0 and 0, log 3 and 0.
        layer.lora_mixture.copy_(torch.tensor([[0.0, 0.0], [0.5 * math.log(3), 0.0]]))
    return layer, turn


def test_the_update_by_hand():
    layer, turn = small_layer()
    # alpha / rank = 3. Task 0: (2/2 + 6/2) * 1 = 4; task 1: (3/4 * 2 + 1/4 * 6) * -0.5 = -1.5.
    assert_close(layer.update(0), torch.tensor([[12.0, -24.0]], dtype=torch.float64))
    assert_close(layer.update(1), torch.tensor([[-4.5, 9.0]], dtype=torch.float64))
    x = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    with turn.of(0):
        assert_close(layer(x), torch.tensor([[30.5 - 12.0], [20.5 + 24.0]]))
    with turn.of(1):
        assert_close(layer(x), torch.tensor([[30.5 + 4.5], [20.5 - 9.0]]))
    assert (layer.in_features, layer.out_features, layer.weight is layer.base.weight) == (2, 1, True)
    assert layer.bias is layer.base.bias


def test_a_task_leaves_the_other_tasks_own_alone():
    layer, turn = small_layer()
    with turn.of(0):
        layer(torch.ones(3, 2)).sum().backward()
    assert layer.lora_transform.grad[0].abs().sum() > 0
    assert layer.lora_mixture.grad[0].abs().sum() > 0
    assert layer.lora_transform.grad[1].tolist() == [[0.0]]
    assert layer.lora_mixture.grad[1].tolist() == [0.0, 0.0]
    assert layer.lora_A.grad.abs().sum() > 0
    assert (layer.lora_B.grad != 0).all()


def test_no_task_no_answer():
    layer, turn = small_layer()
    with pytest.raises(RuntimeError, match="runs outside the model's forward pass"):
        layer(torch.ones(1, 2))
    outer = turn.of(1)
    with outer, turn.of(0):
        assert turn.task == 0
    assert turn.task is None
    with outer:  # again, as a backward that walks twice does
        assert turn.task == 1


def test_dropout_is_on_the_adapters_input_alone():
    turn = Turn()
    layer = AdaptedLinear(nn.Linear(200, 1, bias=False), turn, 1, Shape((), 1, 1.0, 0.5, 1, 1.0))
    with torch.no_grad():
        layer.base.weight.zero_()
        layer.lora_A.fill_(1.0)
        layer.lora_B.fill_(1.0)
    torch.manual_seed(0)
    with turn.of(0):
        found = layer(torch.ones(400, 200))
        layer.eval()
        assert_close(layer(torch.ones(1, 200)), torch.tensor([[200.0]]))
    assert found.std().item() == pytest.approx(math.sqrt(200), rel=0.15)  # each input counts 2 or 0 times
    assert found.mean().item() == pytest.approx(200, rel=0.02)


def test_half_precision_keeps_the_layers_type():
    turn = Turn()
    layer = AdaptedLinear(nn.Linear(4, 2).bfloat16(), turn, 1, Shape((), 2, 2.0, 0.0, 1, 1.0))
    assert {p.dtype for name, p in layer.named_parameters() if "lora_" in name} == {torch.float32}
    with turn.of(0):
        assert layer(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


# A model --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_begins_at_the_pretrained_weights_and_trains_what_it_should(tiny_backbone, name, pooling):
    made, plain = (make(tiny_backbone(name), pooling=pooling, **more) for more in ({"adapter": OWN}, {}))
    names = dict(made.model.named_parameters())
    for key, value in plain.model.named_parameters():  # the heads are drawn before the adapters
        layer, _, own = key.rpartition(".")
        assert torch.equal(names[key] if key in names else names[f"{layer}.base.{own}"], value), key
    assert_close(logits_of(made.model, made.tokenizer), logits_of(plain.model, made.tokenizer), rtol=0, atol=0)
    before = {key: p.detach().clone() for key, p in names.items()}
    for _ in range(2):
        train_step(made)
    prefix = f"{made.model.base_model_prefix}."
    for key, parameter in names.items():
        if ".lora_" in key or not key.startswith(prefix):
            assert parameter.grad is not None, f"{key} waits for a gradient in vain"
            assert parameter.grad.abs().sum() > 0, key
        else:
            assert not parameter.requires_grad, key
            assert torch.equal(parameter, before[key]), key


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_each_tasks_logits_are_those_of_its_folded_weights(tiny_backbone, name, pooling):
    made = trained(tiny_backbone(name), pooling=pooling)
    model = made.model.double().eval()
    wanted = logits_of(model, made.tokenizer)
    for index, columns in enumerate(COLUMNS.values()):
        one = copy.deepcopy(model)
        fold(one, index)
        assert layers_of(one) == []
        assert one.mtl_lora is None
        found = logits_of(one, made.tokenizer)
        assert_close(found[:, columns], wanted[:, columns], rtol=1e-6, atol=1e-8)  # norms of decoders count in float32
        other = COLUMNS["label" if index == 0 else "polarity"]
        assert (found[:, other] - wanted[:, other]).abs().max() > 1e-4
    assert torch.equal(logits_of(model, made.tokenizer), wanted)  # the copies were folded, not the model
    fold(plain := make(tiny_backbone(name)).model)
    assert layers_of(plain) == []


def test_gradients_are_those_of_the_folded_weights(tiny_backbone):
    made = trained(tiny_backbone("bert"))
    model = made.model.double().eval()
    model.zero_grad()
    model(**encode(made.tokenizer)).logits[:, COLUMNS["label"]].square().sum().backward()
    one = copy.deepcopy(model)
    fold(one, 1)
    one.requires_grad_(True)
    one.zero_grad()
    one(**encode(made.tokenizer)).logits[:, COLUMNS["label"]].square().sum().backward()
    for name in model.mtl_lora.shape.modules:
        layer, gradient = model.get_submodule(name), one.get_submodule(name).weight.grad
        mixture = torch.softmax(layer.lora_mixture[1] / layer.temperature, 0)
        middle = layer.lora_transform[1] @ layer.lora_A
        # dL/dB_i = s m_i G (Lambda A)', dL/dA = s (B Lambda)' G, with G the gradient of the whole weight.
        for index, part in enumerate(layer.lora_B.grad):
            assert_close(part, layer.scale * mixture[index] * gradient @ middle.T)
        up = torch.einsum("i,ior->or", mixture, layer.lora_B)
        assert_close(layer.lora_A.grad, layer.scale * (up @ layer.lora_transform[1]).T @ gradient)
        assert layer.lora_transform.grad[0].abs().sum() == layer.lora_mixture.grad[0].abs().sum() == 0
        assert layer.lora_transform.grad[1].abs().sum() > 0


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "llama"])
def test_with_one_up_projection_and_no_transform_it_is_lora(tiny_backbone, name):
    own = make(tiny_backbone(name), adapter={**OWN, "up_projections": 1, "alpha": 6})
    lora = make(tiny_backbone(name), adapter={"rank": 4, "dropout": 0.0, "alpha": 6})
    theirs = dict(lora.model.get_base_model().named_modules())
    generator = torch.Generator().manual_seed(3)
    assert sorted(own.model.mtl_lora.shape.modules) == sorted(
        key for key, module in theirs.items() if hasattr(module, "lora_A")
    )
    with torch.no_grad():
        for key in own.model.mtl_lora.shape.modules:
            layer, other = own.model.get_submodule(key), theirs[key]
            layer.lora_B.normal_(generator=generator)
            other.lora_A["default"].weight.copy_(layer.lora_A)
            other.lora_B["default"].weight.copy_(layer.lora_B[0])
        theirs_heads = {n: p for n, p in lora.model.named_parameters() if "modules_to_save" in n}
        for key, parameter in theirs_heads.items():
            at = key.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
            parameter.copy_(own.model.get_parameter(at))
    assert theirs_heads
    assert_close(logits_of(own.model, own.tokenizer), logits_of(lora.model, lora.tokenizer))


@pytest.mark.parametrize(("name", "pooling"), [("bert", "native"), ("llama", "native"), ("bert", "mean")])
def test_representation_gives_each_tasks_gradient_at_its_own(tiny_backbone, name, pooling):
    made = trained(tiny_backbone(name), pooling=pooling)
    model = made.model.eval()
    outputs = model(**encode(made.tokenizer))
    shared = representation(model)
    assert shared is outputs.shared
    assert (shared == 0).all()
    for index, columns in enumerate(COLUMNS.values()):
        (found,) = torch.autograd.grad(outputs.logits[:, columns].square().sum(), shared, retain_graph=True)
        one = copy.deepcopy(model)
        fold(one, index)
        one.requires_grad_(True)
        logits = one(**encode(made.tokenizer)).logits
        (wanted,) = torch.autograd.grad(logits[:, columns].square().sum(), representation(one))
        assert wanted.abs().sum() > 0
        assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    logits_of(model, made.tokenizer)
    with pytest.raises(RuntimeError, match="no forward pass"):
        representation(model)


@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta-v2", "modernbert", "llama"])
def test_gradient_checkpointing_computes_again_for_the_same_task(tiny_backbone, name):
    gradients = []
    for checkpointing in (False, True):
        made = make(tiny_backbone(name), gradient_checkpointing=checkpointing, adapter=OWN)
        no_dropout(made.model)
        for layer in layers_of(made.model):  # far apart, so that a mixed-up task would show
            layer.lora_B.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
            layer.lora_transform.data[1].neg_()
        train_step(made)
        gradients.append({key: p.grad for key, p in made.model.named_parameters() if p.requires_grad})
    for key, plain in gradients[0].items():
        assert plain.abs().sum() > 0
        assert_close(gradients[1][key], plain, msg=lambda text, key=key: f"{key}: {text}")


def test_checkpointing_that_knows_no_task_is_an_error(tiny_backbone):
    made = make(tiny_backbone("bert"), adapter=OWN)
    made.model.activation_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(RuntimeError, match=r"set model\.gradient_checkpointing"):
        train_step(made)


def test_autocast_changes_little(tiny_backbone):
    made = trained(tiny_backbone("bert"))
    wanted = logits_of(made.model, made.tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits_of(made.model, made.tokenizer)
    assert_close(found.float(), wanted, rtol=0.1, atol=0.1)
    assert not torch.equal(found.float(), wanted)


def test_a_frozen_backbone_in_half_precision_trains_in_float32(tiny_backbone):
    chosen = ModelSettings(backbone=str(tiny_backbone("bert")), max_length=32, adapter=AdapterSettings(**OWN))
    backbone = load_backbone(chosen.backbone)
    tasks = make_tasks()
    model = build(chosen, backbone, tasks, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        total_loss(model(**encode(backbone.tokenizer)).logits.float(), tasks).backward()
    for key, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), key
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.requires_grad == (".lora_" in key or key.startswith("classifier."))


def test_what_is_a_tasks_own(tiny_backbone):
    model = make(tiny_backbone("bert"), adapter=OWN).model
    names = {id(p): name for name, p in model.named_parameters()}
    own = {names[id(p)] for p in private_parameters(model)}
    assert own == {name for name in names.values() if name.endswith(("lora_transform", "lora_mixture"))}
    assert private_parameters(model, blocks_only=True) == []
    assert task_parameters(make(tiny_backbone("bert")).model) == []
    # Queries only: two layers, and the transform and the mixture of each.
    model = make(tiny_backbone("bert"), adapter={**OWN, "targets": ["query"]}).model
    assert re.fullmatch(
        r"(bert\.encoder\.layer\.\d\.attention\.self\.query ?){2}", " ".join(model.mtl_lora.shape.modules)
    )
    assert len(task_parameters(model)) == 4


def test_a_single_task_has_an_ordinary_adapter(tiny_backbone):
    chosen = ModelSettings(backbone=str(tiny_backbone("bert")), max_length=32, adapter=AdapterSettings(**OWN))
    backbone = load_backbone(chosen.backbone)
    score = kind("regression")
    task = score.fit("a", score.Settings(type="regression"), pa.chunked_array([["0", "1"]]))
    model = build(chosen, backbone, {"a": task}).eval()
    assert private_parameters(model) == []
    with torch.no_grad():
        for layer in layers_of(model):
            layer.lora_B.normal_()
    outputs = model(**encode(backbone.tokenizer))
    assert (representation(model) != 0).any()  # what the heads read, as in any model
    one = copy.deepcopy(model)
    fold(one)
    assert_close(one(**encode(backbone.tokenizer)).logits, outputs.logits, rtol=1e-4, atol=1e-5)


def test_targets_that_are_not_there(tiny_backbone):
    with pytest.raises(RecipeError, match=r"model\.adapter\.targets: no linear layer 'qery' in the backbone"):
        make(tiny_backbone("bert"), adapter={**OWN, "targets": ["qery"]})


def test_a_backbone_without_linear_layers(tiny_backbone, monkeypatch):
    monkeypatch.setattr("equipoise.models._adapter.target_names", lambda *_, **__: [])
    with pytest.raises(
        RecipeError, match=r"model\.adapter: BertForSequenceClassification has no linear layer to adapt"
    ):
        make(tiny_backbone("bert"), adapter=OWN)


# The recipe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type": "mtl_lora", "merge": True},
            "merge goes with type: lora, not with mtl_lora. Every task has weights of",
        ),
        ({"type": "mtl_lora", "quantization": "4bit"}, "quantization goes with type: lora, not with mtl_lora"),
        ({"up_projections": 3}, "up_projections goes with type: mtl_lora, not with lora. Leave it out"),
        ({"type": "lora", "temperature": 1}, "temperature goes with type: mtl_lora, not with lora"),
        ({"type": "mtl_lora", "temperature": 0}, "greater than 0"),
        ({"type": "mtl_lora", "up_projections": 0}, "greater than or equal to 1"),
        ({"type": "dora"}, "Input should be 'lora' or 'mtl_lora'"),
        ({"type": ["lora"]}, "Input should be 'lora' or 'mtl_lora'"),
    ],
)
def test_settings_of_another_type(settings, message):
    with pytest.raises(ValueError, match=message):
        AdapterSettings(**settings)


def test_a_type_is_written_with_its_own_settings():
    own = AdapterSettings(type="mtl_lora", merge=False, quantization=None)
    assert (own.merge, own.up_projections, own.temperature) == (False, 3, 0.1)
    assert list(own.model_dump()) == ["type", "rank", "alpha", "dropout", "targets", "up_projections", "temperature"]
    assert AdapterSettings(**own.model_dump()) == own
    assert own.model_dump(exclude_defaults=True) == {"type": "mtl_lora"}
    lora = AdapterSettings()
    assert list(lora.model_dump()) == ["type", "rank", "alpha", "dropout", "targets", "merge", "quantization"]
    assert AdapterSettings(**lora.model_dump()) == lora


def test_private_layers_have_no_place_beside_it():
    with pytest.raises(ValueError, match="with mtl_lora every layer is the tasks' own already"):
        ModelSettings(private_layers=1, adapter={"type": "mtl_lora"})


def test_what_it_costs(tiny_backbone):
    # Two tasks: two passes of LoRA's cost, and the mixtures' own, which do not grow with the rows.
    inputs = {"input_ids": torch.randint(5, 40, (8, 32))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    found = {}
    for name, adapter in {"lora": {"rank": 4, "dropout": 0.0}, "mtl_lora": OWN}.items():
        made = make(tiny_backbone("distilbert"), adapter=adapter, pooling="mean")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            made.model.eval()(**inputs)
        found[name] = counter.get_total_flops()
    layers = layers_of(made.model)
    rows = 8 * 32
    transforms = sum(2 * rows * 4 * 4 for _ in layers)
    mixtures = sum(2 * 3 * layer.out_features * 4 for layer in layers)
    assert found["mtl_lora"] == 2 * (found["lora"] + transforms + mixtures)
