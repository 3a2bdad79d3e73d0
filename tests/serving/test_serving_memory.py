"""What keeps a service's memory from growing for hours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from equipoise.errors import EquipoiseError
from equipoise.serving import serve

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(("given", "used"), [(None, "128"), ("512", "512")])
def test_kernels_are_bounded_before_a_model_is_loaded_unless_the_user_says_how(
    given: str | None, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, given or "")  # so that what the service sets is taken back after the test
    if given is None:
        monkeypatch.delenv(NAME)
    with pytest.raises(EquipoiseError, match="there is no run"):
        serve(tmp_path / "nowhere", port=0)
    assert os.environ[NAME] == used
