"""Data that others wrote: how many inputs were tried, and how many had another outcome than a result or a clear refusal.

    python benchmarks/trust_fuzz.py                      the default numbers of the tests, other inputs than theirs
    python benchmarks/trust_fuzz.py --times 20           the slow run: more than 100,000 inputs
    python benchmarks/trust_fuzz.py --seconds 60         and as long of coverage-guided fuzzing for each reader

Inputs are drawn by hypothesis with --seed (a new one each time if none is given; it is written down). The nasty tables are
those of tests/data/nasty, each with its stated outcome. Figures are counts: `tried` inputs or tables, of which `held` had no
outcome that they must not have. Writes results/trust_fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
sys.path[:0] = [str(TESTS / room) for room in ("fuzz", "data", "report", "serving")] + [str(TESTS)]


def nasty() -> dict[str, Any]:
    """Every nasty table through training's door."""
    from nasty import BIG, SMALL
    from nasty.case import through_training

    failed = []
    for case in SMALL + BIG:
        with tempfile.TemporaryDirectory(prefix="equipoise-nasty-") as folder:
            try:
                through_training(case, Path(folder))
            except Exception:
                failed.append(case.name)
                traceback.print_exc()
    total = len(SMALL) + len(BIG)
    return {"name": "nasty tables handled", "held": total - len(failed), "tried": total, "failed": failed}


def fuzzed(name: str, target: Any, times: float, seed: int) -> dict[str, Any]:
    """One target. Its first failure ends it, and then nothing of it counts as held: how much was tried is not known."""
    from fuzz_targets import run_target

    wanted = max(1, round(target.examples * times))
    started = time.perf_counter()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="equipoise-fuzz-") as folder:
        try:
            tried = run_target(target, Path(folder), wanted, seed)
        except Exception:
            traceback.print_exc()
            tried, failed = wanted, wanted
    seconds = round(time.perf_counter() - started, 1)
    found = {"name": f"fuzz: {name}", "held": tried - failed, "tried": tried, "seconds": seconds}
    print(found, flush=True)
    return found


def service_targets(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The application with a model that is none, and its targets."""
    from unittest import mock

    from fuzz_service import SERVICE_EXAMPLES, Client, check_request, requests
    from fuzz_targets import Target
    from serving_helpers import FakeModel

    from equipoise.serving import Limits, create_app

    (folder / "run").mkdir()
    (folder / "run" / "multitask.json").write_text("{}")
    patches = [
        mock.patch("equipoise.inference.load", return_value=FakeModel()),
        mock.patch("equipoise.inference.own_memory", return_value=None),
    ]
    for patch in patches:
        patch.start()
    client = Client(create_app(folder / "run", limits=Limits(files=4, files_bytes=1 << 20)))

    def of(kind: str) -> Any:
        return Target(
            SERVICE_EXAMPLES[kind], lambda: requests(kind), lambda request, folder: check_request(client, request)
        )

    return client, {f"HTTP {kind}": of(kind) for kind in SERVICE_EXAMPLES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=1.0, help="of the default run's inputs")
    parser.add_argument("--seconds", type=int, default=0, help="of atheris for each reader; 0 = none")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--targets", nargs="*", default=None, help="only these; the others keep what they had")
    args = parser.parse_args()
    from _common import RESULTS, write
    from fuzz_targets import TARGETS, new_seed

    seed = new_seed() if args.seed is None else args.seed
    # What is measured anew takes the place of what was; the tables, and the readers without --seconds, stay then.
    before = json.loads((RESULTS / "trust_fuzz.json").read_text(encoding="utf-8")) if args.targets else None
    figures = [] if before else [nasty()]
    with tempfile.TemporaryDirectory(prefix="equipoise-service-") as folder:
        client, service = service_targets(Path(folder))
        targets = {
            name: one for name, one in {**TARGETS, **service}.items() if args.targets is None or name in args.targets
        }
        figures += [fuzzed(name, target, args.times, seed) for name, target in targets.items()]
        client.close()
    if before:
        anew = {one["name"]: one for one in figures}
        summed = {"fuzz inputs", *(["coverage-guided inputs"] if args.seconds else [])}
        figures = [anew.get(one["name"], one) for one in before["figures"] if one["name"] not in summed]
    inputs = [one for one in figures if one["name"].startswith("fuzz: ")]
    total = {key: sum(one[key] for one in inputs) for key in ("held", "tried")}
    guided: list[dict[str, Any]] = before["guided"] if before else []
    if args.seconds:
        import fuzz_readers

        guided = [
            fuzz_readers.fuzz(reader, args.seconds, Path(tempfile.gettempdir())) for reader in fuzz_readers.READERS
        ]
        tried = sum(one["inputs"] for one in guided)
        figures.append(
            {"name": "coverage-guided inputs", "held": tried - sum(one["failures"] for one in guided), "tried": tried}
        )
    command = f"python benchmarks/trust_fuzz.py --times {args.times:g} --seconds {args.seconds} --seed {seed}"
    if before:
        command = f"{before['command']}; then, mended, {command} --targets {shlex.join(args.targets)}"
    figures.insert(1, {"name": "fuzz inputs", **total})
    write("trust_fuzz", {"command": command, "figures": figures, "guided": guided})
    sys.exit(any(one["held"] < one["tried"] for one in figures))


if __name__ == "__main__":
    main()
