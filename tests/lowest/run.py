"""The tests at the lowest versions that pyproject.toml allows: does it still mean what it says?

    python tests/lowest/run.py [--folder FOLDER] [--keep torch==2.13.0 ...] [--only-compile]

Makes an environment of its own with uv, in which every direct dependency has the lowest version that its bound allows and
that goes with the others' (`--resolution lowest-direct`), and runs a part of the tests that touches every dependency. `--keep`
pins what the machine can have in one version only, as torch often is. Needs uv (`pip install uv`) and a package index. Not
part of the default tests: it installs some gigabytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Minutes, not hours; every direct dependency is imported and used by one of them.
TESTS = (
    "tests/test_architecture.py",
    "tests/test_recipe.py",
    "tests/test_runs.py",
    "tests/data/test_data_readers.py",
    "tests/data/test_data_tokens.py",
    "tests/models/test_models_backbone.py",
    "tests/models/test_models_multitask.py",
    "tests/models/test_models_adapter.py",
    "tests/tasks",
    "tests/evaluation",
    "tests/training/test_training_run.py",
    "tests/inference/test_inference_predict.py",
    "tests/inference/test_inference_export.py",
    "tests/inference/test_inference_explain.py",
    "tests/report/test_report_card.py",
    "tests/report/test_report_page.py",
    "tests/serving/test_serving_predict.py",
    "tests/serving/test_serving_guard.py",
    "tests/comparison/test_comparison_search.py",
    "tests/balance/test_balance_dao.py",
    "tests/balance/test_balance_torchjd.py",
    "tests/security/test_security_folders.py",
)


def main() -> int:
    """Compiles, installs, tests; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "equipoise-lowest",
        help="where the environment is made",
    )
    parser.add_argument("--keep", nargs="*", default=[], metavar="PACKAGE==VERSION", help="pinned as it is")
    parser.add_argument("--only-compile", action="store_true", help="say which versions it would be, and stop")
    parser.add_argument("tests", nargs="*", default=list(TESTS), help="what pytest runs")
    options = parser.parse_args()
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        parser.error("uv is not installed: pip install uv")
    options.folder.mkdir(parents=True, exist_ok=True)
    pins, kept = options.folder / "lowest.txt", options.folder / "kept.txt"
    kept.write_text("".join(f"{one}\n" for one in options.keep))
    compiled = [uv, "pip", "compile", str(ROOT / "pyproject.toml"), "--extra", "dev", "--resolution", "lowest-direct"]
    subprocess.run(
        [*compiled, "--constraint", str(kept), "--python", sys.executable, "-q", "-o", str(pins)], check=True
    )
    print(pins.read_text())
    if options.only_compile:
        return 0
    environment = options.folder / "venv"
    subprocess.run([uv, "venv", "--clear", "-q", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    installing = [uv, "pip", "install", "-q", "--python", str(python)]
    subprocess.run([*installing, "-r", str(pins)], check=True)
    subprocess.run([*installing, "--no-deps", "-e", str(ROOT)], check=True)
    light = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    # Old versions warn of what newer ones no longer do; here it is failures that count.
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *options.tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **light}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
