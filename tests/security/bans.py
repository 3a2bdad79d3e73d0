"""What no code of ours may do, found by reading the source: run text or data as code, or hand a line to a shell.

    python tests/security/bans.py src benchmarks examples

prints every place and fails where there is one. ruff's rules (pyproject.toml) hold most of it while one writes; what they have no
rule for (`torch.load` without `weights_only=True`, `numpy.load` with pickles, code that comes with a model) is found here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "builtins.eval",
    "builtins.exec",
    "os.system",
    "os.popen",
    "pty.spawn",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "tempfile.mktemp",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
    "yaml.full_load",
    "yaml.full_load_all",
    "pandas.read_pickle",
    "torch.hub.load",
    "torch.jit.load",
    "runpy.run_path",
    "runpy.run_module",
}
UNSAFE_LOADERS = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader"}
#: Handing on what a caller said is no decision; these two are the names that it has on its way.
HANDED_ON = {"False", "trust_remote_code", "trusted"}


def dangers(source: str) -> list[tuple[int, str]]:
    """Line and name of every call, import and base class that is banned."""
    tree = ast.parse(source)
    known = _aliases(tree)
    safe = SAFE_LOADERS | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_name(base, known) in SAFE_LOADERS for base in node.bases)
    }
    return sorted(found for node in ast.walk(tree) for found in _of(node, known, safe))


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for: `np` -> `numpy`, and `system` -> `os.system` after `from os import system`."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return known


def _name(node: ast.AST, known: dict[str, str]) -> str:
    first, dot, rest = ast.unparse(node).partition(".")
    return f"{known.get(first, first)}{dot}{rest}"


def _of(node: ast.AST, known: dict[str, str], safe: set[str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [one.name for one in node.names] + [getattr(node, "module", None) or ""]
        parts = {part for name in names for part in name.split(".")[:1] + name.split(".")[-1:]}
        yield from ((node.lineno, f"import {part}") for part in sorted(parts & PICKLES))
    if isinstance(node, ast.ClassDef):
        yield from ((node.lineno, name) for base in node.bases if (name := _name(base, known)) in UNSAFE_LOADERS)
    if not isinstance(node, ast.Call):
        return
    name = _name(node.func, known)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in CALLS or name.endswith((".read_pickle", ".to_pickle")):
        yield node.lineno, name
    if name in {"yaml.load", "yaml.load_all"}:
        given = [keyword.value for keyword in node.keywords if keyword.arg == "Loader"] + node.args[1:2]
        if not given or _name(given[0], known) not in safe:
            yield node.lineno, f"{name} without a safe loader"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield node.lineno, "torch.load without weights_only=True"
    if name == "numpy.load" and keywords.get("allow_pickle", "False") != "False":
        yield node.lineno, "numpy.load with pickles"
    if keywords.get("shell", "False") != "False":
        yield node.lineno, f"{name} with shell"
    if keywords.get("trust_remote_code", "False") not in HANDED_ON:
        yield node.lineno, f"{name} with trust_remote_code"


def loaders(source: str) -> list[tuple[int, str]]:
    """Calls of `from_pretrained` that leave to the library what may be loaded: safetensors, and no code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            # peft reads only safetensors where there are any, and `find_danger` has seen to it that nothing else is there.
            if not (keywords.get("use_safetensors") == "True" or "trust_remote_code" in keywords) and (
                ast.unparse(node.func.value) != "PeftModel"
            ):
                found.append((node.lineno, ast.unparse(node.func)))
    return found


def main(roots: list[str]) -> int:
    """Prints what is found below the roots."""
    count = 0
    for path in sorted(path for root in roots for path in Path(root).rglob("*.py")):
        for line, what in dangers(path.read_text(encoding="utf-8")):
            print(f"{path}:{line}: {what} is banned (see SECURITY.md)")
            count += 1
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
