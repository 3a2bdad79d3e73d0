"""The plug-in door: balance can be dropped into a loop that has nothing but torch."""

import json
import subprocess
import sys


def test_importing_balance_brings_torch_and_nothing_else_of_weight() -> None:
    code = (
        "import json, sys; from equipoise.balance import DAO; "
        "print(json.dumps([name for name in sys.modules if '.' not in name or name.startswith('equipoise')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded
    assert not loaded & {
        "transformers",
        "pandas",
        "pyarrow",
        "sklearn",
        "scipy",
        "pydantic",
        "datasets",
        "peft",
        "yaml",
    }
    ours = {name for name in loaded if name.startswith("equipoise.")}
    assert {name for name in ours if not name.startswith("equipoise.balance")} <= {"equipoise.errors"}
