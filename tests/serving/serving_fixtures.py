"""Fixtures that test modules import: a run to serve, and a model that obeys the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_table
from serving_helpers import FakeModel, train_tiny

import equipoise as eq

TRAINED: list[eq.Run] = []


@pytest.fixture(scope="session")
def trained(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    """A run of three tasks, not to be changed."""
    if not TRAINED:  # a fixture that is imported is made once a module, and this takes seconds
        folder = tmp_path_factory.mktemp("trained")
        TRAINED.append(train_tiny(tiny_backbone("bert"), write_table(folder / "table.csv"), folder / "reviews"))
    return TRAINED[0]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[FakeModel, Path]]:
    """Makes a model that obeys the test, and the folder that loading gives it for."""
    made: dict[Path, FakeModel] = {}

    def make(name: str = "run", **settings: Any) -> tuple[FakeModel, Path]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "multitask.json").write_text("{}")
        made[folder] = FakeModel(**settings)
        return made[folder], folder

    def load(folder: Path, **settings: Any) -> Any:
        return made[folder] if folder in made else real(folder, **settings)

    from equipoise.inference import load as real

    monkeypatch.setattr("equipoise.inference.load", load)
    monkeypatch.setattr("equipoise.inference.own_memory", lambda model: None)
    return make
