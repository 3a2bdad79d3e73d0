"""Files, recipes, sidecars and run folders of any content: read, or refused in one clear message; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_service import SERVICE_EXAMPLES
from fuzz_targets import SLOW_TIMES, TARGETS, new_seed, run_target


def test_enough_is_tried() -> None:
    default = sum(target.examples for target in TARGETS.values()) + sum(SERVICE_EXAMPLES.values())
    assert default >= 5_000
    assert default * SLOW_TIMES >= 100_000


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    assert run_target(target, tmp_path, target.examples) >= target.examples


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TARGETS)
def test_any_input_of_very_many(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seed = new_seed()
    print(f"{name}: seed {seed}")
    tried = run_target(target, tmp_path, target.examples * SLOW_TIMES, seed)
    print(f"{name}: {tried} inputs")
    assert tried >= target.examples * SLOW_TIMES
