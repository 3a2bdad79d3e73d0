"""What one temperature does to the study's class probabilities: log loss and calibration error, before and after.

    python benchmarks/study/temperature.py          # reads the predictions in runs/study/, trains nothing

The runs keep predictions of the test split only. So the temperature is fitted on one half of it and judged on the other,
and the other way round, as a temperature from validation would be judged on rows that it has not seen. Nothing is chosen by it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.evaluation import expected_calibration_error
from equipoise.tasks._temperature import temperature_scale

ROOT = Path(__file__).resolve().parents[2]


def judged(logits: np.ndarray, true: np.ndarray, scales: np.ndarray) -> tuple[float, float]:
    """Mean log loss and expected calibration error of softmax(scale x logits), a scale a row."""
    scaled = scales[:, None] * logits
    scaled -= scaled.max(axis=1, keepdims=True)
    shares = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    loss = -np.log(np.maximum(shares[np.arange(len(true)), true], 1e-12)).mean()
    return float(loss), float(expected_calibration_error(shares.max(axis=1), shares.argmax(axis=1) == true))


def of_run(file: Path, task: str) -> dict[str, float]:
    """Of one run's test split."""
    table = pq.read_table(file)
    classes = [name.removeprefix(f"{task}/") for name in table.column_names if name.startswith(f"{task}/")]
    classes.remove("true")
    table = table.filter(pc.is_valid(table[f"{task}/true"]))
    true = np.array([classes.index(label) for label in table[f"{task}/true"].to_pylist()])
    shares = np.stack([table[f"{task}/{label}"].to_numpy() for label in classes], axis=1)
    logits = np.log(np.maximum(shares, 1e-12))
    half = np.random.default_rng(0).permutation(len(true)) % 2
    scales = np.ones(len(true))
    for one in (0, 1):
        scales[half == one] = temperature_scale(logits[half != one], true[half != one]) or 1.0
    before, after = judged(logits, true, np.ones(len(true))), judged(logits, true, scales)
    return {
        "log_loss": before[0], "log_loss_scaled": after[0], "ece": before[1], "ece_scaled": after[1],
        "scale": float(scales.mean()),
    }  # fmt: skip


def main() -> None:
    found = []
    for part, task in (("sst", "band"), ("emobank", "genre"), ("fiqa_aspect", "aspect")):
        for arm in sorted((ROOT / "runs" / "study" / part / "runs").glob("*")):
            files = sorted(arm.glob("seed-*/predictions/test.parquet"))
            files = [file for file in files if f"{task}/true" in pq.read_schema(file).names]
            if not files:
                continue
            runs = [of_run(file, task) for file in files]
            mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            found.append({"part": part, "arm": arm.name, "seeds": len(runs), **mean})
            print(f"{part:12} {arm.name:28} {len(runs)}  " + "  ".join(f"{k} {v:.3f}" for k, v in mean.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
