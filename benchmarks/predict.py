"""Texts a second against `transformers.pipeline`, and the latency of a single text.

    python benchmarks/predict.py [--rounds 3] [--texts 20000] [--further 3000]

A model is trained on SST (score and five classes, one epoch; its quality is not the point, but metrics must not move). The
rival is `pipeline("text-classification", batch_size=32)` in float32 over stock checkpoints of the same model: for both tasks,
one pipeline after the other, as separate models would run; for one task, one of them. Ours is `equipoise.load(run).predict`
(bf16 where the processor multiplies it), the same in float32, and the int8 and float32 ONNX exports. Every arm gets the
texts in the same shuffled order, has all cores, runs in a process of its own, and one after the other, round by round;
ratios are taken within a round; rounds after the first have fewer texts of the mixed corpus. Corpora: SST's test split, and
texts made of FiQA's training sentences, joined at random so that lengths vary from a few tokens to past the limit of 128.
Loading and one warm-up of 64 texts do not count.

The share of the peak: 2 x (parameters in matrix products) x tokens computed, padding included, over the time and the rate of a
large bf16 (int8) matrix product measured in the same process.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from _common import ROOT, write

DATA = Path(os.environ.get("EQUIPOISE_DATA", ROOT.parent / "shared" / "data"))
WORK = ROOT / "runs" / "benchmark_predict"
TASKS = ("polarity", "band")
ARMS = ("pipeline", "ours", "ours fp32", "onnx fp32", "onnx int8")


def column(path: Path, name: str) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def corpora(count: int) -> dict[str, list[str]]:
    """Corpus -> texts, shuffled with seed 0."""
    chance = random.Random(0)
    sst = column(DATA / "sst" / "test.csv", "text")
    sentences = column(DATA / "fiqa2018_task1" / "train.csv", "text")
    mixed = [" ".join(chance.choices(sentences, k=1 + int(chance.expovariate(1.2)))) for _ in range(count)]
    chance.shuffle(sst)
    return {"sst": sst, "mixed": mixed}


def prepare() -> None:
    """The run, its stock checkpoints and its exports."""
    import equipoise as eq
    from equipoise.inference import export_onnx, export_tasks

    run = WORK / "run"
    if not (run / "metrics.json").is_file():
        recipe = ROOT / "recipes" / "sst.yaml"
        eq.train(recipe, overrides=["training.epochs=1", "training.seed=0"], output=run, overwrite=True)
    if not (WORK / "stock").is_dir():
        export_tasks(run, WORK / "stock")
    for name, int8 in (("fp32", False), ("int8", True)):
        if not (WORK / name).is_dir():
            # Whether int8 is good enough is a result here, and no reason to stop.
            export_onnx(run, WORK / name, int8=int8, tolerance=1.0)


def predictors(arm: str) -> list[Any]:
    """Functions from texts to whatever the arm gives: one that answers all tasks, or one a task."""
    if arm == "pipeline":
        from transformers import pipeline

        pipes = [
            pipeline("text-classification", model=str(WORK / "stock" / task), device="cpu", batch_size=32, top_k=None)
            for task in TASKS
        ]
        return [partial(pipe, truncation=True, max_length=128) for pipe in pipes]
    import equipoise as eq

    if arm.startswith("onnx"):
        return [eq.load(WORK / arm.split()[1]).predict]
    return [eq.load(WORK / "run", precision="fp32" if arm.endswith("fp32") else "auto").predict]


def run_arm(arm: str, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Seconds over each corpus, and single texts one after the other."""
    import torch

    models = predictors(arm)
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name, corpus in texts.items():
        seconds = []
        for predict in models:
            predict(corpus[:64])
            started = time.perf_counter()
            predict(corpus)
            seconds.append(time.perf_counter() - started)
        found[name] = {"seconds": sum(seconds), "of_the_last": seconds[-1], "texts": len(corpus)}
    latencies = []
    for text in texts["sst"][:300]:
        started = time.perf_counter()
        models[-1]([text])
        latencies.append(1000 * (time.perf_counter() - started))
    found["latency_ms"] = {"p50": statistics.median(latencies), "p99": statistics.quantiles(latencies, n=100)[98]}
    if arm in ("ours", "onnx int8"):
        found["peak"] = peak(arm, texts)
    return found


