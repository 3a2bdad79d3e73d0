"""A whole training epoch on SST against a plain `transformers.Trainer` with the same heads.

    python benchmarks/throughput.py [--pairs 3]

The rival is what people write by hand: the same bundled encoder with one output layer for both tasks, a Trainer subclass
whose `compute_loss` adds mean squared error and cross-entropy with equal weights, padding to the longest text of the
batch (`DataCollatorWithPadding`), float32, the Trainer's defaults but for the batch size, which is ours (32), and no
evaluation or saving. Ours is the `sst` recipe with DAO, its log included, without evaluation. Only the time inside
`train()` counts on both sides. Each arm runs in a process of its own, in turn (A B A B ...), and the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, write

DATA = Path(os.environ.get("EQUIPOISE_DATA", ROOT.parent / "shared" / "data"))


def rival() -> None:
    import pandas as pd
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from equipoise.models import locate

    frame = pd.read_csv(DATA / "sst/train.csv", keep_default_na=False, na_values=[""])
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    model = AutoModelForSequenceClassification.from_pretrained(locate("minilm"), num_labels=6)
    rows = Dataset.from_dict(
        {
            **tokenizer(frame["text"].tolist(), truncation=True, max_length=128),
            "score": frame["score"],
            "band": frame["label5"],
        }
    )

    class TwoTasks(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            score, band = inputs.pop("score"), inputs.pop("band")
            logits = model(**inputs).logits
            loss = torch.nn.functional.mse_loss(logits[:, 0], score.float()) + torch.nn.functional.cross_entropy(
                logits[:, 1:], band
            )
            return (loss, None) if return_outputs else loss

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=32, num_train_epochs=1, save_strategy="no", remove_unused_columns=False,
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = TwoTasks(model, args, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
        started = time.perf_counter()
        trainer.train()
        print(json.dumps({"seconds": time.perf_counter() - started, "rows": len(rows)}))


def ours(precision: str) -> None:
    from equipoise import recipe as recipes
    from equipoise.runs import Run
    from equipoise.training._plan import make_plan
    from equipoise.training._run import build_trainer

    settings = [
        "training.epochs=1", "data.validation=null", "data.test=null", f"training.precision={precision}",
        "training.checkpoint_every_steps=1000000",
        "training.consistency=null", "training.averaging=null", "training.calibrate=false",  # the rival has none of it
    ]  # fmt: skip
    recipe = recipes.load(ROOT / "recipes" / "sst.yaml", settings)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cache").mkdir()
        plan = make_plan(recipe, Path(folder) / "cache")
        trainer = build_trainer(plan, Run(Path(folder)), callbacks=[])
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "rows": trainer.rows_trained, "precision": plan.precision[0]}))


def measure(arm: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--arm", arm], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["examples_per_second"] = found["rows"] / found["seconds"]
    print(f"{arm}: {found['examples_per_second']:.1f} examples/s ({found['seconds']:.1f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--fp32-pairs", type=int, default=1, help="in how many of them ours runs in float32 too")
    parser.add_argument("--arm", choices=["rival", "ours", "ours-fp32"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm == "rival":
        return rival()
    if options.arm:
        return ours("fp32" if options.arm == "ours-fp32" else "auto")
    runs = []
    for pair in range(options.pairs):
        arms = ["ours", "rival", *(["ours-fp32"] if pair < options.fp32_pairs else [])]
        runs.append({arm: measure(arm) for arm in (arms if pair % 2 == 0 else arms[::-1])})
    ratios = {
        arm: sorted(p[arm]["examples_per_second"] / p["rival"]["examples_per_second"] for p in runs if arm in p)
        for arm in ("ours", "ours-fp32")
    }
    for arm, values in ratios.items():
        if values:
            each = ", ".join(f"{value:.2f}" for value in values)
            print(f"{arm} / plain Trainer: median {statistics.median(values):.2f} (each pair: {each})")
    write("throughput", {"pairs": runs, "ratios": ratios})


if __name__ == "__main__":
    main()
