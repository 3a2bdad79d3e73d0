"""How well the representation and the last layer stand for all shared parameters, on real runs of two recipes.

    python benchmarks/scopes.py [--recipes sst emobank] [--seeds 0] [--every 5] [--steps 400] [--no-timing]

A recipe trains as it is but for its length (DAO, measured at the representation). Before every N-th update the tasks'
gradients are measured at three places, on that very batch and graph, so under the same dropout mask:

    representation   the pooled tensor that the heads read: only the heads are walked back
    last_layer       the backbone's last block
    all              every trained parameter but the output layer's: what an update acts on, and so the reference

Measuring draws no random number and fills no `.grad`: the run is the one that the recipe gives without it. From each
place's norms follow the weights that DAO would give, lambda_i = (1 / n_i) / sum_j (1 / n_j), and for each pair of tasks
the weight that MGDA would give the first, (g_2 - g_1) g_2 / |g_1 - g_2|^2 clipped to [0, 1].
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import RESULTS, ROOT, machine
from scipy.stats import pearsonr, spearmanr
from transformers import TrainerCallback

from equipoise import recipe as recipes
from equipoise.balance import GradientStatistics, measure
from equipoise.runs import Run
from equipoise.training import MultiTaskTrainer, make_plan
from equipoise.training._parameters import shared_parameters
from equipoise.training._run import build_trainer

PLACES = ("representation", "last_layer", "all")
REFERENCE = "all"
AVERAGED = (  # over pairs of tasks; the others have a direction, which depends on which of a pair comes first
    "log_ratio_pearson",
    "log_ratio_spearman",
    "ratio_off_by_factor_median",
    "ratio_off_by_factor_p90",
    "ratio_off_beside_bias_factor_median",
    "order_agrees",
    "cosine_pearson",
    "cosine_off_median",
    "cosine_sign_agrees",
    "mgda_off_median",
)
Places = dict[str, Callable[[list[torch.Tensor], torch.Tensor], GradientStatistics]]


class Probe(TrainerCallback):
    """Measures before the balancer does, and keeps what it found."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.places: Places = {}
        self.steps: list[int] = []
        self.losses: list[list[float]] = []
        self.gramians: dict[str, list[np.ndarray]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.step_seconds: list[float] = []
        self.trainer: MultiTaskTrainer | None = None

    def watch(self, trainer: MultiTaskTrainer) -> None:
        self.trainer = trainer
        model = trainer.model
        self.places["representation"] = measure
        for place in PLACES[1:]:
            parameters = shared_parameters(model, place)
            self.places[place] = lambda losses, _, parameters=parameters: measure(losses, parameters)
        trainer.balancer.register_forward_pre_hook(self.before, with_kwargs=True)
        trainer.add_callback(self)

    def before(self, balancer: Any, given: tuple[Mapping[str, torch.Tensor]], keywords: dict[str, Any]) -> None:
        assert self.trainer is not None
        step = self.trainer.state.global_step
        if step % self.every:
            return
        losses = [given[0][task].mean() for task in self.trainer.tasks]
        self.steps.append(step)
        self.losses.append([loss.item() for loss in losses])
        for place, look in self.places.items():
            started = time.perf_counter()
            found = look(losses, keywords["shared"])
            self.seconds.setdefault(place, []).append(time.perf_counter() - started)
            gramian = found.gramian.double().numpy().copy()
            np.fill_diagonal(gramian, found.norms.double().numpy() ** 2)
            self.gramians.setdefault(place, []).append(gramian)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._measured = state.global_step % self.every == 0
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._measured:
            self.step_seconds.append(time.perf_counter() - self._started)
        if state.global_step % 50 == 0:
            print(f"  step {state.global_step} of {state.max_steps}", flush=True)


def run(
    name: str, seed: int, every: int, steps: int | None, probe: Probe | None = None
) -> tuple[Probe, dict[str, Any]]:
    """Trains a recipe under a probe; returns it and what was trained."""
    os.environ.setdefault("EQUIPOISE_DATA", str(ROOT.parent / "shared" / "data"))
    overrides = [f"training.seed={seed}", *([] if steps is None else [f"training.max_steps={steps}"])]
    settings = recipes.load(ROOT / "recipes" / f"{name}.yaml", overrides)
    probe = Probe(every)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        plan = make_plan(settings, cache)
        trainer = build_trainer(plan, Run.create(Path(folder) / "run", overwrite=True), [])
        probe.watch(trainer)
        trainer.train()
    about = {
        "tasks": list(trainer.tasks),
        "steps": plan.steps,
        "batch_size": settings.training.batch_size,
        "precision": plan.precision[0],
        "parameters": {place: sum(p.numel() for p in shared_parameters(trainer.model, place)) for place in PLACES[1:]},
    }
    return probe, about


# What follows from the inner products [steps, tasks, tasks] of one place --------------------------------------------


def norms_of(gramian: np.ndarray) -> np.ndarray:
    """`[steps, tasks]`."""
    return np.sqrt(np.diagonal(gramian, axis1=1, axis2=2))


def cosines_of(gramian: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """`[steps, pairs]`."""
    norms = norms_of(gramian)
    return np.stack([gramian[:, i, j] / (norms[:, i] * norms[:, j]) for i, j in pairs], axis=1)


def dao_of(gramian: np.ndarray) -> np.ndarray:
    """The weights that sum to 1, `[steps, tasks]`."""
    inverse = 1 / norms_of(gramian)
    return inverse / inverse.sum(1, keepdims=True)


def mgda_of(gramian: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """The weight of the first of each pair, were there only these two, `[steps, pairs]`."""
    found = []
    for i, j in pairs:
        first, second, both = gramian[:, i, i], gramian[:, j, j], gramian[:, i, j]
        found.append(np.clip((second - both) / (first + second - 2 * both), 0, 1))
    return np.stack(found, axis=1)


def log_ratios(gramian: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """log(n_i / n_j), `[steps, pairs]`."""
    logs = np.log(norms_of(gramian))
    return np.stack([logs[:, i] - logs[:, j] for i, j in pairs], axis=1)


def update_cosine(gramian: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The cosine between the updates that two sets of weights `[steps, tasks]` make of the same gradients, `[steps]`."""
    product = np.einsum("si,sij,sj->s", one, gramian, other)
    lengths = [np.sqrt(np.einsum("si,sij,sj->s", w, gramian, w)) for w in (one, other)]
    return product / (lengths[0] * lengths[1])


def pull_spread(gramian: np.ndarray, weights: np.ndarray) -> float:
    """How many times harder the strongest task pulls than the weakest once weighted, median; DAO aims at 1."""
    pulls = weights * norms_of(gramian)
    return float(np.median(pulls.max(1) / pulls.min(1)))


def compare(
    gramians: list[dict[str, np.ndarray]],  # [runs] of place -> [steps, tasks, tasks]
    tasks: Sequence[str],
) -> dict[str, Any]:
    """How each place stands for the reference: all steps of all runs together."""
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    joined = {place: np.concatenate([g[place] for g in gramians]) for place in gramians[0]}
    ratios = {place: log_ratios(g, pairs) for place, g in joined.items()}
    cosines = {place: cosines_of(g, pairs) for place, g in joined.items()}
    daos = {place: dao_of(g) for place, g in joined.items()}
    mgdas = {place: mgda_of(g, pairs) for place, g in joined.items()}
    true = joined[REFERENCE]
    equal = np.full_like(daos[REFERENCE], 1 / len(tasks))
    steady = [np.abs(np.diff(log_ratios(g[REFERENCE], pairs), axis=0)) for g in gramians]
    found: dict[str, Any] = {
        "yardsticks": {
            # How far the reference itself moves from one measured batch to the next.
            "batch_to_batch_factor_median": np.exp(np.median(np.concatenate(steady))),
            "update_cosine_of_equal_weights": _quantiles(update_cosine(true, equal, daos[REFERENCE])),
            "pull_spread_of_equal_weights": pull_spread(true, equal),
            "cosine_median": dict(zip(_names(tasks, pairs), np.median(cosines[REFERENCE], axis=0), strict=True)),
            "dao_mean": dict(zip(tasks, daos[REFERENCE].mean(0), strict=True)),
            "dao_mean_times_tasks": dict(zip(tasks, daos[REFERENCE].mean(0) * len(tasks), strict=True)),
        }
    }
    for place in joined:
        if place == REFERENCE:
            continue
        off = ratios[place] - ratios[REFERENCE]
        rest = np.abs(off - np.median(off, axis=0))  # once a constant factor for each pair is taken out
        by_pair = {
            pair: {
                "log_ratio_pearson": pearsonr(ratios[place][:, p], ratios[REFERENCE][:, p])[0],
                "log_ratio_spearman": spearmanr(ratios[place][:, p], ratios[REFERENCE][:, p])[0],
                "ratio_off_by_factor_median": np.exp(np.median(np.abs(off[:, p]))),
                "ratio_off_by_factor_p90": np.exp(np.quantile(np.abs(off[:, p]), 0.9)),
                "ratio_bias_factor": np.exp(np.median(off[:, p])),
                "ratio_off_beside_bias_factor_median": np.exp(np.median(rest[:, p])),
                "order_agrees": np.mean(np.sign(ratios[place][:, p]) == np.sign(ratios[REFERENCE][:, p])),
                "cosine_median": np.median(cosines[place][:, p]),
                "cosine_pearson": pearsonr(cosines[place][:, p], cosines[REFERENCE][:, p])[0],
                "cosine_off_median": np.median(np.abs(cosines[place][:, p] - cosines[REFERENCE][:, p])),
                "cosine_sign_agrees": np.mean(np.sign(cosines[place][:, p]) == np.sign(cosines[REFERENCE][:, p])),
                "mgda_mean": mgdas[place][:, p].mean(),
                "mgda_mean_of_all": mgdas[REFERENCE][:, p].mean(),
                "mgda_off_median": np.median(np.abs(mgdas[place][:, p] - mgdas[REFERENCE][:, p])),
            }
            for p, pair in enumerate(_names(tasks, pairs))
        }
        weights_off = np.abs(daos[place] - daos[REFERENCE])
        found[place] = {
            "mean_over_pairs": {key: np.mean([row[key] for row in by_pair.values()]) for key in AVERAGED},
            "dao_mean": dict(zip(tasks, daos[place].mean(0), strict=True)),
            "dao_mean_times_tasks": dict(zip(tasks, daos[place].mean(0) * len(tasks), strict=True)),
            "dao_off_median": np.median(weights_off),
            "dao_off_max": weights_off.max(),
            "update_cosine": _quantiles(update_cosine(true, daos[place], daos[REFERENCE])),
            "pull_spread": pull_spread(true, daos[place]),
            "pairs": by_pair,
        }
    return found


def _names(tasks: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    return [f"{tasks[i]}/{tasks[j]}" for i, j in pairs]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "p5": float(np.quantile(values, 0.05)), "lowest": float(values.min())}


# What is written ---------------------------------------------------------------------------------------------------


def series(probe: Probe, tasks: Sequence[str]) -> dict[str, Any]:
    """One run, step by step: each list is one task's or one pair's."""
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    found: dict[str, Any] = {"steps": probe.steps, "losses": _columns(np.array(probe.losses), tasks)}
    names = _names(tasks, pairs)
    for place, gramian in stacked(probe).items():
        found[place] = {
            "norms": _columns(norms_of(gramian), tasks),
            "cosines": _columns(cosines_of(gramian, pairs), names),
            "dao": _columns(dao_of(gramian), tasks),
            "mgda": _columns(mgda_of(gramian, pairs), names),
        }
    return found


def stacked(probe: Probe) -> dict[str, np.ndarray]:
    return {place: np.stack(found) for place, found in probe.gramians.items()}


def milliseconds(probes: Sequence[Probe]) -> dict[str, Any]:
    """Medians, the first measurement of each run left out."""
    step = float(np.median([s for probe in probes for s in probe.step_seconds])) * 1e3
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "step_without_measurement": step}
    for place in PLACES:
        median = float(np.median([s for probe in probes for s in probe.seconds[place][1:]])) * 1e3
        found[place] = {"milliseconds": median, "share_of_step": median / step}
    return found


def _columns(values: np.ndarray, names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [float(f"{v:.5g}") for v in values[:, n]] for n, name in enumerate(names)}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float | np.floating) else value


def save(figures: dict[str, Any]) -> None:
    """Writes `results/scopes.json`; recipes that did not run this time keep their figures."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "scopes.json"
    before = json.loads(path.read_text(encoding="utf-8"))["recipes"] if path.exists() else {}
    text = json.dumps({"machine": machine(), "recipes": before | figures}, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m[1]) + "]", text)  # a list a line
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["sst", "emobank"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--every", type=int, default=5, help="measure before each so many updates")
    parser.add_argument("--steps", type=int, default=400, help="updates; 0: the recipe's own length")
    parser.add_argument("--no-timing", action="store_true", help="leave the costs out, where the machine is busy")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in options.recipes:
        probes = []
        for seed in options.seeds:
            print(f"{name}, seed {seed}", flush=True)
            probe, about = run(name, seed, options.every, options.steps or None)
            probes.append(probe)
        tasks = about["tasks"]
        summary = compare([stacked(probe) for probe in probes], tasks)
        figures[name] = {**about, "every": options.every, "seeds": options.seeds, "summary": _rounded(summary)}
        if not options.no_timing:
            figures[name]["cost"] = _rounded(milliseconds(probes))
        figures[name]["runs"] = {str(seed): series(p, tasks) for seed, p in zip(options.seeds, probes, strict=True)}
        report(name, figures[name])
    save(figures)


def report(name: str, found: dict[str, Any]) -> None:
    """Prints what matters most."""
    yard = found["summary"]["yardsticks"]
    print(f"{name}: the reference moves by x{yard['batch_to_batch_factor_median']:.2f} between batches; "
          f"equal weights: update cosine {yard['update_cosine_of_equal_weights']['median']:.4f}, strongest pull "
          f"x{yard['pull_spread_of_equal_weights']:.2f} of the weakest")  # fmt: skip
    for place in PLACES[:2]:
        here = found["summary"][place]
        mean = here["mean_over_pairs"]
        print(f"  {place}: ratio off by x{mean['ratio_off_by_factor_median']:.2f} (spearman "
              f"{mean['log_ratio_spearman']:.2f}, order {mean['order_agrees']:.0%}), cosine sign "
              f"{mean['cosine_sign_agrees']:.0%}, off {mean['cosine_off_median']:.2f}; weights off "
              f"{here['dao_off_median']:.3f}; update cosine {here['update_cosine']['median']:.4f}, strongest pull "
              f"x{here['pull_spread']:.2f} of the weakest")  # fmt: skip
    for place in PLACES if "cost" in found else ():
        cost = found["cost"][place]
        print(f"  {place}: {cost['milliseconds']:.1f} ms, {cost['share_of_step']:.1%} of a step")


if __name__ == "__main__":
    main()
