"""Which words pushed a prediction where: integrated gradients from the text with every word hidden to the text itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from equipoise.errors import DataError, EquipoiseError
from equipoise.inference._explain_targets import class_of, reader
from equipoise.inference._predictor import Model
from equipoise.inference._words import spread, words_of
from equipoise.models import LoadedModel, autocast_free, slices
from equipoise.tasks._base import did_you_mean

__all__ = ["explain"]

#: A batch that is walked back through has so many times fewer tokens than one of a prediction.
GRADIENT_SHARE = 4


def explain(
    model: Model, text: str | Sequence[str], task: str, *, target: str | None = None, steps: int = 32
) -> dict[str, Any]:
    """Shares a prediction out among the words of its text.

        contribution_i = sum_d (x_id - b_id) integral_0^1 dF/dx_id (b + a (x - b)) da

    x `[length, d]` are the embeddings of the text's tokens; b are those of the same text with every token hidden (the
    mask token where the tokenizer has one, else the padding token) and special tokens kept; F is the task's score in the
    user's units, or the logit log p / (1 - p) of a class's probability p. So the contributions sum to F(x) - F(b).

    References:
        Axiomatic Attribution for Deep Networks (Sundararajan, Taly, Yan, 2017)
        https://arxiv.org/abs/1703.01365

    Args:
        model: of `equipoise.load`.
        text: a text, or the two of a pair where the model reads pairs.
        task: the name of a task.
        target: a class of the task; None is the predicted one. A score has none.
        steps: points of the integral (Gauss-Legendre): twice as many cost twice the time.

    Returns:
        `task`, `target` (None for a score), `unit` (`score` or `log-odds`); `value`, F of the text (a score before it is
        clipped to its range); `baseline`, F of the hidden text; `words`: from the front `text`, `start`, `end` (in
        characters, code points), `field` (the text column) and `contribution`, None where the model did not read the word
        because the text is too long; `rest`, the contribution of tokens that stand on no word; `completeness_error`, by
        how much contributions and rest miss value - baseline.

    Raises:
        DataError: an unknown task or class, an empty text, a text where a pair is expected.
        RunError: the model has no weights to walk back through (an ONNX export).
        EquipoiseError: captum is not installed.

    Example:
        >>> import equipoise as eq
        >>> from equipoise.inference import explain
        >>> model = eq.load("runs/reviews")  # doctest: +SKIP
        >>> explain(model, "profit rose", "polarity")["words"][0]["contribution"]  # doctest: +SKIP
        0.41
    """
    if task not in model.tasks:
        raise DataError(f"no task '{task}'.{did_you_mean(task, list(model.tasks))} Tasks: {', '.join(model.tasks)}")
    _check_steps(steps)
    fields = _fields(model, text)
    loaded = model.exact()
    encoded = loaded.tokenizer(*fields, truncation=True, max_length=loaded.sidecar.max_length, verbose=False)
    encoding = encoded.encodings[0]
    if not encoding.ids:
        raise DataError("text: the model's tokenizer makes no token of it, so there is nothing to explain")
    network = _Network(loaded, {name: encoded[name] for name in encoded}, model.device)
    hidden = torch.tensor([field is not None for field in encoding.sequence_ids], device=model.device)
    given, blank = network.embeddings(hidden, _hiding(loaded.tokenizer))

    with torch.no_grad():
        outputs = network.outputs(given, task).float().cpu().numpy()
    chosen = class_of(model.tasks[task], outputs, target)
    read, unit = reader(model.tasks[task], chosen)

    def score(embeddings: Tensor) -> Tensor:
        return read(network.outputs(embeddings, task))

    # A batch of the path's points is one of texts of this length, within a part of the model's budget of tokens: what a
    # gradient walks back through is kept in memory, layer by layer, which a prediction is not.
    tokens = model.max_tokens // GRADIENT_SHARE
    attributions = _integrate(score, given, blank, steps, max(1, tokens // len(hidden)))
    with torch.no_grad():  # last, as the model remembers its latest pass, and with it the whole graph behind it
        value, baseline = (float(score(one)) for one in (given, blank))
    words, rest = _words(model.text, fields, encoding, attributions)
    total = sum(word["contribution"] or 0.0 for word in words) + rest
    return {
        "task": task,
        "target": chosen,
        "unit": unit,
        "value": value,
        "baseline": baseline,
        "words": words,
        "rest": rest,
        "completeness_error": abs(value - baseline - total),
    }


def _check_steps(steps: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise DataError(f"steps: expected a whole number from 1 on, found {steps!r}")


def _fields(model: Model, text: Any) -> list[str]:
    wanted = len(model.text)
    if wanted == 1 and not isinstance(text, str) and isinstance(text, Sequence) and len(text) == 1:
        text = text[0]
    if wanted == 1 and not isinstance(text, str):
        raise DataError(f"text: expected one text, found {text!r}")
    if wanted > 1 and (isinstance(text, str) or not isinstance(text, Sequence) or len(text) != wanted):
        raise DataError(f"text: the model was trained on pairs ({', '.join(model.text)}); found {text!r}")
    fields = [text] if wanted == 1 else list(text)
    for name, field in zip(model.text, fields, strict=True):
        if not isinstance(field, str) or not field.strip():
            raise DataError(f"text: {name} " + ("is empty" if isinstance(field, str) else f"is no text: {field!r}"))
    return fields


def _hiding(tokenizer: Any) -> int:
    """The token that stands for a hidden one."""
    return int(tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id)


class _Network:
    """A model as a function of the embeddings of one text.

    The embedding layer's output is exchanged in a hook, so that every architecture finds ids, masks and positions as
    ever; not all take embeddings as an input, and those that do guess at what the ids would have told them.
    """

    def __init__(self, loaded: LoadedModel, inputs: dict[str, list[int]], device: torch.device) -> None:
        self.network, self.columns = loaded.model, slices(loaded.sidecar.tasks)
        self.inputs = {name: torch.tensor([values], device=device) for name, values in inputs.items()}
        self.layer = self.network.get_input_embeddings()

    @torch.no_grad()
    def embeddings(self, hidden: Tensor, token: int) -> tuple[Tensor, Tensor]:
        """The embeddings `[1, length, d]` of the text, and with every token hidden that is so marked in `[length]`."""
        ids = self.inputs["input_ids"]
        given = self.layer(ids)
        blank = self.layer(torch.full_like(ids, token))
        return given, torch.where(hidden[None, :, None], blank, given)

    def outputs(self, embeddings: Tensor, task: str) -> Tensor:
        """The task's outputs `[n, size]` for embeddings `[n, length, d]`, in float32 or better."""
        thread = threading.get_ident()

        def exchange(*_: object) -> Tensor | None:
            # A service may predict with the same model in another thread meanwhile.
            return embeddings if threading.get_ident() == thread else None

        inputs = {name: values.expand(len(embeddings), -1) for name, values in self.inputs.items()}
        handle = self.layer.register_forward_hook(exchange)
        try:
            logits: Tensor = self.network(**inputs).logits
        finally:
            handle.remove()
        return autocast_free(logits)[:, self.columns[task]]


