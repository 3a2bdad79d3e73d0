"""Private layers: the last blocks once a task, against models of one task each that hold the same weights."""

import copy
import json
import shutil

import pyarrow as pa
import pytest
import torch
from conftest import ARCHITECTURES
from model_helpers import OUTPUTS, encode, logits_of, make, train_step
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification

from equipoise.errors import RecipeError, RunError
from equipoise.models import (
    SIDECAR,
    block_list,
    build,
    cut_task,
    fit_private,
    join,
    load_backbone,
    load_model,
    output_layer,
    private_of,
    representation,
    restore_private,
    save_model,
    shared_blocks,
    slices,
    split,
)
from equipoise.models._multitask import MultiTask
from equipoise.models._private import Copies, Private, gather, private_parameters
from equipoise.models._private_plan import plan_private
from equipoise.recipe import ModelSettings
from equipoise.tasks import kind

TASKS = ["polarity", "label"]
COLUMNS = {"polarity": slice(0, 1), "label": slice(1, 4)}
SOME = [*((name, "native") for name in ARCHITECTURES), ("bert", "mean"), ("llama", "last")]
BEHIND = {  # what stands between the blocks and the output layer, and has weights
    "bert": ["bert.pooler.dense"],
    "roberta": ["classifier.dense"],
    "distilbert": ["pre_classifier"],
    "deberta-v2": ["pooler.dense"],
    "modernbert": ["model.final_norm", "head.dense", "head.norm"],
    "llama": ["model.norm"],
    "qwen3": ["model.norm"],
}


def parted(folder, steps=2, **settings):
    """A model with private layers whose copies are no longer equal."""
    made = make(folder, **{"private_layers": 1, **settings})
    for _ in range(steps):
        train_step(made)
        made.model.zero_grad()
    return made


def alone(model, index):
    """The model of one task, which knows of no others but its packed head."""
    one = copy.deepcopy(model)
    join(one, index)
    return one


