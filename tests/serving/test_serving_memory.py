"""What keeps a service's memory from growing for hours."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
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


COUNT = """
import ctypes, threading
from equipoise.serving._server import _bound_memory

_bound_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
here = threading.Barrier(8)

def take():
    here.wait()
    libc.malloc(100)
    here.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library than glibc")
@pytest.mark.parametrize(("given", "arenas"), [(None, 2), ("5", 5)])
def test_threads_share_two_arenas_unless_the_user_says_how_many(given: str | None, arenas: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": given} if given else {}
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("<heap nr=") == arenas