def _integrate(score: Callable[[Tensor], Tensor], given: Tensor, blank: Tensor, steps: int, batch: int) -> list[float]:
    """Integrated gradients, summed over the dimensions: one number a token."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise EquipoiseError(
            'explaining a prediction needs captum. Install it with: pip install "equipoise[explain]"'
        ) from None
    found = IntegratedGradients(score).attribute(given, blank, n_steps=steps, internal_batch_size=batch)
    return [float(value) for value in found[0].double().sum(dim=-1)]


def _words(
    names: Sequence[str], fields: Sequence[str], encoding: Any, attributions: Sequence[float]
) -> tuple[list[dict[str, Any]], float]:
    """The words of all fields with their contributions, and the contribution of what stands on none."""
    cut = bool(encoding.overflowing)
    words: list[dict[str, Any]] = []
    # What the model adds of its own is kept in the baseline, and so has contributed nothing: zero up to the last digit.
    rest = sum(value for owner, value in zip(encoding.sequence_ids, attributions, strict=True) if owner is None)
    for number, (name, text) in enumerate(zip(names, fields, strict=True)):
        mine = [at for at, owner in enumerate(encoding.sequence_ids) if owner == number]
        spans = [encoding.offsets[at] for at in mine]
        places = words_of(text)
        sums, left = spread(places, spans, [attributions[at] for at in mine])
        rest += left
        low, high = min((start for start, _ in spans), default=0), max((end for _, end in spans), default=0)
        for (start, end), value in zip(places, sums, strict=True):
            unread = cut and (end <= low or start >= high)
            words.append(
                {"text": text[start:end], "start": start, "end": end, "field": name,
                 "contribution": None if unread else value}
            )  # fmt: skip
    return words, rest