@pytest.mark.parametrize("pooling", ["native", "mean"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_copies_begin_as_the_pretrained_block(tiny_backbone, name, pooling):
    shared = make(tiny_backbone(name), pooling=pooling)
    made = make(tiny_backbone(name), pooling=pooling, private_layers=1)
    assert_close(logits_of(made.model, made.tokenizer), logits_of(shared.model, shared.tokenizer))
    where, blocks = block_list(made.model)
    wanted = [
        f"{where}.1",
        *(BEHIND[name] if pooling == "native" else set(BEHIND[name]) & {"model.final_norm", "model.norm"}),
    ]
    assert list(made.model.private.modules) == wanted
    assert [isinstance(block, Copies) for block in blocks] == [False, True]
    own = shared.model.state_dict()
    for key, value in made.model.state_dict().items():
        if ".copies." in key:
            before, _, after = key.partition(".copies.")
            key = f"{before}.{after.partition('.')[2]}"
        assert torch.equal(value, own[key]), key


@pytest.mark.parametrize(
    ("name", "pooling", "layers"),
    [(name, pooling, 1) for name in ARCHITECTURES for pooling in ("native", "mean")]
    + [
        ("bert", "cls", 1),
        ("llama", "last", 1),
        ("bert", "native", 2),
        ("modernbert", "mean", 2),
        ("qwen3", "native", 2),
    ],
)
def test_logits_and_gradients_are_those_of_one_model_a_task(tiny_backbone, name, pooling, layers):
    made = parted(tiny_backbone(name), pooling=pooling, private_layers=layers)
    model = made.model.double().eval()
    inputs = encode(made.tokenizer)
    logits = model(**inputs).logits
    assert logits.shape == (4, 4)
    private, below = [], []  # of each task's own model: gradients of what it has for itself, and of what all share
    for index, task in enumerate(TASKS):
        one = alone(model, index)
        found = one(**inputs).logits[:, COLUMNS[task]]
        assert_close(logits[:, COLUMNS[task]], found, rtol=1e-10, atol=1e-12)
        # The copies are not equal any more: the other task's would give something else.
        other = alone(model, 1 - index)(**inputs).logits[:, COLUMNS[task]]
        assert (logits[:, COLUMNS[task]] - other).abs().max() > 1e-6
        found.square().sum().backward()
        private.append([p.grad for module in model.private.modules for p in one.get_submodule(module).parameters()])
        below.append([p.grad for block in shared_blocks(model) for p in _same(block, model, one).parameters()])
    logits.square().sum().backward()
    for index, wanted in enumerate(private):
        copies = [model.get_submodule(module).copies[index] for module in model.private.modules]
        for parameter, gradient in zip([p for one in copies for p in one.parameters()], wanted, strict=True):
            assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)  # norms of decoders count in float32
    shared = [p for block in shared_blocks(model) for p in block.parameters()]
    for parameter, first, second in zip(shared, *below, strict=True):
        assert_close(parameter.grad, first + second, rtol=1e-4, atol=1e-7)  # norms of decoders count in float32


def _same(block, model, other):
    name = next(name for name, module in model.named_modules() if module is block)
    return other.get_submodule(name)


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_saved_and_loaded_gives_equal_logits_to_the_bit(tiny_backbone, tmp_path, name, pooling):
    made = parted(tiny_backbone(name), pooling=pooling)
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)
    assert loaded.model.private == made.model.private == private_of(loaded.model)
    saved = json.loads((tmp_path / SIDECAR).read_text())
    assert (saved["private_layers"], tuple(saved["private_modules"])) == (1, made.model.private.modules)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt", ".jinja"}
    again = tmp_path / "again"
    save_model(loaded.model, loaded.tokenizer, loaded.sidecar, again)
    assert (again / "model.private.safetensors").read_bytes() == (tmp_path / "model.private.safetensors").read_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cut_task_is_stock_and_gives_its_columns(tiny_backbone, tmp_path, name):
    made = parted(tiny_backbone(name))
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "whole")
    loaded = load_model(tmp_path / "whole")
    for index, task in enumerate(TASKS):
        cut_task(loaded, task, tmp_path / task)
        stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / task, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not isinstance(stock, MultiTask)
        assert_close(logits_of(stock, made.tokenizer), wanted[:, COLUMNS[task]], rtol=1e-5, atol=1e-6)
        weights = load_file(tmp_path / task / "model.safetensors")
        own = made.model.get_submodule(made.model.private.modules[0]).copies[index]
        for key, value in own.state_dict().items():
            assert torch.equal(weights[f"{made.model.private.modules[0]}.{key}"], value)
    # Cutting leaves the model as it was.
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_whole_folder_does_not_pass_for_a_stock_model(tiny_backbone, tmp_path, name):
    made = parted(tiny_backbone(name))
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert AutoConfig.from_pretrained(tmp_path).architectures is None
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_damaged_private_folder(tiny_backbone, tmp_path):
    made = parted(tiny_backbone("bert"))
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "good")
    for key, value in {"private_layers": True, "private_modules": ["bert.encoder.layer.1", 3]}.items():
        folder = shutil.copytree(tmp_path / "good", tmp_path / key)
        data = json.loads((folder / SIDECAR).read_text())
        (folder / SIDECAR).write_text(json.dumps({**data, key: value}))
        with pytest.raises(RunError, match=rf"is damaged: ValueError: {key} is"):
            load_model(folder)
    data = json.loads((tmp_path / "good" / SIDECAR).read_text())
    (tmp_path / "good" / SIDECAR).write_text(json.dumps({**data, "private_modules": ["bert.encoder.layer.7"]}))
    with pytest.raises(RunError, match=r"the model has no module 'bert\.encoder\.layer\.7'"):
        load_model(tmp_path / "good")


def test_an_early_sidecar_without_private_layers_still_loads(tiny_backbone, tmp_path):
    made = make(tiny_backbone("bert"))
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path)
    data = json.loads((tmp_path / SIDECAR).read_text())
    del data["private_layers"], data["private_modules"]
    (tmp_path / SIDECAR).write_text(json.dumps(data))
    assert load_model(tmp_path).model.private is None


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_representation_is_what_the_heads_read(tiny_backbone, name, pooling):
    made = parted(tiny_backbone(name), pooling=pooling)
    model = made.model.eval()
    kept = []
    hook = output_layer(model).register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    outputs = model(**encode(made.tokenizer))
    hook.remove()
    shared = representation(model)
    assert shared is kept[0]
    assert shared is outputs.shared
    count = len(COLUMNS)
    assert len(shared) == count * len(outputs.logits)
    for own, columns in enumerate(COLUMNS.values()):
        (gradient,) = torch.autograd.grad(outputs.logits[:, columns].sum(), shared, retain_graph=True)
        for chunk, part in enumerate(gradient.chunk(count)):
            assert (part.abs().sum() > 0) == (chunk == own)
    with pytest.raises(RuntimeError, match="no forward pass"):
        representation(model)


