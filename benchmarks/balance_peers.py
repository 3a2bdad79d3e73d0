"""A balanced step beside TorchJD's and LibMTL's: same model, batch and method, float32, dropout off, a head each task.

    python benchmarks/balance_peers.py [--models minilm llama] [--device cpu|cuda] [--libmtl-python PATH]

Ours at `representation` and `last_layer` (cheap: the weights come from a part of the gradient) and at `all` (exact),
against TorchJD's exact ways:

    autojac    `mtl_backward` and `jac_to_grad`, with `parallel_chunk_size` None (vmap) and 1, with and without
               `optimize_gramian_computation`; the heads get each loss's plain gradient there, ours the weighted one
    autogram   `Engine(batch_dim=None)`, then one weighted backward; with 0, where the model allows it, the Gramian is that
               of all tasks' examples, whose mean over examples is the tasks'

Heads are layers of their own, since `mtl_backward` frees what packed heads share after the first task. Every setting is
run with the first method, and the fastest of them stands for TorchJD with the others. FLOPs, seconds and peak memory are
taken as in `balance_cost.py`. `difference` is max |ours - theirs| / max |ours| over `.grad` of all shared parameters.

With `--libmtl-python`, an interpreter that has LibMTL beside this project's packages, the backward of its weighting
classes EW, UW and MGDA runs in a process of its own beside ours, on the same model. Its package imports a torchvision
module that no longer exists, for a download that is not needed; an empty one stands in. What its trainer would lay
around the classes (which parameters are shared, how their gradients are zeroed) is here in `LibMTLArm`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import write
from balance_cost import Arm, Bench, alternate, compared, llama, minilm, peak_bytes, seeded, wait
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from equipoise.balance import available, create
from equipoise.models import output_layer, representation
from equipoise.training._parameters import plain_model, shared_parameters

THEIRS = {"mgda": "MGDA", "upgrad": "UPGrad", "imtl_g": "IMTLG", "aligned_mtl": "AlignedMTL"}
SETTINGS = {
    "autojac, vmap": (None, False),
    "autojac, vmap, optimised gramian": (None, True),
    "autojac, chunk 1": (1, False),
    "autojac, chunk 1, optimised gramian": (1, True),
}


def whole_step(bench: Bench, backward: Callable[[], None]) -> float:
    wait(bench.device)
    started = time.perf_counter()
    backward()
    bench.optimizer.step()
    bench.optimizer.zero_grad()
    wait(bench.device)
    return time.perf_counter() - started


class TorchJDArm:
    """One documented way of TorchJD to make a step."""

    def __init__(self, bench: Bench, method: str, setting: str) -> None:
        import torchjd.aggregation as aggregation

        self.bench, self.setting = bench, setting
        self.shared = shared_parameters(bench.model, "all")
        self.aggregator = getattr(aggregation, THEIRS[method])()
        self.weighting = getattr(aggregation, f"{THEIRS[method]}Weighting")()
        if setting.startswith("autogram"):
            from torchjd.autogram import Engine

            plain = plain_model(bench.model)
            backbone = getattr(plain, plain.base_model_prefix)
            self.engine = Engine(backbone, batch_dim=0 if setting.endswith("0") else None)

    def backward(self) -> None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        found = list(self.bench.losses().values())
        losses = [loss.mean() for loss in found]
        hidden = representation(self.bench.model)
        if self.setting.startswith("autogram"):
            stacked = torch.stack(losses)
            if self.setting.endswith("0"):
                examples = self.engine.compute_gramian(torch.stack(found, dim=1))  # [rows * tasks, rows * tasks]
                gramian = examples.reshape(len(found[0]), len(found), -1, len(found)).mean((0, 2))
            else:
                gramian = self.engine.compute_gramian(stacked)
            weights = self.weighting(gramian)
            stacked.backward(weights)
            return
        chunk, optimised = SETTINGS[self.setting]
        mtl_backward(losses, hidden, parallel_chunk_size=chunk, shared_params=self.shared)
        jac_to_grad(self.shared, self.aggregator, optimize_gramian_computation=optimised)

    def step(self) -> float:
        return whole_step(self.bench, self.backward)


class LibMTLArm:
    """A weighting class of LibMTL with as much of an architecture around it as it asks for."""

    def __init__(self, bench: Bench, name: str, *, rep_grad: bool = False) -> None:
        for missing in ("torchvision", "torchvision.models", "torchvision.models.utils"):
            sys.modules.setdefault(missing, types.ModuleType(missing))
        sys.modules["torchvision.models.utils"].load_state_dict_from_url = None  # type: ignore[attr-defined]
        import LibMTL.weighting as weighting

        self.bench, self.rep_grad = bench, rep_grad
        self.shared = shared_parameters(bench.model, "all")
        made: Any = getattr(weighting, name)()
        made.task_name, made.task_num, made.device = list(bench.tasks), len(bench.tasks), bench.device
        made.rep_grad = rep_grad
        made.get_share_params = lambda: self.shared
        made.zero_grad_share_params = self.zero
        made.init_param()
        self.weighting = made

    def zero(self) -> None:
        # To zero, not None as PyTorch does by now: the class writes into `.grad` afterwards.
        for parameter in self.shared:
            if parameter.grad is not None:
                parameter.grad.zero_()

    def backward(self) -> None:
        losses = self.bench.losses()
        if self.rep_grad:
            hidden = representation(self.bench.model)
            head = output_layer(plain_model(self.bench.model))
            self.weighting.rep = hidden
            self.weighting.rep_tasks = {name: hidden.detach().clone().requires_grad_() for name in losses}
            losses = {
                n: t.loss(
                    head(self.weighting.rep_tasks[n])[:, self.bench.columns[n]].float(),
                    self.bench.targets[n],
                )
                for n, t in self.bench.tasks.items()
            }
        self.weighting.backward(torch.stack([loss.mean() for loss in losses.values()]), mgda_gn="none")

    def step(self) -> float:
        return whole_step(self.bench, self.backward)


def make_bench(model: str, count: int, options: argparse.Namespace) -> Bench:
    device = torch.device(options.device)
    with seeded(0):
        if model == "minilm":
            bench = minilm(count, options.rows, options.length, device)
        else:
            bench = llama(count, options.rows, options.length, device, pooling="last")
        # peft starts with B = 0, where A has no gradient at all.
        for name, parameter in bench.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    bench.autocast, bench.split_heads = False, True
    for module in bench.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return bench


def gradients(arm: Any) -> list[Tensor | None]:
    """`.grad` of the shared parameters after one backward."""
    arm.bench.optimizer.zero_grad()
    arm.backward()
    found = [None if p.grad is None else p.grad.clone() for p in shared_parameters(arm.bench.model, "all")]
    arm.bench.optimizer.zero_grad()
    return found


def difference(ours: list[Tensor | None], theirs: list[Tensor | None]) -> float:
    """max |ours - theirs| / max |ours|; a parameter without a gradient counts as zero."""
    top = max(float(a.abs().max()) for a in ours if a is not None)
    apart = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a is not None or b is not None:
            gap = b if a is None else a if b is None else a - b
            assert gap is not None
            apart = max(apart, float(gap.abs().max()))
    return apart / top


def count_flops(arm: Any) -> int:
    arm.bench.attention("eager")
    with FlopCounterMode(display=False) as counter:
        arm.backward()
    arm.bench.optimizer.zero_grad()
    arm.bench.attention("sdpa")
    return int(counter.get_total_flops())


def examine(arms: dict[str, Any], rounds: int, base: str, reference: str, exact: set[str]) -> dict[str, Any]:
    """FLOPs, difference, peak memory and seconds of each arm; one that fails tells why."""
    found: dict[str, Any] = {name: {} for name in arms}
    whole: list[Tensor | None] = gradients(arms[reference])

    def compare(name: str, arm: Any) -> None:
        if name in exact:
            found[name]["difference"] = difference(whole, gradients(arm))

    def count(name: str, arm: Any) -> None:
        found[name]["flops"] = count_flops(arm)
        arm.step()
        found[name]["peak_mib"] = peak_bytes(arm.bench, arm.step) / 2**20

    for look in (compare, count):  # a step changes the weights, so everyone's gradients come first
        for name, arm in list(arms.items()):
            try:
                look(name, arm)
            except Exception as error:  # what a peer cannot do is a result
                found[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
                arm.bench.optimizer.zero_grad()
                arm.bench.attention("sdpa")
                del arms[name]
    taken = alternate({name: arm.step for name, arm in arms.items()}, rounds) if rounds else {}
    for name, seconds in taken.items():
        found[name] |= compared(seconds, taken[base])
    for values in found.values():
        if "flops" in values:
            values["flops_ratio"] = values["flops"] / found[base]["flops"]
            values["peak_ratio"] = values["peak_mib"] / found[base]["peak_mib"]
    return found


def show(title: str, found: dict[str, Any]) -> None:
    print(f"\n{title}; relative to equal weights")
    print(f"{'':38} {'FLOPs':7} {'seconds':8} {'(pairs)':15} {'peak memory':17} difference")
    for name, values in found.items():
        if "failed" in values:
            print(f"{name:38} {values['failed']}")
            continue
        seconds = pairs = ""
        if "ratio" in values:
            low, high = values["pairs_iqr"]
            seconds, pairs = f"{values['ratio']:.3f}", f"({low:.3f}-{high:.3f})"
        memory = f"{values['peak_ratio']:.3f} ({values['peak_mib']:.0f} MiB)"
        apart = f"{values['difference']:.1e}" if "difference" in values else ""
        print(
            f"{name:38} {values['flops_ratio']:<7.3f} {seconds:8} {pairs:15} {memory:17} {apart}".rstrip(), flush=True
        )


def fastest(found: dict[str, Any], settings: list[str]) -> str:
    able = [name for name in settings if "failed" not in found[name]]
    if not able:
        raise SystemExit(f"TorchJD ran in no setting: {found}")
    return min(able, key=lambda name: found[name].get("seconds", found[name]["flops"]))


def against_torchjd(model: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """All settings for the first method; for the others the fastest one, since they differ in a small solve alone."""
    results: dict[str, Any] = {}
    settings = [*SETTINGS, "autogram, batch_dim=None", "autogram, batch_dim=0"]
    scopes = ["representation", "last_layer", "all"]
    for method in options.methods:
        if method not in available():
            print(f"\n{model}, K = {count}, {method}: not registered, left out")
            continue
        bench = make_bench(model, count, options)
        arms: dict[str, Any] = {"equal": Arm(bench, create("equal", list(bench.tasks)), "all")}
        arms |= {f"ours, {scope}": bench.arm(method, scope) for scope in scopes}
        for setting in settings:
            # An engine leaves hooks in the model.
            own = make_bench(model, count, options) if setting.startswith("autogram") else bench
            arms[setting] = TorchJDArm(own, method, setting)
        exact = {"ours, all", *settings}
        found = examine(arms, options.rounds, "equal", "ours, all", exact)
        best = fastest(found, settings)
        ours = found["ours, all"]
        key = "seconds" if options.rounds else "flops"
        results[method] = {
            "arms": found,
            "best_of_torchjd": best,
            f"ours_over_best_{key}": ours[key] / found[best][key],
        }
        show(f"{model}, K = {count}, {method}", found)
        print(f"ours exact / best of TorchJD ({best}): {ours[key] / found[best][key]:.3f} in {key}, "
              f"{ours['flops'] / found[best]['flops']:.3f} in FLOPs, "
              f"{ours['peak_mib'] / found[best]['peak_mib']:.3f} in peak memory")  # fmt: skip
        settings, scopes = [best], ["all"]
    return results


def against_libmtl(model: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    bench = make_bench(model, count, options)
    arms: dict[str, Any] = {"ours, equal": Arm(bench, create("equal", list(bench.tasks)), "all")}
    arms["LibMTL EW"] = LibMTLArm(bench, "EW")
    arms["ours, uncertainty"] = Arm(bench, create("uncertainty", list(bench.tasks)), "all")
    arms["LibMTL UW"] = LibMTLArm(bench, "UW")
    arms["ours, mgda, all"] = bench.arm("mgda", "all")
    arms["LibMTL MGDA"] = LibMTLArm(bench, "MGDA")
    arms["ours, mgda, representation"] = bench.arm("mgda", "representation")
    arms["LibMTL MGDA, rep_grad"] = LibMTLArm(bench, "MGDA", rep_grad=True)
    return examine(arms, options.rounds, "ours, equal", "ours, mgda, all", {"ours, mgda, all", "LibMTL MGDA"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--models", nargs="+", default=["minilm"], choices=["minilm", "llama"])
    parser.add_argument("--methods", nargs="+", default=list(THEIRS), choices=list(THEIRS))
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5, help="0 takes no times")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--libmtl-python", help="an interpreter with LibMTL")
    parser.add_argument("--skip-torchjd", action="store_true")
    parser.add_argument("--name", default="balance_peers", help="of the JSON file")
    parser.add_argument("--libmtl-child", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    pairs = [(model, count) for model in options.models for count in options.tasks]
    if options.libmtl_child:
        told = {f"{model} {count}": against_libmtl(model, count, options) for model, count in pairs}
        Path(options.libmtl_child).write_text(json.dumps(told))
        return
    figures: dict[str, Any] = {"device": options.device, "batch": [options.rows, options.length]}
    figures |= {"rounds": options.rounds, "torchjd": {}, "libmtl": {}}
    if not options.skip_torchjd:
        for model, count in pairs:
            figures["torchjd"][f"{model} {count}"] = against_torchjd(model, count, options)
    if options.libmtl_python:
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "libmtl.json"
            numbers = {"tasks": options.tasks, "models": options.models}
            lists = [word for key, values in numbers.items() for word in (f"--{key}", *map(str, values))]
            single = {"rounds": options.rounds, "rows": options.rows, "length": options.length}
            single |= {"device": options.device, "libmtl-child": told}
            words = [word for key, value in single.items() for word in (f"--{key}", str(value))]
            subprocess.run([options.libmtl_python, __file__, *lists, *words], check=True)
            figures["libmtl"] = json.loads(told.read_text())
        for name, found in figures["libmtl"].items():
            show(f"LibMTL, {name}", found)
    write(options.name, figures)


if __name__ == "__main__":
    main()
