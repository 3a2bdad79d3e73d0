"""What `equipoise compare` costs beside its trainings.

    python benchmarks/compare_overhead.py [--rows 2000] [--seeds 2]

SST with two arms, a fresh folder. Training and judging (every evaluation, during a training and after it) are what any
way of training these runs would take, and so is importing torch and transformers, which is timed apart; the rest is the
harness: reading, checking and tokenising the data once, building models, writing, statistics, the page. The target: at most
3 % of the training time. The data's share does not grow with the runs, so a comparison of two arms with two seeds is a hard
case.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from _common import ROOT, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("EQUIPOISE_DATA", str(ROOT.parent / "shared" / "data"))
    started = time.perf_counter()
    from transformers import Trainer  # noqa: F401

    libraries = time.perf_counter() - started
    import equipoise as eq

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        found = eq.compare(
            ROOT / "recipes" / "sst.yaml",
            methods=["equal", "dao"],
            seeds=options.seeds,
            overrides=[f"data.max_train_rows={options.rows}"],
            output=Path(folder) / "comparison",
        )
        wall = time.perf_counter() - started
        harness = found.summary["harness"]
    own = wall - harness["training_seconds"] - harness["judging_seconds"]
    share = own / harness["training_seconds"]
    print(f"{own:.1f} s of the harness's own beside {harness['training_seconds']:.1f} s of training: {share:.1%}")
    print(f"{libraries:.1f} s more to import torch and transformers")
    write(
        "compare_overhead",
        {
            "rows": options.rows,
            "seeds": options.seeds,
            "trainings": 2 * options.seeds,
            "library_seconds": round(libraries, 1),
            "wall_seconds": round(wall, 1),
            **harness,
            "own_seconds": round(own, 1),
            "own_share_of_training": round(share, 4),
        },
    )


if __name__ == "__main__":
    main()
