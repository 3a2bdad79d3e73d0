"""Coverage-guided fuzzing of the readers with atheris (libFuzzer under Python).

    python benchmarks/fuzz_readers.py --seconds 60                 every reader for so long
    python benchmarks/fuzz_readers.py --readers csv yaml --seconds 600

Each reader gets the nasty tables of its kind (tests/data/nasty) and a few sound files to start from; inputs that reach new
lines of `equipoise`, PyYAML or json are kept and changed further. What must hold of each is in tests/fuzz/fuzz_checks.py.
Writes results/fuzz_readers.json: inputs tried, inputs kept, lines covered, failures. An input that fails is left in --keep.

atheris is no dependency of ours: pip install atheris (it brings libFuzzer; wheels are there for Linux).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
#: Reader -> the name of its file, for those that are tables.
TABLES = {"csv": "t.csv", "tsv": "t.tsv", "jsonl": "t.jsonl", "gzip": "t.csv.gz", "parquet": "t.parquet"}
READERS = (*TABLES, "yaml", "sidecar")


def seeds(reader: str) -> Iterator[bytes]:
    """What fuzzing starts from."""
    import fuzz_inputs
    import yaml
    from nasty import SMALL

    if reader == "yaml":
        yield yaml.safe_dump(fuzz_inputs.SOUND_RECIPE).encode()
        yield b"a: &a [1, 2]\nb: {<<: {c: *a}}\n? !!set {x}\n: !!binary aGk=\n"
        yield from (path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml")))
    elif reader == "sidecar":
        yield json.dumps(fuzz_inputs.SOUND_SIDECAR).encode()
    else:
        for case in SMALL:
            if case.file == TABLES[reader] and isinstance(case.content, str | bytes) and len(case.content) < 4096:
                yield case.content.encode() if isinstance(case.content, str) else case.content
        if reader == "parquet":
            yield from fuzz_inputs.sound_parquet()


def child(reader: str, arguments: list[str]) -> None:
    """Fuzzes one reader; does not return."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["equipoise", "yaml", "json"]):
        import fuzz_checks

    place = Path(tempfile.mkdtemp(prefix="equipoise-fuzz-"))

    def one(data: bytes) -> None:
        if reader == "yaml":
            fuzz_checks.recipe_yaml(data, place)
        elif reader == "sidecar":
            fuzz_checks.sidecar(data, place)
        else:
            fuzz_checks.table(TABLES[reader], data, place)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def fuzz(reader: str, seconds: int, keep: Path) -> dict[str, object]:
    """Fuzzes one reader in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="equipoise-corpus-") as corpus:
        count = 0
        for count, content in enumerate(seeds(reader), 1):
            (Path(corpus) / f"seed{count}").write_bytes(content)
        options = [
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-timeout=30",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={keep}/{reader}-",
        ]
        done = subprocess.run(
            [sys.executable, __file__, "--child", reader, *options, corpus],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    told = done.stderr
    runs = re.findall(r"(?:Done (\d+) runs|stat::number_of_executed_units:\s*(\d+)|^#(\d+)\s)", told, re.MULTILINE)
    tried = max((int(next(filter(None, one))) for one in runs), default=0)
    covered = [int(one) for one in re.findall(r"cov: (\d+)", told)]
    kept = [int(one) for one in re.findall(r"corp: (\d+)", told)]
    found: dict[str, object] = {
        "reader": reader, "seeds": count, "inputs": tried, "kept": kept[-1] if kept else 0,
        "coverage_first": covered[0] if covered else None, "coverage_last": covered[-1] if covered else None,
        "failures": int(done.returncode != 0),
    }  # fmt: skip
    if done.returncode:
        found["said"] = told[-3000:]
        print(told[-3000:], file=sys.stderr)
    print(json.dumps({key: value for key, value in found.items() if key != "said"}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()), help="where inputs that fail are left"
    )
    args = parser.parse_args()
    from _common import write

    found = [fuzz(reader, args.seconds, args.keep) for reader in args.readers]
    write("fuzz_readers", {"seconds": args.seconds, "readers": found})
    sys.exit(any(one["failures"] for one in found))


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS / "data"), str(TESTS / "report")]
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        child(sys.argv[2], sys.argv[3:])
    else:
        main()
