"""How long a prediction over many files takes with n workers: measured rates, a model of them, and a check of the model.

    python benchmarks/scale_plan.py [--seconds 35] [--repeats 2] [--run RUN] [--gpu-rate 20000]

Measures, in processes of their own with one thread each: rows a second of one worker, and of two side by side, through the
function that both engines call for a file (reading, checksum, tokens, model, writing); seconds of start and loading; bytes
a row; memory; and what Ray takes to start and to hand out work, with actors that do nothing. From these it foretells the
wall time of `equipoise predict --engine ray` with one and with two workers over files that were not measured, runs both
commands, and prints how far off it was. No figure of those runs goes into the model. Then it prints the plan for a
billion texts, with what is assumed.

The model is the bundled encoder, trained for one step (speed does not depend on what it has learned), or RUN's. Texts are
one to four sentences of the demo set, joined at random. Wall times are of whole commands, interpreter start to exit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _common import write
from _scale_model import BILLION, Assumed, Rates, plan, predicted_seconds

SMALL_FILES, SMALL_ROWS = 30, 20
BUNDLES = 200
OPTIONS = {"device": "cpu", "precision": "auto", "threads": 1}


def texts(count: int, seed: int) -> list[str]:
    """One to four sentences each."""
    from equipoise.demo import recipe_path

    with (Path(recipe_path()).parent / "financial_demo.csv").open(encoding="utf-8", newline="") as file:
        sentences = [row["text"] for row in csv.DictReader(file)]
    rng = random.Random(seed)
    return [" ".join(rng.choices(sentences, k=rng.randint(1, 4))) for _ in range(count)]


def write_file(path: Path, rows: int, seed: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(rows), "text": texts(rows, seed)}), path)


# What runs in processes of its own ------------------------------------------------------------------------------------


def part_worker(born: float, run: Path, folder: Path, rows: int) -> dict[str, Any]:
    """One worker's rates; `born` is when the parent started this process."""
    from equipoise.inference._score import ModelHolder, model_identity, score_file

    start_s = time.time() - born
    folder.mkdir(parents=True)
    write_file(folder / "first.parquet", SMALL_ROWS, 0)
    small = [folder / f"small{number}.parquet" for number in range(SMALL_FILES)]
    for number, path in enumerate(small):
        write_file(path, SMALL_ROWS, number)
    write_file(folder / "large.parquet", rows, 99)
    made_with = {"batch_rows": 4096}
    model = ModelHolder(str(run / "model"), OPTIONS)

    def seconds(path: Path) -> float:
        target = folder / "out" / path.name
        started = time.perf_counter()
        record = score_file(model, {
            "input": path.name, "path": str(path), "output": path.name, "target": str(target), "made_with": made_with,
            "ours": False,
        })  # fmt: skip
        assert record["status"] == "scored", record
        return time.perf_counter() - started

    load_s = seconds(folder / "first.parquet")
    large_s = seconds(folder / "large.parquet")
    small_s = statistics.median(map(seconds, small))
    row_s = large_s / rows
    started = time.perf_counter()
    model_identity(run / "model")
    identity_s = time.perf_counter() - started
    tokens = model()._loaded.tokenizer(texts(2000, 99))["input_ids"]  # the first of the large file
    return {
        "start_s": start_s,
        "load_s": load_s - small_s,
        "rows_per_second": rows / large_s,
        "file_s": max(0.0, small_s - SMALL_ROWS * row_s),
        "identity_s": identity_s,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "precision": model().precision,
        "tokens_a_text": statistics.mean(map(len, tokens)),
        "bytes_in": (folder / "large.parquet").stat().st_size / rows,
        "bytes_out": (folder / "out" / "large.parquet").stat().st_size / rows,
    }


