"""Makes the runs that later versions must still read.

    python tests/old_runs/make.py format-1

Once for each change of a format, at the last commit before it; what was made stays for ever. The folder `/old-run` is
where it trains: recipes hold absolute paths, and this one is no machine's. It must not exist, and takes the right to make it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "training")]

PLACE = Path("/old-run")
TEXTS = ["strong profit , great quarter", "weak results and a loss", "the court says no deal", "oil"]


def recipe() -> dict[str, Any]:
    """Every kind of state that a checkpoint can hold and a small run has: an average, a balancer's norms, LoRA's none."""
    return {
        "model": {"backbone": str(PLACE / "backbone"), "max_length": 24},
        "data": {"train": str(PLACE / "table.csv"), "validation": 0.2, "test": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "band": {"type": "classification", "from": "polarity", "bins": 3},
            "topic": {"type": "classification"},
        },
        "balance": {"method": "dao", "smoothing": 0.9},
        "training": {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "log_every_steps": 3,
            "averaging": "ema",
        },
    }


def backbone(folder: Path) -> None:
    """A random encoder of two layers and 32 dimensions."""
    import torch
    from conftest import tiny_config, tiny_tokenizer
    from transformers import AutoModel

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    from conftest import write_table
    from stopped_runs import StopAt

    import equipoise as eq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the folder that is made here, say format-1")
    final = HERE / parser.parse_args().name
    if final.exists() or PLACE.exists():
        sys.exit(f"{final.name} or {PLACE} is there already; neither is replaced")
    PLACE.mkdir()
    try:
        backbone(PLACE / "backbone")
        write_table(PLACE / "table.csv")
        finished = eq.train(recipe(), output=PLACE / "finished", progress=False)
        with contextlib.suppress(KeyboardInterrupt):
            eq.train(recipe(), output=PLACE / "stopped", progress=False, callbacks=[StopAt(20)])
        expected = {
            "texts": TEXTS,
            "predictions": eq.load(finished, precision="fp32").predict(TEXTS).to_dict("list"),
            "metrics": finished.metrics["splits"],
            "versions": finished.metrics["versions"],
        }
        (PLACE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
        finished.report_file.unlink()  # megabytes of a charting library's script; it is made anew by the test
        shutil.rmtree(PLACE / ".stopped.cache", ignore_errors=True)
        shutil.copytree(PLACE, final)
    finally:
        shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