def peak(arm: str, texts: dict[str, list[str]]) -> dict[str, float]:
    """Operations of the model's matrix products over each corpus, and the rate of a large product."""
    import torch

    import equipoise as eq
    from equipoise.models import token_batches

    model = eq.load(WORK / "run", precision="fp32")
    loaded = model.exact()
    linear = [m for name, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear) and "encoder" in name]
    weights = sum(layer.weight.numel() for layer in linear)
    found: dict[str, float] = {}
    for name, corpus in texts.items():
        lengths = [len(ids) for ids in loaded.tokenizer(corpus, truncation=True, max_length=128)["input_ids"]]
        computed = sum(len(rows) * max(lengths[i] for i in rows) for rows in token_batches(lengths, model.max_tokens))
        found[f"{name}_teraflop"] = 2 * weights * computed / 1e12
        found[f"{name}_padding"] = computed / sum(lengths) - 1
    if arm == "ours":
        one, other = (torch.randn(4096, 4096).bfloat16() for _ in range(2))
        product = lambda: one @ other  # noqa: E731
    else:
        one, other = (torch.randint(-100, 100, (4096, 4096), dtype=torch.int8) for _ in range(2))
        product = lambda: torch._int_mm(one, other)  # noqa: E731
    product()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    found["teraflops"] = 2 * 4096**3 / min(seconds) / 1e12
    return found


def quality() -> dict[str, Any]:
    """Every arm's main metrics on SST's test split, and how far they are from float32's."""
    import equipoise as eq
    from equipoise.inference import evaluate_file

    found: dict[str, Any] = {}
    arms = {"ours fp32": (WORK / "run", "fp32"), "ours": (WORK / "run", "auto"), "onnx int8": (WORK / "int8", "auto")}
    for arm, (folder, precision) in arms.items():
        tasks = evaluate_file(eq.load(folder, precision=precision), DATA / "sst" / "test.csv")["tasks"]
        found[arm] = {"polarity mse": tasks["polarity"]["mse"], "band accuracy": tasks["band"]["accuracy"]}
    for arm in ("ours", "onnx int8"):
        found[f"{arm}, change in %"] = {
            name: 100 * (value / found["ours fp32"][name] - 1) for name, value in found[arm].items()
        }
    return found


def measure(arm: str, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", arm, "--texts", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    told = ", ".join(f"{name} {found[name]['texts'] / found[name]['seconds']:.0f} texts/s" for name in ("sst", "mixed"))
    print(f"{arm}: {told}, single text p50 {found['latency_ms']['p50']:.1f} ms", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=20_000, help="of the mixed corpus")
    parser.add_argument("--further", type=int, default=3_000, help="the same in the rounds after the first")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options.arm, corpora(options.texts))))
        return
    prepare()
    rounds = []
    for number in range(options.rounds):
        arms = ARMS if number % 2 == 0 else ARMS[::-1]
        count = options.further if number else options.texts
        rounds.append({arm: measure(arm, count) for arm in arms})
        report(rounds, options)


def report(rounds: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Ratios of the rounds so far, printed and written: a long measurement may be stopped after any of them."""
    ratios: dict[str, Any] = {}
    for name, key in (("both tasks", "seconds"), ("one task", "of_the_last")):
        for arm in ARMS[1:]:
            for corpus in ("sst", "mixed"):
                of = sorted(one["pipeline"][corpus][key] / one[arm][corpus]["seconds"] for one in rounds)
                ratios[f"{arm}, {name}, {corpus}"] = {
                    "median": round(statistics.median(of), 2), "least": round(of[0], 2), "greatest": round(of[-1], 2),
                }  # fmt: skip
    shares = {}
    for arm in ("ours", "onnx int8"):
        for corpus in ("sst", "mixed"):
            shares[f"{arm}, {corpus}"] = round(
                statistics.median(
                    one[arm]["peak"][f"{corpus}_teraflop"] / one[arm][corpus]["seconds"] / one[arm]["peak"]["teraflops"]
                    for one in rounds
                ),
                3,
            )
    print(json.dumps({"ratios": ratios, "share_of_peak": shares}, indent=2))
    write(
        "predict",
        {
            "command": f"python benchmarks/predict.py --rounds {len(rounds)} --texts {options.texts} "
            f"--further {options.further}",
            "ratios_of_texts_per_second": ratios,
            "share_of_matrix_peak": shares,
            "metrics": quality(),
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
