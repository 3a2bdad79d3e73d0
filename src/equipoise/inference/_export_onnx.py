"""A trained run as an ONNX folder: the graph of all tasks, the tokenizer, and a report of how near it is to the run."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.errors import EquipoiseError, RunError
from equipoise.inference._export import vacant
from equipoise.inference._onnx import ONNX_FILE, PARITY_FILE, onnxruntime
from equipoise.inference._parity import TOLERANCE, Parity, judge_parity, labelled_rows
from equipoise.models import LoadedModel, load_model, save_tokenizer
from equipoise.runs import Run, replace_folder, write_json

__all__ = ["export_onnx"]

#: A graph with its weights in one file has to stay below protobuf's 2 GiB.
ONE_FILE_BYTES = 1_500_000_000


def export_onnx(
    run: Run | str | Path,
    output: str | Path,
    *,
    int8: bool = False,
    data: str | Path | None = None,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Writes a run as an ONNX folder that `equipoise.load` reads, whole or not at all.

    Dimensions of batch and length are dynamic. With `int8` the weights of the backbone's linear layers and embeddings are
    eight-bit integers and activations are quantised as they come (dynamic quantisation, one scale an output channel).

    Args:
        run: a finished run.
        output: the folder to write: `model.onnx`, the tokenizer, `config.json`, `multitask.json`, `parity.json`.
        int8: quantise.
        data: a labelled table to compare both models on; None takes the run's own test rows (validation without one).
        tolerance: by how much, relatively, a task's main metric may be worse than the run's. Beyond it nothing is written.

    Returns:
        What was compared, and how near both are.

    Raises:
        RunError: no such run, the output exists, a model that has no such graph, or one that is not near enough.
        EquipoiseError: onnx, onnxscript or onnxruntime is not installed or too old.
    """
    runtime = onnxruntime()
    _need("onnx")
    _need("onnxscript")
    source = run if isinstance(run, Run) else Run.open(run)
    final = vacant(output)
    loaded = _plain(load_model(source.model_folder))
    rows = labelled_rows(source, loaded.sidecar, data)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_graph(loaded, temporary / ONNX_FILE)
        if int8:
            _quantise(temporary / ONNX_FILE)
        loaded.model.config.save_pretrained(temporary)
        save_tokenizer(loaded.tokenizer, temporary, loaded.sidecar.max_length)
        loaded.sidecar.write(temporary)
        precision = "int8" if int8 else "fp32"
        # The engine asks for the file; a verdict stands in it only after the comparison.
        write_json(temporary / PARITY_FILE, {"precision": precision})
        parity = judge_parity(loaded, temporary, rows, tolerance)
        parity.check(output)
        write_json(
            temporary / PARITY_FILE,
            {"precision": precision, "onnxruntime": runtime.__version__, **parity.as_dict()},
        )
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return parity


def _need(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise EquipoiseError(f'exporting to ONNX needs {package}: pip install "equipoise[onnx]"')


def _plain(loaded: LoadedModel) -> LoadedModel:
    """With an adapter that is still beside the weights put into them."""
    if not hasattr(loaded.model, "peft_config"):
        return loaded
    return LoadedModel(loaded.model.merge_and_unload().eval(), loaded.tokenizer, loaded.sidecar)


class _Logits(nn.Module):
    """A model as a function from named tensors to the logits alone."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def _write_graph(loaded: LoadedModel, path: Path) -> None:
    example = loaded.tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in example]
    model, tensors = _Logits(loaded.model, names), tuple(example[name] for name in names)
    with _quiet(), torch.no_grad():
        program = _program(model, tensors, optimize=True) or _program(model, tensors, optimize=False)
        if program is None:
            raise RunError(
                f"this {type(loaded.model).__name__} cannot be written as an ONNX graph by torch {torch.__version__}"
            )
        size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
        program.save(str(path), external_data=size > ONE_FILE_BYTES)


def _program(model: _Logits, tensors: tuple[Tensor, ...], *, optimize: bool) -> torch.onnx.ONNXProgram | None:
    """The graph, or None where the exporter cannot make it.

    The exporter's own optimiser fails on some sound graphs, such as those of private blocks; ONNX Runtime optimises again.
    """
    from onnx_ir.passes import PassError

    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        return torch.onnx.export(
            model,
            tensors,
            dynamo=True,
            dynamic_shapes={"tensors": tuple(dynamic for _ in tensors)},
            input_names=model.names,
            output_names=["logits"],
            optimize=optimize,
            verbose=False,
        )
    except (torch.onnx.OnnxExporterError, PassError):
        return None
    except ModuleNotFoundError as error:  # torch asks for a part of it by torch's own version
        if not (error.name or "").startswith("onnxscript."):
            raise
        raise EquipoiseError(
            f"onnxscript {version('onnxscript')} is too old for torch {torch.__version__}: pip install -U onnxscript"
        ) from error


def _quantise(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name(f"fp32.{path.name}")
    path.replace(plain)
    # The exporter's notes of shapes in between: before ONNX Runtime 1.32 the quantiser stumbled over them.
    graph = onnx.load(str(plain), load_external_data=False)
    del graph.graph.value_info[:]
    onnx.save(graph, str(plain))
    data = path.with_name(f"{path.name}.data")
    try:
        with _quiet():
            quantize_dynamic(
                str(plain),
                str(path),
                weight_type=QuantType.QInt8,
                per_channel=True,
                use_external_data_format=data.exists(),
                extra_options={"MatMulConstBOnly": True},
            )
    finally:
        plain.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporter and quantiser say of themselves; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
