"""The choice of the number format, and the reason that is given for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equipoise.errors import RecipeError
from equipoise.training import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, ("bf16", "cpu has it in hardware (avx512_bf16)")),
        ({"amx_bf16": True, "avx512_bf16": True}, ("bf16", "cpu has it in hardware (amx_bf16)")),
        ({"avx2": True}, ("fp32", "this cpu has no bf16 in hardware")),
    ],
)
def test_auto_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("auto", CPU) == expected


def test_a_wish_is_followed_and_its_price_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision("fp32", CPU) == ("fp32", "as the recipe says")
    precision, reason = choose_precision("bf16", CPU)
    assert precision == "bf16"
    assert "emulated and slow" in reason
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)


def test_without_a_report_of_capabilities_nothing_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any) -> Any:
        raise AttributeError

    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", CPU)[0] == "fp32"
