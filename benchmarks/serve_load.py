"""`equipoise serve` under load, beside the service that most people write.

    python benchmarks/serve_load.py [--run runs/demo] [--rounds 3] [--seconds 10] [--memory 100000]

The rival, `serve_naive.py`, runs one stock pipeline a task over checkpoints of the same model, as a plain and as an `async`
endpoint; the ratio is taken to the faster of the two at each load. `wrk` (Debian's) drives one service at a time over
loopback, with the texts of the demo set in a shuffled order, one or 16 a request. Services have the same threads (torch's
default unless OMP_NUM_THREADS says otherwise), are started anew each round, in alternating order, and warmed up with 200
requests. wrk takes part of the machine from both alike. Errors are answers that are not 2xx, and broken or timed out connections.

Memory: the resident set of our service after 1,000 requests and then at every tenth of `--memory` requests, 16 at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from _common import ROOT, write

WORK = ROOT / "runs" / "benchmark_serve"
ARMS = ("ours", "ours fp32", "naive", "naive async")
RIVALS = ("naive", "naive async")
CONCURRENCY = (1, 4, 16, 64)
PER_REQUEST = (1, 16)

LUA = """
local bodies, at = {}, 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function init() math.randomseed(1); at = math.random(#bodies) end
function request() at = at % #bodies + 1; return wrk.format(nil, nil, nil, bodies[at]) end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def prepare(run: Path) -> None:
    """The rival's checkpoints, and the bodies of requests."""
    from equipoise.demo import path
    from equipoise.inference import export_tasks

    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORK / "stock", ignore_errors=True)  # it may be of another run
    export_tasks(run, WORK / "stock")
    with path().open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    chance = random.Random(0)
    for size in PER_REQUEST:
        lines = [json.dumps({"texts": chance.choices(texts, k=size)}) for _ in range(2000)]
        (WORK / f"bodies-{size}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (WORK / "post.lua").write_text(LUA)


@contextlib.contextmanager
def service(arm: str, run: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A service that is ready, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if arm.startswith("ours"):
        precision = "fp32" if arm.endswith("fp32") else "auto"
        command = [
            sys.executable,
            "-m",
            "equipoise.cli",
            "serve",
            str(run),
            "--port",
            str(port),
            "--precision",
            precision,
        ]
    else:
        naive = str(Path(__file__).with_name("serve_naive.py"))
        command = [sys.executable, naive, str(WORK / "stock"), "--port", str(port)]
        command += ["--asynchronous"] if arm.endswith("async") else []
    with (WORK / "service.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                if process.poll() is not None:
                    raise SystemExit(f"{arm} ended: {(WORK / 'service.log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def drive(url: str, size: int, concurrency: int, seconds: float) -> dict[str, Any]:
    """Requests of `size` texts, `concurrency` at a time."""
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(WORK / "post.lua")]
    environment = {**os.environ, "BODIES": str(WORK / f"bodies-{size}.jsonl")}
    done = subprocess.run([*command, f"{url}/predict"], capture_output=True, text=True, check=True, env=environment)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    found["requests_per_second"] = found["requests"] / found["seconds"]
    return found


def ask(url: str, body: bytes) -> Any:
    request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def load(run: Path, seconds: float, number: int, sizes: Sequence[int], loads: Sequence[int]) -> dict[str, Any]:
    """One round: every arm, every load."""
    found: dict[str, Any] = {}
    for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
        with service(arm, run) as (url, _):
            bodies = (WORK / "bodies-1.jsonl").read_bytes().splitlines()
            for body in bodies[:200]:
                ask(url, body)
            found[arm] = {}
            for size in sizes:
                for concurrency in loads:
                    told = drive(url, size, concurrency, seconds)
                    found[arm][f"{size} a request, {concurrency} at once"] = told
                    print(
                        f"round {number}, {arm}, {size} a request, {concurrency} at once: {told['requests_per_second']:.0f}/s, "
                        f"p50 {told['p50_ms']:.1f} ms, p99 {told['p99_ms']:.1f} ms, {told['errors']} errors",
                        flush=True,
                    )
    return found


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours to the faster rival, within each round."""
    found: dict[str, Any] = {}
    for arm in ("ours", "ours fp32"):
        for name in rounds[0][arm]:
            best = [max(one[rival][name]["requests_per_second"] for rival in RIVALS) for one in rounds]
            if not all(best):
                raise SystemExit(f"{name}: no rival answered in time. Give each load more --seconds")
            of = sorted(one[arm][name]["requests_per_second"] / rival for one, rival in zip(rounds, best, strict=True))
            found[f"{arm}, {name}"] = {
                "median": round(statistics.median(of), 2), "least": round(of[0], 2), "greatest": round(of[-1], 2),
            }  # fmt: skip
    return found


def agreement(run: Path) -> dict[str, float]:
    """That both serve the same model: the share of classes alike over 200 texts."""
    bodies = (WORK / "bodies-1.jsonl").read_bytes().splitlines()[:200]
    answers = []
    for arm in ("ours fp32", "naive"):
        with service(arm, run) as (url, _):
            answers.append([ask(url, body)[0] for body in bodies])
    alike = classes = 0
    for ours, theirs in zip(*answers, strict=True):
        for task, value in ours.items():
            if isinstance(value, dict):
                classes += 1
                alike += value["value"] == max(theirs[task], key=lambda row: row["score"])["label"]
    return {"classes_alike": alike / max(classes, 1)}


def memory(run: Path, requests: int) -> dict[str, Any]:
    """Megabytes resident after so many requests."""
    found, done, errors = {}, 0, 0
    with service("ours", run) as (url, process):
        marks = [min(1000, requests), *(requests * tenth // 10 for tenth in range(1, 11))]
        for mark in marks:
            while done < mark:
                told = drive(url, 1, 16, 1 if mark - done < 3000 else 5)
                done, errors = done + told["requests"], errors + told["errors"]
            found[str(done)] = round(process.memory_info().rss / 1e6, 1)
            print(f"after {done} requests: {found[str(done)]} MB, {errors} errors", flush=True)
    values = list(found.values())
    return {"megabytes_after_requests": found, "errors": errors, "growth_mb": round(values[-1] - values[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=ROOT / "runs" / "demo", help="a trained run: equipoise demo makes one"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY, help="connections at once")
    parser.add_argument("--per-request", type=int, nargs="+", default=PER_REQUEST, help="texts of a request")
    parser.add_argument("--memory", type=int, default=100_000, help="requests of the memory part; 0 leaves it out")
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    if not (options.run / "metrics.json").is_file():
        raise SystemExit(f"{options.run} is no finished run. Make one: equipoise demo -o {options.run}")
    prepare(options.run)
    same = agreement(options.run)
    print(json.dumps(same))
    rounds = [
        load(options.run, options.seconds, number, options.per_request, options.concurrency)
        for number in range(options.rounds)
    ]
    figures = {
        "command": f"python benchmarks/serve_load.py --rounds {options.rounds} --seconds {options.seconds:g} "
        f"--concurrency {' '.join(map(str, options.concurrency))} --per-request {' '.join(map(str, options.per_request))} "
        f"--memory {options.memory}",
        "agreement": same,
        "ratios_of_requests_per_second": ratios(rounds),
        "memory": memory(options.run, options.memory) if options.memory else None,
        "rounds": rounds,
    }
    print(json.dumps({"ratios": figures["ratios_of_requests_per_second"], "memory": figures["memory"]}, indent=2))
    if not options.dry:
        write("serve_load", figures)


if __name__ == "__main__":
    main()
