"""What balancing costs: a step with a balancer against the same step with equal weights.

    python benchmarks/balance_cost.py [--device cpu|cuda] [--models minilm llama] [--only flops|time|memory]
    python benchmarks/balance_cost.py --device cuda --models llama --real-size

For two models, K tasks on every row, a method from norms (dao) and one from the Gramian (mgda), measured at:

    representation   what the heads read
    last_layer       the trained parameters of the backbone's last block
    all              every shared parameter that trains, exactly; of the Llama: the adapter's
    every_10         the same, in one of ten steps: the mean over ten steps
    different        each task has a forward pass of its own on 1 / K of the rows, exact at all shared parameters;
                     beside equal weights on the same forward passes

FLOPs are PyTorch's count of forward, balance and backward: matrix products and attention, written out (`eager`), since
the counter does not know the CPU's fused kernel. They do not depend on the machine. Seconds include AdamW; the arms
take turns, and beside the ratio of medians stands the interquartile range of the ratios round by round. Peak memory on
the CPU is the largest sum of what PyTorch's allocator holds during a step, from the profiler's record of every
allocation, plus what is held before it (parameters, buffers, AdamW's moments); a process's resident peak depends on what
ran before. On CUDA it is `torch.cuda.max_memory_allocated`.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from _common import write
from step_time import tasks_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from equipoise.balance import create
from equipoise.models import (
    build,
    load_backbone,
    model_class,
    modules_to_save,
    output_layer,
    pack_labels,
    representation,
    slices,
)
from equipoise.recipe import ModelSettings
from equipoise.training import choose_precision
from equipoise.training._parameters import shared_parameters

SCOPES = ("representation", "last_layer", "all", "every_10", "different")
# Scope -> K -> the most that it may cost relative to equal weights; None for any K.
FLOPS: dict[str, dict[int | None, float]] = {
    "representation": {None: 1.01},
    "last_layer": {2: 1.25, 8: 1.85},
    "all": {2: 1.70, 8: 5.8},
    "every_10": {2: 1.10},
    "different": {None: 1.05},
}
SECONDS: dict[str, dict[int | None, float]] = {"representation": {2: 1.05, 32: 1.25}}


@dataclass
class Bench:
    """A model, a batch on which every row has every label, and one optimiser for all arms."""

    model: Any
    tasks: dict[str, Any]
    ids: Tensor  # [rows, length]
    device: torch.device
    autocast: bool = False
    split_heads: bool = False  # a linear layer for each task, in place of one for all
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.ids)
        self.model.to(self.device).train()
        self.ids = self.ids.to(self.device)
        self.columns = slices(self.tasks)
        for name, task in self.tasks.items():
            drawn = torch.rand(rows) * 2 - 1 if task.kind == "regression" else torch.randint(0, 3, (rows,)).float()
            self.targets[name] = drawn.to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def losses(self, task: str | None = None, rows: slice = slice(None)) -> dict[str, Tensor]:
        """All tasks' losses, or one task's, of some rows."""
        ids = self.ids[rows]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs = self.model(input_ids=ids, attention_mask=torch.ones_like(ids))
            head = output_layer(getattr(self.model, "get_base_model", lambda: self.model)())
            found = {}
            for name in self.tasks if task is None else [task]:
                columns = self.columns[name]
                if self.split_heads:
                    bias = None if head.bias is None else head.bias[columns]
                    logits = torch.nn.functional.linear(outputs.shared, head.weight[columns], bias)
                else:
                    logits = outputs.logits[:, columns]
                found[name] = self.tasks[name].loss(logits.float(), self.targets[name][rows])
        return found

    def apart(self) -> dict[str, Tensor]:
        """Each task's loss from a forward pass of its own, on its share of the rows."""
        size = len(self.ids) // len(self.tasks)
        found: dict[str, Tensor] = {}
        for number, name in enumerate(self.tasks):
            found |= self.losses(name, slice(number * size, (number + 1) * size))
        return found

    def attention(self, kind: str) -> None:
        """`eager`, or `sdpa` for PyTorch's fused kernels."""
        getattr(self.model, "get_base_model", lambda: self.model)().set_attn_implementation(kind)

    def arm(self, method: str, scope: str) -> Arm:
        settings = {"every": 10} if scope == "every_10" else {}
        return Arm(self, create(method, list(self.tasks), **settings), scope)

    def held(self) -> int:
        """Bytes that outlive a step."""
        found = [*self.model.parameters(), *self.model.buffers()]
        found += [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


@dataclass
class Arm:
    """One way to make a step."""

    bench: Bench
    balancer: Any
    scope: str

    def __post_init__(self) -> None:
        where = {"last_layer": "last_layer", "representation": None}.get(self.scope, "all")
        self.shared = None if where is None else shared_parameters(self.bench.model, where)

    def backward(self) -> None:
        """Forward, balance, backward: what is counted."""
        losses = self.bench.apart() if self.scope == "different" else self.bench.losses()
        hidden = representation(self.bench.model)
        self.balancer(losses, shared=hidden if self.shared is None else self.shared).backward()

    def step(self) -> float:
        """Returns the seconds that a whole step takes."""
        wait(self.bench.device)
        started = time.perf_counter()
        self.backward()
        self.bench.optimizer.step()
        self.bench.optimizer.zero_grad()
        wait(self.bench.device)
        return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def minilm(count: int, rows: int, length: int, device: torch.device) -> Bench:
    tasks = tasks_of(count)
    model = build(ModelSettings(), load_backbone("minilm"), tasks)
    autocast = choose_precision("auto", device)[0] == "bf16"
    return Bench(model, tasks, torch.randint(1000, 20000, (rows, length)), device, autocast)


def llama(
    count: int, rows: int, length: int, device: torch.device, *, real_size: bool = False, pooling: str = "native"
) -> Bench:
    """Random weights, LoRA of rank 8 at the attention's four matrices."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig

    tasks = tasks_of(count)
    shape = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 688}
    if real_size:  # about a billion
        shape = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192}
        shape |= {"num_key_value_heads": 8}
    config = LlamaConfig(**shape, vocab_size=32000, pad_token_id=0, use_cache=False)
    config.id2label = pack_labels(tasks)
    config.num_labels = len(config.id2label)
    with torch.device(device):
        made: Any = model_class(LlamaConfig, pooling)(config)
    made.to(torch.bfloat16 if real_size else torch.float32)
    matrices = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=matrices, modules_to_save=modules_to_save(made))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        model = get_peft_model(made, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    autocast = real_size or choose_precision("auto", device)[0] == "bf16"
    return Bench(model, tasks, torch.randint(1, 32000, (rows, length)), device, autocast)


# What is measured -----------------------------------------------------------------------------------------------------


def flops(arm: Arm) -> float:
    """FLOPs of forward, balance and backward; of `every_10` the mean of ten steps, nine of which are alike."""
    counts = []
    for _ in range(2 if arm.scope == "every_10" else 1):
        with FlopCounterMode(display=False) as counter:
            arm.backward()
        arm.bench.optimizer.zero_grad()
        counts.append(counter.get_total_flops())
    return float((counts[0] + 9 * counts[-1]) / 10)


def peak_bytes(bench: Bench, step: Callable[[], Any]) -> int:
    """The most that one step holds at a time, with what is held before it."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
        step()
        return torch.cuda.max_memory_allocated(bench.device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return bench.held() + int(np.cumsum(changes).max())


def alternate(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds `[rounds]` of each arm; a round is one step of every arm, and each arm goes first in turn."""
    names = list(arms)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in (*names, *names):
        arms[name]()
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            taken[name].append(arms[name]())
    return {name: np.array(found) for name, found in taken.items()}


def compared(found: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(found / base, [0.25, 0.75])
    return {
        "seconds": float(np.median(found)),
        "ratio": float(np.median(found) / np.median(base)),
        "pairs_iqr": [float(low), float(high)],
    }


def count_flops(bench: Bench, methods: list[str], scopes: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    # The CPU's bfloat16 kernels are not all counted. Weights that are bfloat16 themselves need autocast, beside their adapter.
    autocast, bench.autocast = bench.autocast, any(p.dtype == torch.bfloat16 for p in bench.model.parameters())
    bench.attention("eager")
    base = {scope: flops(bench.arm("equal", scope)) for scope in ("all", "different")}
    for scope in scopes:
        equal = base["different" if scope == "different" else "all"]
        for method in methods:
            found = flops(bench.arm(method, scope))
            yield scope, method, {"flops": found, "equal_flops": equal, "flops_ratio": found / equal}
    bench.attention("sdpa")
    bench.autocast = autocast


def take_times(
    bench: Bench, methods: list[str], scopes: list[str], rounds: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    arms = {("all", "equal"): bench.arm("equal", "all")}
    if "different" in scopes:
        arms["different", "equal"] = bench.arm("equal", "different")
    arms |= {(scope, method): bench.arm(method, scope) for scope in scopes for method in methods}
    taken = alternate({"/".join(name): arm.step for name, arm in arms.items()}, rounds)
    for scope, method in arms:
        if method == "equal":
            continue
        found, base = taken[f"{scope}/{method}"], taken["different/equal" if scope == "different" else "all/equal"]
        if scope == "every_10":
            # One step in ten costs what it costs at `all`. Its own slow steps are too few for a median.
            steps = np.arange(2, 2 + rounds)  # two went before
            plain = np.median(found[steps % 10 != 0])
            mean = (np.median(taken[f"all/{method}"]) + 9 * plain) / 10
            yield scope, method, {"seconds": float(mean), "ratio": float(mean / np.median(base)), "pairs_iqr": None}
        else:
            yield scope, method, compared(found, base)


def weigh_memory(bench: Bench, methods: list[str], scopes: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    base = {}
    for scope in ("all", "different"):
        arm = bench.arm("equal", scope)
        arm.step()  # AdamW's moments
        base[scope] = peak_bytes(bench, arm.step)
    for scope in scopes:
        if scope == "every_10":
            continue  # as `all`
        equal = base["different" if scope == "different" else "all"]
        for method in methods:
            arm = bench.arm(method, scope)
            peak = peak_bytes(bench, arm.step)
            yield scope, method, {"peak_mib": peak / 2**20, "equal_peak_mib": equal / 2**20, "peak_ratio": peak / equal}


def judged(value: float, targets: dict[int | None, float] | None, count: int) -> tuple[str, dict[str, Any]]:
    target = (targets or {}).get(count, (targets or {}).get(None))
    if target is None:
        return f"{value:6.3f}{'':15}", {}
    met = value <= target
    return f"{value:6.3f} ({'<=' if met else 'OVER'} {target:.2f})".ljust(21), {"target": target, "met": met}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--models", nargs="+", default=["minilm", "llama"], choices=["minilm", "llama"])
    parser.add_argument("--methods", nargs="+", default=["dao", "mgda"])
    parser.add_argument("--scopes", nargs="+", default=list(SCOPES), choices=SCOPES)
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 4, 8, 16, 32])
    parser.add_argument("--only", choices=["flops", "time", "memory"])
    parser.add_argument("--timed-all", type=int, default=8, help="above so many tasks, only the cheap scopes are timed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, help="tokens a row; 24, or 128 with --real-size")
    parser.add_argument("--real-size", action="store_true", help="the Llama with about a billion parameters, in bf16")
    parser.add_argument("--pooling", default="native", help="of the Llama: native puts the heads on every position")
    parser.add_argument("--name", default="balance_cost", help="of the JSON file")
    options = parser.parse_args()
    device, length = torch.device(options.device), options.length or (128 if options.real_size else 24)
    cheap = [scope for scope in options.scopes if scope in ("representation", "last_layer")]
    figures: dict[str, Any] = {"device": device.type, "batch": [options.rows, length], "rounds": options.rounds}
    if device.type == "cuda":
        figures["gpu"] = torch.cuda.get_device_name(device)
    figures["models"] = {}
    missed = []
    for name in options.models:
        of_model: dict[str, Any] = {}
        for count in options.tasks:
            with seeded(0):
                if name == "minilm":
                    bench = minilm(count, options.rows, length, device)
                else:
                    size = {"real_size": options.real_size, "pooling": options.pooling}
                    bench = llama(count, options.rows, length, device, **size)
            found: dict[str, dict[str, dict[str, Any]]] = {s: {m: {} for m in options.methods} for s in options.scopes}
            timed = options.scopes if count <= options.timed_all else cheap
            parts: list[Iterator[tuple[str, str, dict[str, Any]]]] = []
            if options.only in (None, "flops"):
                parts.append(count_flops(bench, options.methods, options.scopes))
            if options.only in (None, "memory"):
                parts.append(weigh_memory(bench, options.methods, options.scopes))
            if options.only in (None, "time"):
                parts.append(take_times(bench, options.methods, timed, options.rounds))
            for part in parts:
                for scope, method, values in part:
                    found[scope][method] |= values
            print(f"\n{name}, K = {count}, {'bf16' if bench.autocast else 'fp32'}; all relative to equal weights")
            print(f"{'measured at':15} {'method':12} {'FLOPs':21} {'seconds':21} {'(pairs)':16} peak memory")
            for scope, of_scope in found.items():
                for method, values in of_scope.items():
                    words = f"{scope:15} {method:12} "
                    for key, targets in (("flops_ratio", FLOPS), ("ratio", SECONDS)):
                        text, verdict = judged(values[key], targets.get(scope), count) if key in values else ("", {})
                        words += f"{text:21} "
                        if verdict:
                            values[f"{key}_target"], values[f"{key}_met"] = verdict["target"], verdict["met"]
                            if not verdict["met"]:
                                missed.append(f"{name}, K = {count}, {scope}, {method}: {key} {text.strip()}")
                    pairs = values.get("pairs_iqr")
                    words += f"{f'({pairs[0]:.3f}-{pairs[1]:.3f})' if pairs else '':16} "
                    if "peak_ratio" in values:
                        words += f"{values['peak_ratio']:.3f} ({values['peak_mib']:.0f} MiB)"
                    print(words.rstrip(), flush=True)
            precision = "bf16" if bench.autocast else "fp32"
            of_model[str(count)] = {"precision_of_seconds": precision, "scopes": found}
        figures["models"][name] = of_model
    print("\nmissed: " + ("; ".join(missed) or "none"))
    write(options.name, figures | {"missed": missed})


if __name__ == "__main__":
    main()
