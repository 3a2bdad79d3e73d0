"""How long a person waits before anything happens: `import equipoise` and `equipoise --help`, medians of fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from _common import write

COMMANDS = {
    "python -c 'pass'": [sys.executable, "-c", "pass"],
    "import equipoise": [sys.executable, "-c", "import equipoise"],
    "equipoise --help": [str(Path(sys.executable).parent / "equipoise"), "--help"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(11)][1:]
    medians = {name: statistics.median(r[name] for r in rounds) for name in COMMANDS}
    for name, value in medians.items():
        print(f"{name}: {value:.3f} s")
    print(f"the import alone: {medians['import equipoise'] - medians[chr(112) + 'ython -c ' + repr('pass')]:.3f} s")
    write("start_up", {"seconds": medians})


if __name__ == "__main__":
    main()