def test_a_task_without_labels_passes_zeros_to_its_copies(tiny_backbone):
    made = parted(tiny_backbone("bert"))
    made.model.train()
    made.model(**encode(made.tokenizer)).logits[:, COLUMNS["label"]].sum().backward()
    block = made.model.bert.encoder.layer[1]
    assert all(p.grad is not None for p in made.model.parameters())
    assert all((p.grad == 0).all() for p in block.copies[0].parameters())
    assert any((p.grad != 0).any() for p in block.copies[1].parameters())


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "modernbert", "llama"])
def test_gradient_checkpointing_and_autocast_change_little_or_nothing(tiny_backbone, name):
    gradients = []
    for checkpointing in (False, True):
        made = make(tiny_backbone(name), gradient_checkpointing=checkpointing, private_layers=1)
        for module in made.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train_step(made)
        gradients.append([p.grad for p in made.model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(plain, checkpointed)
    wanted = logits_of(made.model, made.tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        found = logits_of(made.model, made.tokenizer)
    assert found.shape == wanted.shape
    assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
    assert not torch.equal(found.float(), wanted)


@pytest.mark.parametrize(("name", "pooling"), SOME)
def test_lora_on_private_copies(tiny_backbone, tmp_path, name, pooling):
    made = make(tiny_backbone(name), pooling=pooling, private_layers=1, adapter={"rank": 2, "dropout": 0.0})
    train_step(made)
    waiting = [key for key, p in made.model.named_parameters() if p.requires_grad and p.grad is None]
    assert waiting == []
    train_step(made)
    adapted = [key for key, p in made.model.named_parameters() if "lora_B" in key and ".copies." in key]
    by_task = [{key for key in adapted if f".copies.{index}." in key} for index in (0, 1)]
    assert len(by_task[0]) == len(by_task[1]) > 0
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "adapter")
    unmerged = load_model(tmp_path / "adapter")
    assert torch.equal(logits_of(unmerged.model, unmerged.tokenizer), wanted)
    assert private_of(unmerged.model) == private_of(made.model)
    merged = made.model.merge_and_unload()
    save_model(merged, made.tokenizer, made.sidecar, tmp_path / "merged")
    loaded = load_model(tmp_path / "merged")
    assert_close(logits_of(loaded.model, loaded.tokenizer), wanted, rtol=1e-5, atol=1e-5)
    if pooling == "native":
        cut_task(loaded, "label", tmp_path / "cut")
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut")
        assert_close(logits_of(stock, made.tokenizer), wanted[:, COLUMNS["label"]], rtol=1e-5, atol=1e-5)


def test_lora_with_a_pooler_that_the_checkpoint_lacks(tiny_backbone, tmp_path):
    folder = shutil.copytree(tiny_backbone("bert"), tmp_path / "backbone")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    made = make(folder, private_layers=1, adapter={"rank": 2})
    train_step(made)
    wanted = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "adapter")
    torch.manual_seed(99)  # a new pooler made at random on loading would differ
    loaded = load_model(tmp_path / "adapter")
    assert torch.equal(logits_of(loaded.model, loaded.tokenizer), wanted)


def test_conflict_shares_everything_until_it_is_split(tiny_backbone, tmp_path):
    shared, made = make(tiny_backbone("bert")), make(tiny_backbone("bert"), private_layers=1, private_when="conflict")
    assert made.model.private is None
    assert made.model.private_plan.layers == 1
    assert {k: v.shape for k, v in made.model.state_dict().items()} == {
        k: v.shape for k, v in shared.model.state_dict().items()
    }
    assert torch.equal(logits_of(made.model, made.tokenizer), logits_of(shared.model, shared.tokenizer))
    last = list(made.model.bert.encoder.layer[1].parameters())
    assert {id(p) for p in last} == {id(p) for p in private_parameters(made.model, blocks_only=True)}
    assert shared_blocks(made.model) == [made.model.bert.encoder.layer[0]]
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "before")  # stock still
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "before")

    parts = split(made.model, made.model.private_plan)
    assert {id(p) for p in last} <= {id(p) for p in parts}
    for original, copies in parts.items():
        assert copies[0] is original
        assert copies[1] is not original
        assert torch.equal(copies[1], original)
    assert split(made.model, made.model.private_plan) == {}
    train_step(made)
    parted_logits = logits_of(made.model, made.tokenizer)
    save_model(made.model, made.tokenizer, made.sidecar, tmp_path / "after")

    # A checkpoint of either state goes into a model of either state.
    assert not restore_private(made.model, tmp_path / "before")
    assert made.model.private is None
    assert set(made.model.state_dict()) == set(shared.model.state_dict())
    assert restore_private(made.model, tmp_path / "after")
    assert torch.equal(logits_of(made.model, made.tokenizer), parted_logits)
    fit_private(made.model, shared.model.state_dict())
    assert made.model.private is None
    assert not restore_private(shared.model, tmp_path / "after")  # a model that never parts is left to others


