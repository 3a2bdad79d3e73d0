"""What every generated page of the documentation shares: writing it, or telling that it is out of date."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def write_or_check(page: Path, make: Callable[[], str], script: str) -> int:
    """Writes a page, or with --check tells whether it is up to date.

    Args:
        page: the page's file.
        make: gives the page as it should be.
        script: the generator's file.

    Returns:
        The exit code: 1 if the page is out of date.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if the page is out of date")
    if not parser.parse_args().check:
        page.write_text(make(), encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != make():
        print(f"docs/{page.name} is out of date: run python docs/{Path(script).name}")
        return 1
    return 0
