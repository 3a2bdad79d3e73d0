"""Many files on a local Ray cluster of two workers: the local results to the bit, and nothing lost to a kill."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_table
from many_files import assert_as_by_itself, lines_of, start, trained, wait_for

import equipoise as eq
from equipoise import clusters
from equipoise.errors import RecipeError, RunError
from equipoise.inference._ray import BUNDLE_BYTES, BUNDLE_FILES, TRIES, FileScorer, bundles, on_ray

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own files and sockets
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data"),  # of a setting that it makes itself
]

OPTIONS = {"device": None, "precision": "auto", "threads": 1}


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    return trained(tiny_backbone("bert"), tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One cluster of two processors for all tests here, which find it running, as a user's."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with clusters.cluster(2, 1) as ray:
            yield ray


def job(path: Path, target: Path) -> dict[str, Any]:
    return {
        "input": path.name, "path": str(path), "output": target.name, "target": str(target),
        "made_with": {"model": "m", "batch_rows": 100}, "ours": False,
    }  # fmt: skip


def test_ray_gives_the_local_results_to_the_bit(
    cluster: Any, run: eq.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(6):
        write_table(Path(f"in/{number}.csv"), rows=3 + number, seed=number)
    write_table(Path("in/many.csv"), rows=700, seed=7)
    with gzip.open("in/lines.jsonl.gz", "wt") as file:
        file.write('{"text": "profit"}\nnot json\n{"text": "oil bank"}\n')
    pq.write_table(pa.table({"text": ["bank"] * 50, "n": range(50)}), "in/table.parquet", row_group_size=9)
    Path("in/empty.csv").touch()
    settings = ray.data.DataContext.get_current()
    before = (settings.enable_progress_bars, settings.print_on_execution_start, logging.getLogger("ray.data").handlers)
    asked: dict[str, Any] = {"threads": 1, "batch_rows": 64}
    spread = eq.predict_files(run, "in/*", "spread", engine="ray", workers=2, **asked)
    local = eq.predict_files(run, "in/*", "local", **asked)
    assert (settings.enable_progress_bars, settings.print_on_execution_start) == before[:2]
    assert logging.getLogger("ray.data").handlers == before[2]
    assert len(local.files) == 10
    for there, here in zip(spread.files, local.files, strict=True):
        assert (there.input, there.status, there.rows, there.bad) == (here.input, here.status, here.rows, here.bad)
        assert there.reason == here.reason
    model = eq.load(run)
    for file in spread.files:
        if file.status == "failed":
            assert (file.input, file.output.exists()) == ("in/empty.csv", False)
            continue
        if file.output.suffix != ".gz":  # whose header tells the time
            assert file.output.read_bytes() == (Path("local") / file.output.name).read_bytes(), file.input
    for name in ("many.csv", "lines.jsonl.gz", "table.parquet"):
        assert_as_by_itself(model, Path("in", name), Path("spread", name), tmp_path, batch_rows=64)


def test_a_lost_worker_loses_no_file(cluster: Any, run: eq.Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_table(tmp_path / "in" / "big.csv", rows=20000)
    write_table(tmp_path / "in" / "small.csv", rows=5)

    def kill() -> None:
        (half,) = wait_for(lambda: [*(tmp_path / "out").glob(".big.csv.*.tmp")])
        lost.append(int(half.name.split(".")[-2]))
        os.kill(lost[0], signal.SIGKILL)

    lost: list[int] = []
    thread = threading.Thread(target=kill)
    thread.start()
    scored = eq.predict_files(run, str(tmp_path / "in" / "*.csv"), tmp_path / "out", engine="ray", workers=1)
    thread.join()
    assert lost != [os.getpid()]
    assert [file.status for file in scored.files] == ["scored", "scored"]
    assert scored.rows == 20005
    # What the lost worker had begun has the name of its process; a next run removes it.
    (tmp_path / "out" / "big.csv").unlink()
    eq.predict_files(run, str(tmp_path / "in" / "*.csv"), tmp_path / "out", threads=1)
    assert not [*(tmp_path / "out").glob(".*")]


def test_a_killed_driver_leaves_nothing_running_and_its_run_goes_on(cluster: Any, run: eq.Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_table(tmp_path / "in" / f"big{number}.csv", rows=8000, seed=number)
    for number in range(6):
        write_table(tmp_path / "in" / f"small{number}.csv", rows=20, seed=number)
    process = start(tmp_path, str(run.folder), "in/*.csv", "-o", "out/", "--engine", "ray", "--workers", "2")
    wait_for(lambda: lines_of(tmp_path / "out"), process)
    family = psutil.Process(process.pid).children(recursive=True)
    names = {child.pid: child.name() for child in family}
    process.kill()
    process.communicate()
    assert len(family) > 3  # else this saw no cluster
    # Its workers and their keeper end with it. Two helpers of Ray's, which hold nothing, find out later.
    family = [process for process in family if "Agent" not in names[process.pid]]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    done = {line["output"] for line in lines_of(tmp_path / "out")}
    assert 0 < len(done) < 8
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in done}
    scored = eq.predict_files(run, str(tmp_path / "in" / "*.csv"), tmp_path / "out", engine="ray", workers=2)
    assert {file.output.name for file in scored.having("kept")} == done
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in done} == times
    assert not [*(tmp_path / "out").glob(".*")]
    local = eq.predict_files(run, str(tmp_path / "in" / "*.csv"), tmp_path / "local", threads=1)
    assert len(local.files) == 8
    for file in local.files:
        assert file.output.read_bytes() == (tmp_path / "out" / file.output.name).read_bytes(), file.input


def test_what_is_no_fault_of_a_file_ends_all(cluster: Any, run: eq.Run, tmp_path: Path) -> None:
    source = write_table(tmp_path / "a.csv", rows=3)
    broken = tmp_path / "broken"
    shutil.copytree(run.model_folder, broken)
    for weights in broken.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(RunError, match="the weights cannot be loaded"):
        [*on_ray([job(source, tmp_path / "out.csv")], str(broken), OPTIONS, workers=1)]
    assert not (tmp_path / "out.csv").exists()


# Without a cluster ---------------------------------------------------------------------------------------------------


def test_a_file_that_kills_its_workers_is_found_out(run: eq.Run, tmp_path: Path) -> None:
    import numpy as np

    good, bad = (job(write_table(tmp_path / f"{name}.csv", rows=3), tmp_path / "out" / f"{name}.csv") for name in "ab")
    (tmp_path / "out").mkdir()
    for lost in range(TRIES + 1):  # what so many lost workers leave behind
        (tmp_path / "out" / ".b.csv.tries").write_bytes(b"." * lost)
        scorer = FileScorer(str(run.model_folder), OPTIONS)
        found = scorer({"jobs": np.array([json.dumps([good, bad])], dtype=object)})["record"]
        first, second = map(json.loads, found)
        assert first["status"] == "scored"
        assert second["status"] == ("scored" if lost < TRIES else "failed")
        assert not [*(tmp_path / "out").glob(".*")]
    assert second["reason"] == f"b.csv: its worker was lost {TRIES} times, killed or out of memory"


def test_a_bug_is_told_as_one(run: eq.Run, tmp_path: Path) -> None:
    import numpy as np

    bad = job(write_table(tmp_path / "a.csv", rows=3), tmp_path / "out.csv")
    del bad["made_with"]
    (found,) = FileScorer(str(run.model_folder), OPTIONS)({"jobs": np.array([json.dumps([bad])], dtype=object)})[
        "record"
    ]
    assert json.loads(found)["bug"].rstrip().endswith("KeyError: 'made_with'")


def test_bundles(tmp_path: Path) -> None:
    sizes = {"huge": 3 * BUNDLE_BYTES, "large": BUNDLE_BYTES, **{f"{n}": 1000 + n for n in range(300)}}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    jobs = [{"path": str(tmp_path / name)} for name in sorted(sizes)]
    packed = bundles([*jobs, {"path": str(tmp_path / "gone")}], workers=2)
    names = [[Path(one["path"]).name for one in bundle] for bundle in packed]
    assert sorted(name for bundle in names for name in bundle) == sorted([*sizes, "gone"])
    assert names[:2] == [["huge"], ["large"]]  # what takes longest is handed out first
    assert all(len(bundle) <= BUNDLE_FILES for bundle in names)
    assert all(sum(sizes.get(name, 0) for name in bundle) <= BUNDLE_BYTES for bundle in names[1:])
    assert 5 <= len(names) <= 10  # not one for each of 300 files
    # Few small files: every worker gets some all the same.
    assert len(bundles(jobs[:8], workers=2)) >= 4
    assert bundles([], workers=2) == []


def test_a_missing_ray_is_told_with_the_line_that_installs_it(
    run: eq.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = write_table(tmp_path / "a.csv", rows=3)
    with pytest.raises(RecipeError, match=r'pip install "equipoise\[ray\]"'):
        eq.predict_files(run, source, tmp_path / "out", engine="ray")