def test_gather_by_hand():
    logits = torch.arange(12.0).reshape(6, 2)  # three rows a task, two tasks with a column each
    assert gather(logits, [(0, 1), (1, 2)]).tolist() == [[0, 7], [2, 9], [4, 11]]


def test_a_single_task_has_nothing_to_part(tiny_backbone):
    chosen = ModelSettings(backbone=str(tiny_backbone("bert")), max_length=32, private_layers=1)
    backbone = load_backbone(chosen.backbone)
    score = kind("regression")
    task = score.fit("a", score.Settings(type="regression"), pa.chunked_array([["0", "1"]]))
    assert build(chosen, backbone, {"a": task}).private_plan is None


def test_too_many_private_layers(tiny_backbone):
    with pytest.raises(RecipeError, match=r"model\.private_layers: 3, but the backbone has 2 blocks"):
        make(tiny_backbone("bert"), private_layers=3)


def test_a_backbone_whose_blocks_do_not_come_one_after_another(tiny_backbone):
    made = make(tiny_backbone("bert"))
    encoder = made.model.bert.encoder
    stock = encoder.forward
    # As ALBERT does: the same block again and again.
    encoder.forward = lambda hidden, **kwargs: stock(stock(hidden, **kwargs).last_hidden_state, **kwargs)
    before = logits_of(made.model, made.tokenizer)
    with pytest.raises(
        RecipeError, match=r"model\.private_layers: the blocks of BertForSeq.* cannot be parted by task"
    ):
        plan_private(made.model, 1, made.tasks)
    assert made.model.private is None
    assert torch.equal(logits_of(made.model, made.tokenizer), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"private_when": "conflict"}, "conflict needs model.private_layers"),
        ({"private_when": "conflict", "private_layers": 1, "adapter": {}}, "set model.adapter to null, or use always"),
        ({"private_layers": 1, "adapter": {"quantization": "4bit"}}, "blocks in 4 bits cannot be copied"),
        ({"private_layers": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings(**settings)


def test_more_tasks_than_blocks_do_not_hide_the_blocks(tiny_backbone):
    # Five copies make a longer list than two blocks do.
    made = make(tiny_backbone("bert"))
    split(made.model, Private(1, ("bert.encoder.layer.1",), ((0, 1),) * 5))
    assert block_list(made.model)[0] == "bert.encoder.layer"


def test_what_a_private_layer_costs(tiny_backbone):
    # Two blocks alike: with one private block and two tasks, three blocks run where there were two.
    texts = torch.randint(5, 40, (4, 16))
    inputs = {"input_ids": texts, "attention_mask": torch.ones_like(texts)}
    found = {}
    for layers in (0, 1, 2):
        made = make(tiny_backbone("distilbert"), private_layers=layers, pooling="mean")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            made.model.eval()(**inputs)
        found[layers] = counter.get_total_flops() - (2 if layers else 1) * 2 * 4 * 32 * len(OUTPUTS)  # the heads
        assert output_layer(made.model).in_features == 32
    assert found[1] == found[0] * 3 / 2
    assert found[2] == found[0] * 2


def test_columns_are_those_of_slices(tiny_backbone):
    made = make(tiny_backbone("bert"), private_layers=1)
    assert {name: (where.start, where.stop) for name, where in slices(made.tasks).items()} == dict(
        zip(TASKS, made.model.private.outputs, strict=True)
    )