class Idle:
    """An actor that does nothing."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


def part_ray(workers: int) -> dict[str, float]:
    """What Ray takes by itself: until it runs, until a stage gives, each bundle, and until it is gone."""
    from equipoise.clusters import cluster
    from equipoise.inference._ray import _quiet

    def pass_over(count: int) -> float:
        started = time.perf_counter()
        rows = [{"jobs": str(number)} for number in range(count)]
        dataset = data.from_items(rows, override_num_blocks=count).map_batches(
            Idle,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
        )
        assert sum(len(batch["jobs"]) for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0)) == count
        return time.perf_counter() - started

    started = time.perf_counter()
    with cluster(workers, 1), _quiet() as data:
        cluster_s = time.perf_counter() - started
        dataset_s = pass_over(2)
        many_s = pass_over(2 + BUNDLES)
        ended = time.perf_counter()
    # A worker hands out and takes in by itself, so a bundle costs each of them `workers` times its share of the wall time.
    bundle_s = max(0.0, many_s - dataset_s) * workers / BUNDLES
    return {
        "cluster_s": cluster_s, "dataset_s": dataset_s, "bundle_s": bundle_s, "stop_s": time.perf_counter() - ended
    }  # fmt: skip


# The parent -----------------------------------------------------------------------------------------------------------


def begin(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, __file__, "--born", str(time.time()), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def results(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    found = []
    for process in processes:
        told, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a part failed: {process.args}")
        found.append(json.loads(told.strip().splitlines()[-1]))
    return found


def measure(run: Path, folder: Path, seconds: float) -> tuple[Rates, dict[str, Any]]:
    """Rates of this machine, and what was measured to know them."""
    (probe,) = results(begin("--part", "worker", "--run", run, "--folder", folder / "probe", "--rows", 300))
    rows = max(300, int(probe["rows_per_second"] * seconds / 2))
    part = ("--part", "worker", "--run", run, "--rows", rows, "--folder")
    (alone,) = results(begin(*part, folder / "alone"))
    pair = results(begin(*part, folder / "left"), begin(*part, folder / "right"))
    (ray,) = results(begin("--part", "ray", "--workers", 2))

    def of(name: str) -> dict[int, float]:
        return {1: alone[name], 2: statistics.mean(one[name] for one in pair)}

    rates = Rates(of("rows_per_second"), alone["file_s"], of("start_s"), of("load_s"), alone["identity_s"], **ray)
    return rates, {"rows": rows, "alone": alone, "side_by_side": pair, "ray": ray}


def check(run: Path, folder: Path, rates: Rates, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Foretells the command with one and two workers, then runs it."""
    from equipoise.inference._ray import bundles

    total = max(400, int(rates.rows_per_second[1] * seconds))
    sizes = [total // 4, total // 8, total // 8, *[total // 16] * 6, *[SMALL_ROWS] * 20]
    files = {folder / "in" / f"f{number:02}.parquet": rows for number, rows in enumerate(sizes)}
    for seed, (path, rows) in enumerate(files.items()):
        write_file(path, rows, 1000 + seed)
    found = []
    for repeat in range(repeats):
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            packed = bundles([{"path": str(path)} for path in files], workers)
            rows = [[files[Path(job["path"])] for job in bundle] for bundle in packed]
            foretold = predicted_seconds(rows, workers, rates)
            started = time.perf_counter()
            (ended,) = results(begin(
                "--part", "command", "--run", run, "--folder", folder / f"out{repeat}{workers}", "--pattern",
                folder / "in" / "*.parquet", "--workers", workers,
            ))  # fmt: skip
            wall = time.perf_counter() - started
            assert ended == {"code": 0}, ended
            found.append({
                "workers": workers, "rows": sum(sizes), "files": len(sizes), "bundles": len(packed),
                "predicted_s": foretold, "measured_s": wall, "error": foretold / wall - 1,
            })  # fmt: skip
            print(
                f"{workers} worker{'s' * (workers > 1)}, {sum(sizes):,} rows in {len(sizes)} files: predicted "
                f"{foretold:.1f} s, measured {wall:.1f} s ({foretold / wall - 1:+.0%})",
                flush=True,
            )
    return found


def plans(rates: Rates, measured: dict[str, Any], gpu_rate: float | None) -> tuple[list[dict[str, Any]], Assumed]:
    assumed = Assumed()
    bytes_row = {"in": measured["alone"]["bytes_in"], "out": measured["alone"]["bytes_out"]}
    cpu = rates.row_s(2)
    wanted = [("this machine, 2 cores", 1, 2, cpu), ("1 of 32 cores", 1, 32, cpu), ("10 of 32 cores", 10, 32, cpu),
              ("100 of 32 cores", 100, 32, cpu)]  # fmt: skip
    if gpu_rate is not None:
        wanted += [(f"{n} of 8 GPUs", n, 8, 1 / gpu_rate) for n in (1, 4)]
    return [plan(*one, rates, bytes_row, assumed) for one in wanted], assumed


def tell(rates: Rates, measured: dict[str, Any], rows: list[dict[str, Any]], assumed: Assumed) -> None:
    one = measured["alone"]
    memory = max(part["memory_mb"] for part in (one, *measured["side_by_side"]))
    print(
        f"\nmeasured, one thread, {one['precision']}: {rates.rows_per_second[1]:.0f} texts/s alone, "
        f"{rates.rows_per_second[2]:.0f} each of two side by side; {one['tokens_a_text']:.0f} tokens a text; "
        f"{one['bytes_in']:.0f} bytes in and {one['bytes_out']:.0f} out a row (parquet); {memory:.0f} MiB a worker;\n"
        f"start {rates.start_s[1]:.1f} s, load {rates.load_s[1]:.1f} s, a file {1000 * rates.file_s:.0f} ms; "
        f"Ray: {rates.cluster_s:.1f} s to start, {rates.dataset_s:.1f} s to the first result, "
        f"{1000 * rates.bundle_s:.0f} ms a bundle, {rates.stop_s:.1f} s to stop"
    )
    print(
        f"assumed: {assumed.rows_per_file:,} rows a file, {assumed.storage_mb_s:.0f} MB/s to storage a machine, one failure "
        f"in {1 / assumed.failures_per_machine_hour:.0f} machine-hours, {assumed.restart_s:.0f} s to come back;\n"
        "a core of another machine is as fast as one of this one's two side by side\n"
    )
    terabytes = [one[f"bytes_{way}"] * BILLION / 1e12 for way in ("in", "out")]
    print(f"a billion texts: {rows[0]['files']:,} files, {terabytes[0]:.2f} TB in, {terabytes[1]:.2f} TB out\n")
    print("| machines | workers | hours | worker-hours | minutes a file | storage | lost to failures | files/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['machines']} | {row['workers']:,} | {row['hours']:,.1f} | {row['worker_hours']:,.0f} | "
            f"{row['minutes_a_file']:.1f} | {row['share_storage']:.1%} | {row['share_lost']:.2%} | "
            f"{row['files_per_second']:.2g} |"
        )


def untrained(folder: Path) -> Path:
    import equipoise as eq
    from equipoise.demo import recipe_path

    settings = ["training.max_steps=1", "data.validation=null", "data.test=null"]
    return eq.train(recipe_path(), overrides=settings, output=folder / "run", progress=False).folder


def command(run: Path, folder: Path, pattern: str, workers: int) -> dict[str, int]:
    """`equipoise predict`, in this process."""
    from equipoise.cli import main

    sys.argv = ["equipoise", "predict", str(run), pattern, "-o", f"{folder}/", "--engine", "ray", "--device", "cpu",
                "--workers", str(workers), "--threads", "1"]  # fmt: skip
    try:
        main()
    except SystemExit as ended:
        return {"code": int(ended.code or 0)}
    raise AssertionError("main ends with SystemExit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=35, help="of work for one worker, of the check")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--run", type=Path, help="a run; else one is trained for a step")
    parser.add_argument("--gpu-rate", type=float, help="texts/s of one GPU, measured elsewhere, for the plan")
    parser.add_argument("--no-write", action="store_true", help="print only, to try it")
    for name in ("part", "folder", "pattern"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name, kind in (("born", float), ("rows", int), ("workers", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "worker":
        return print(json.dumps(part_worker(options.born, options.run, Path(options.folder), options.rows)))
    if options.part == "ray":
        return print(json.dumps(part_ray(options.workers)))
    if options.part == "command":
        return print(json.dumps(command(options.run, options.folder, options.pattern, options.workers)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = options.run.resolve() if options.run else untrained(folder)
        rates, measured = measure(run, folder, options.seconds)
        checked = check(run, folder, rates, options.seconds, options.repeats)
    rows, assumed = plans(rates, measured, options.gpu_rate)
    tell(rates, measured, rows, assumed)
    if not options.no_write:
        write("scale_plan", {
            "threads": 1, "measured": measured, "rates": asdict(rates), "check": checked, "assumed": asdict(assumed),
            "gpu_rate": options.gpu_rate, "plans": rows,
        })  # fmt: skip


if __name__ == "__main__":
    main()
