"""What the workers of the engines' tests do. In a module of its own: workers import it by its name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from equipoise.errors import DataError


def told(payload: dict[str, Any]) -> dict[str, Any]:
    """The number doubled, and where that was done."""
    import torch

    return {
        "doubled": 2 * payload["number"],
        "process": os.getpid(),
        "threads": torch.get_num_threads(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
    }


def troubled(payload: dict[str, Any]) -> dict[str, Any]:
    """Fails in the way that it is told."""
    match payload["way"]:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "data":
            raise DataError("data.csv:3:\n  no label")
        case "bug":
            raise ZeroDivisionError("a bug")
        case "object":
            return {"path": Path("data.csv")}
    return {"way": payload["way"]}


def watched(payload: dict[str, Any]) -> dict[str, Any]:
    """Notes when it is at work, and with how many others."""
    mine = Path(payload["folder"], f"{payload['number']}.begun")
    mine.write_text(str(os.getpid()), encoding="utf-8")
    begun = len([*mine.parent.glob("*.begun")])
    over = len([*mine.parent.glob("*.over")])
    time.sleep(payload["seconds"])
    mine.with_suffix(".over").touch()
    return {"at_once": begun - over}
