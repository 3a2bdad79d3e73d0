"""Things planted in a model's folder. What would run creates a file, so that a test sees it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plant = Callable[[Path, Path], None]


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def bomb(name: str, *, alone: bool = False) -> Plant:
    """A pickle under this name; alone: in place of the weights."""

    def plant(folder: Path, marker: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
        if alone:
            for path in folder.glob("*.safetensors"):
                path.unlink()

    return plant


def code(name: str) -> Plant:
    """A script that makes a file when it is imported."""

    def plant(folder: Path, marker: Path) -> None:
        (folder / name).write_text(f"import os\n\nos.mkdir({str(marker)!r})\n")

    return plant


def change(name: str, **values: Any) -> Plant:
    """Settings put into a JSON file."""

    def plant(folder: Path, marker: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(data | values))

    return plant


def together(*plants: Plant) -> Plant:
    def plant(folder: Path, marker: Path) -> None:
        for one in plants:
            one(folder, marker)

    return plant


def link(name: str, target: str) -> Plant:
    """A link in the folder; it takes the place of what is called so. The target's own file lies outside."""

    def plant(folder: Path, marker: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir(exist_ok=True)
        path = folder / name
        if path.exists():
            path.rename(outside / name)
        else:
            (outside / name).write_text("{}")
        path.symlink_to(target.format(outside=outside, name=name))

    return plant


def pipe(folder: Path, marker: Path) -> None:
    """A configuration that is a pipe: whoever opens it waits for ever."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    os.mkfifo(folder / "generation_config.json")


def pickled_safetensors(folder: Path, marker: Path) -> None:
    """Safetensors by name only."""
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(marker)))


AUTO = {
    "AutoConfig": "configuration_evil.C",
    "AutoModel": "modeling_evil.M",
    "AutoModelForSequenceClassification": "modeling_evil.M",
}
EVIL_CODE = together(code("configuration_evil.py"), code("modeling_evil.py"))

#: Name -> what is planted, what the error says. They hold for a run's model and for a backbone alike.
PLANTED: dict[str, tuple[Plant, str]] = {
    "weights as a pickle beside": (bomb("pytorch_model.bin"), r"pytorch_model\.bin is a pickle.*delete it"),
    "weights as a pickle alone": (
        bomb("pytorch_model.bin", alone=True),
        r"pytorch_model\.bin holds the weights as a pickle.*safetensors",
    ),
    "training_args.bin": (bomb("training_args.bin"), r"training_args\.bin is a pickle"),
    **{
        f"a {end} file": (bomb(f"extra{end}"), rf"extra\{end} is a pickle")
        for end in (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".npy", ".ckpt")
    },
    "a pickle in capitals": (bomb("EXTRA.PKL"), r"EXTRA\.PKL is a pickle"),
    "keras": (bomb("tf_model.h5"), r"tf_model\.h5 is another framework's file"),
    "flax": (bomb("flax_model.msgpack"), r"flax_model\.msgpack is another framework's file"),
    "safetensors that are a pickle": (pickled_safetensors, r"weights.* cannot be loaded"),
    "a script": (code("modeling_evil.py"), r"modeling_evil\.py is code, and none of it has run"),
    "a package": (code("__init__.py"), r"__init__\.py is code"),
    "a compiled module": (bomb("evil.so"), r"evil\.so is code"),
    "auto_map with its code": (together(EVIL_CODE, change("config.json", auto_map=AUTO)), r"none of it has run"),
    "auto_map of an unknown type": (
        together(EVIL_CODE, change("config.json", auto_map=AUTO, model_type="evil")),
        r"none of it has run",
    ),
    "auto_map alone": (
        change("config.json", auto_map=AUTO),
        r"config\.json names code to be run \(auto_map\), and none of it has run",
    ),
    "auto_map of another repository": (
        change("config.json", auto_map={"AutoModel": "evil/repo--modeling.M"}, model_type="evil"),
        r"config\.json names code to be run",
    ),
    "auto_map below": (change("config.json", text_config={"auto_map": AUTO}), r"config\.json names code to be run"),
    "auto_map of the tokenizer": (
        change("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/repo--t.T", None]}),
        r"tokenizer_config\.json names code to be run",
    ),
    "a pipeline's code": (change("config.json", custom_pipelines={"x": {"impl": "evil.P"}}), r"custom_pipelines"),
    "a kernel of the hub": (change("config.json", attn_implementation="evil/kernel"), r"compiled code of a hub"),
    "weights elsewhere": (
        change("config.json", transformers_weights="../x.safetensors"),
        r"transformers_weights names a file outside",
    ),
    "a link out": (link("notes.json", "{outside}/{name}"), r"notes\.json is a link that leads out"),
    "a relative link out": (link("notes.json", "../outside/{name}"), r"notes\.json is a link that leads out"),
    "weights by a link": (
        link("model.safetensors", "{outside}/{name}"),
        r"model\.safetensors is a link that leads out",
    ),
    "configuration by a link": (link("config.json", "{outside}/{name}"), r"config\.json is a link that leads out"),
    "tokenizer by a link": (link("tokenizer.json", "{outside}/{name}"), r"tokenizer\.json is a link that leads out"),
    "a link to a folder": (link("more", "{outside}"), r"more is a link that leads out"),
    "a link to the root": (link("root", "/"), r"root is a link that leads out"),
    "a link to itself": (link("circle.json", "circle.json"), r"circle\.json is a link"),
    "a link to nothing": (link("gone.json", "absent.json"), r"gone\.json is a link to nothing"),
    "a hub's blob outside a hub's cache": (
        link("notes.json", "../../blobs/0123"),
        r"notes\.json is a link that leads out",
    ),
    "a pipe": (pipe, r"generation_config\.json is no file"),
    "an index that leads up": (
        change("model.safetensors.index.json", weight_map={"a": "../../x.safetensors"}),
        r"index\.json names a file outside",
    ),
    "an index that leads away": (
        change("model.safetensors.index.json", weight_map={"a": "/etc/x.safetensors"}),
        r"index\.json names a file outside",
    ),
    "an index with backslashes": (
        change("model.safetensors.index.json", weight_map={"a": "..\\x.safetensors"}),
        r"index\.json names a file outside",
    ),
    "a vocabulary elsewhere": (
        change("tokenizer_config.json", vocab_file="/etc/passwd"),
        r"vocab_file names a file outside",
    ),
    "a tokenizer elsewhere": (
        change("tokenizer_config.json", fast_tokenizer_files=["../../tokenizer.4.0.json"]),
        r"fast_tokenizer_files names a file outside",
    ),
    "a chat template elsewhere": (
        change("tokenizer_config.json", chat_template=[{"name": "../../../evil", "template": "x"}]),
        r"a chat template is called",
    ),
}

#: The same for an adapter that was saved alone.
IN_ADAPTERS: dict[str, tuple[Plant, str]] = {
    "weights as a pickle": (bomb("adapter_model.bin", alone=True), r"adapter_model\.bin is a pickle"),
    "a module to import": (
        change("adapter_config.json", megatron_config={"a": 1}, megatron_core="modeling_evil"),
        r"megatron_config makes peft",
    ),
    "a pickle to open": (
        change("adapter_config.json", corda_config={"cache_file": "x.pt"}),
        r"corda_config makes peft",
    ),
    "another kind": (change("adapter_config.json", peft_type="PROMPT_TUNING"), r"peft_type is 'PROMPT_TUNING'"),
    "a backbone that leads up": (change("multitask.json", backbone="../../evil"), r"there is no folder"),
    "a backbone that is no name": (change("multitask.json", backbone="evil/../x"), r"no folder|neither a folder nor"),
    "a revision that leads up": (
        change("multitask.json", backbone="org/name", revision="../../../x"),
        r"revision.* is none",
    ),
}
