"""Nothing of ours unpickles, evaluates text, calls a shell or trusts a model's code by itself; who writes it anew fails lint."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bans import PICKLES, dangers, loaders, main

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))

#: What must be found, and whether ruff finds it by itself.
BANNED = {
    **{f"import {name}\n": True for name in sorted(PICKLES)},
    "from pickle import loads\n": True,
    "import pickle as p\n\np.loads(b'')\n": True,
    "from six.moves import cPickle\n": False,
    "eval('1')\n": True,
    "exec('1')\n": True,
    "from builtins import eval as e\n\ne('1')\n": True,
    "compile('1', 'x', 'exec')\n": False,
    "__import__('os')\n": False,
    "import yaml\n\nyaml.load('1')\n": True,
    "import yaml\n\nyaml.load('1', Loader=yaml.Loader)\n": True,
    "import yaml\n\nyaml.load('1', yaml.UnsafeLoader)\n": True,
    "import yaml\n\n\nclass Own(yaml.UnsafeLoader):\n    pass\n": True,
    "from yaml import unsafe_load\n\nunsafe_load('1')\n": True,
    "import yaml\n\nyaml.full_load('1')\n": True,
    "import torch\n\ntorch.load('x')\n": False,
    "import torch\n\ntorch.load('x', weights_only=False)\n": False,
    "from torch import load\n\nload('x')\n": False,
    "import torch\n\ntorch.hub.load('x', 'y')\n": True,
    "import numpy as np\n\nnp.load('x', allow_pickle=True)\n": False,
    "import pandas as pd\n\npd.read_pickle('x')\n": True,
    "import os\n\nos.system('ls')\n": True,
    "from os import system\n\nsystem('ls')\n": True,
    "import os\n\nos.popen('ls')\n": True,
    "import subprocess\n\nsubprocess.run('ls', shell=True)\n": True,
    "import subprocess\n\nsubprocess.getoutput('ls')\n": True,
    "import tempfile\n\ntempfile.mktemp()\n": True,
    "from transformers import AutoModel\n\nAutoModel.from_pretrained('x', trust_remote_code=True)\n": False,
}
ALLOWED = (
    "import yaml\n\n\nclass L(yaml.SafeLoader):\n    pass\n\n\nyaml.load('1', Loader=L)\n",
    "import torch\n\nmodel = torch.nn.Linear(1, 1)\nmodel.eval()\ntorch.load('x', weights_only=True)\n",
    "import subprocess\n\nsubprocess.run(['ls'], check=True)\n",
    "import re\n\nre.compile('a')\n",
    "import numpy as np\n\nnp.load('x')\n",
)


@pytest.mark.parametrize("source", BANNED)
def test_what_is_banned_is_found(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize("source", ALLOWED)
def test_what_is_safe_goes_through(source: str) -> None:
    assert not dangers(source)


def test_nothing_of_ours_is_banned() -> None:
    assert len(FILES) > 200
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in FILES}
    assert not {path: names for path, names in found.items() if names}


def test_the_check_is_a_command_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.py").write_text("import torch\n\ntorch.load('x')\n")
    assert main([str(tmp_path)]) == 1
    assert "one.py:3: torch.load without weights_only=True is banned" in capsys.readouterr().out
    (tmp_path / "one.py").write_text("")
    assert main([str(tmp_path)]) == 0


def test_every_loader_is_told_what_it_may_load() -> None:
    source = [path for path in FILES if "src" in path.relative_to(ROOT).parts]
    calls = [
        node
        for path in source
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
    ]
    assert len(calls) >= 4  # else this test sees nothing
    found = {str(path.relative_to(ROOT)): loaders(path.read_text(encoding="utf-8")) for path in source}
    assert not {path: names for path, names in found.items() if names}
    assert loaders("AutoModel.from_pretrained('x')")
    assert loaders("AutoModel.from_pretrained('x', use_safetensors=False)")


def test_ruff_finds_it_too(tmp_path: Path) -> None:
    for number, source in enumerate(BANNED):
        (tmp_path / f"banned_{number:02}.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--config",
        str(ROOT / "pyproject.toml"),
        "--output-format",
        "json",
    ]
    done = subprocess.run([*command, "--no-cache", str(tmp_path)], capture_output=True, text=True, timeout=120)
    rules = ("S", "TID251")
    found = {Path(one["filename"]).name for one in json.loads(done.stdout) if (one["code"] or "").startswith(rules)}
    wanted = {f"banned_{number:02}.py" for number, by_ruff in enumerate(BANNED.values()) if by_ruff}
    assert wanted <= found, [list(BANNED)[int(name[7:9])] for name in sorted(wanted - found)]
