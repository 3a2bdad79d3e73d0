"""Many files in, one output for each: names, files that cannot be read, and runs that go on where they were stopped."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_table
from many_files import assert_as_by_itself, lines_of, start, trained, wait_for

import equipoise as eq
from equipoise import cli
from equipoise.errors import DataError, RunError
from equipoise.inference import Model, Scored, _many, _score
from equipoise.inference._manifest import open_manifest


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    return trained(tiny_backbone("bert"), tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def model(run: eq.Run) -> Model:
    return eq.load(run)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small tables in `in/`, which the current folder holds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("abc"):
        write_table(tmp_path / "in" / f"{name}.csv", rows=5 + seed, seed=seed)
    return tmp_path / "in"


def statuses(scored: Scored) -> dict[str, str]:
    return {Path(file.input).name: file.status for file in scored.files}


def test_each_file_gives_what_it_gives_by_itself(run: eq.Run, model: Model, inputs: Path, tmp_path: Path) -> None:
    with gzip.open(inputs / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "profit"}\n{"text": ""}\n')
    (inputs / "e.ndjson").write_text('{"text": "loss"}\n')
    pq.write_table(pa.table({"text": ["bank", "oil"], "n": [1, 2]}), inputs / "f.parquet")
    told: list[tuple[str, int, int]] = []
    scored = eq.predict_files(
        run, "in/*", "out", batch_rows=3, progress=lambda file, *counts: told.append((file.input, *counts))
    )
    assert [file.input for file in scored.files] == [f"in/{n}" for n in (
        "a.csv", "b.csv", "c.csv", "d.jsonl.gz", "e.ndjson", "f.parquet")]  # fmt: skip
    assert told == [(file.input, number, 6) for number, file in enumerate(scored.files, 1)]
    assert (scored.rows, scored.bad) == (5 + 6 + 7 + 2 + 1 + 2, 1)
    names = ["a.csv", "b.csv", "c.csv", "d.jsonl.gz", "e.jsonl", "f.parquet"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_manifest.jsonl", *names]
    scored = eq.predict_files(run, "in/*", "whole")
    for file in scored.files:
        assert_as_by_itself(model, Path(file.input), file.output, tmp_path)
    assert [(line["output"], line["status"], line["bad"]) for line in lines_of(tmp_path / "whole")] == [
        (name, "scored", int(name == "d.jsonl.gz")) for name in names
    ]


def test_folders_below_the_wildcard_stay_and_formats_are_chosen(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    for day in ("day=1", "day=2"):
        (inputs / day).mkdir()
        shutil.copy(inputs / "a.csv", inputs / day / "part.csv")
    # One file by two patterns is one file; another pattern's files stand beside those of the first.
    eq.predict_files(run, ["in/**/part.csv", "in/day=1/part.csv", "in/b.csv"], "out", format="parquet")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet"))
    assert found == ["b.parquet", "day=1/part.parquet", "day=2/part.parquet"]
    assert pq.read_table(tmp_path / "out" / "day=1" / "part.parquet").num_rows == 5


def test_a_bad_file_stops_no_other(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    (inputs / "empty.csv").touch()
    (inputs / "headline.csv").write_text("headline\nprofit\n")
    (inputs / "junk.parquet").write_bytes(b"\x00\x01junk" * 9)
    (inputs / "latin.csv").write_bytes("text\nprofit\nperte \xe9lev\xe9e\n".encode("latin-1"))
    (inputs / "notes.txt").write_text("none of ours")
    (inputs / "folder.csv").mkdir()
    os.mkfifo(inputs / "pipe.csv")
    (inputs / "gone.csv").symlink_to("nowhere.csv")
    scored = eq.predict_files(run, "in/*", "out")
    reasons = {Path(file.input).name: file.reason for file in scored.having("failed")}
    assert {name: status for name, status in statuses(scored).items() if status == "scored"}.keys() == {
        "a.csv", "b.csv", "c.csv", "latin.csv"
    }  # fmt: skip
    assert reasons.keys() == {"empty.csv", "headline.csv", "junk.parquet", "notes.txt", "pipe.csv", "gone.csv"}
    for name, words in {
        "empty.csv": "in/empty.csv is empty",
        "headline.csv": "in/headline.csv has no column 'text'",
        "junk.parquet": "in/junk.parquet: not a parquet file",
        "notes.txt": "in/notes.txt: cannot read files of kind '.txt'",
        "pipe.csv": "in/pipe.csv is no regular file",
        "gone.csv": "in/gone.csv: No such file or directory",
    }.items():
        assert (reasons[name] or "").startswith(words), reasons[name]
    assert {line["input"]: line.get("reason") for line in lines_of(tmp_path / "out") if line["status"] == "failed"} == {
        f"in/{name}": reason for name, reason in reasons.items()
    }
    assert scored.bad == 1  # the row that is no UTF-8 stays in its place
    assert "not valid UTF-8" in (tmp_path / "out" / "latin.csv").read_text().splitlines()[2]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_the_record_is_no_input_of_the_next_one(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    eq.predict_files(run, "in/*.csv", "out", format="jsonl")
    again = eq.predict_files(run, "out/*.jsonl", "more")
    assert [file.input for file in again.files] == ["out/a.jsonl", "out/b.jsonl", "out/c.jsonl"]
    assert "predicted/polarity" in json.loads((tmp_path / "more" / "a.jsonl").read_text().splitlines()[0])


def test_a_name_that_is_no_unicode(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    odd = os.fsencode(inputs) + b"/caf\xe9.csv"
    shutil.copy(inputs / "a.csv", odd)
    for status in ("scored", "kept"):
        assert statuses(eq.predict_files(run, "in/caf*", "out")) == {os.fsdecode(b"caf\xe9.csv"): status}


# Going on ------------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_kept_and_what_changed_is_done_again(
    run: eq.Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def watched(model: Any, job: Any) -> dict[str, Any]:
        made.append(job["output"])
        return _score.score_file(model, job)

    monkeypatch.setattr(_many, "score_file", watched)

    def again(**settings: Any) -> dict[str, str | None]:
        made.clear()
        scored = eq.predict_files(run, "in/*.csv", "out", **settings)
        assert [name.removesuffix(".csv") for name in made] == [
            Path(file.input).stem for file in scored.files if file.status != "kept"
        ]
        return {Path(file.input).stem: file.redone for file in scored.files if file.status == "scored"}

    assert again() == {"a": None, "b": None, "c": None}
    assert again() == {}
    data = (inputs / "a.csv").read_bytes()
    (inputs / "a.csv").write_bytes(data.replace(b"positive", b"Positive", 1))  # of the same size
    assert again() == {"a": "the input is another one"}
    (tmp_path / "out" / "a.csv").unlink()
    (tmp_path / "out" / "b.csv").write_text("text\n")
    (inputs / "d.csv").write_text("text\nprofit\n")
    assert again() == {"a": "its output is gone", "b": "its output was changed", "d": None}
    assert again(batch_rows=7) == dict.fromkeys("abcd", "it was made with other settings")
    other = tmp_path / "other"
    shutil.copytree(run.folder, other)
    sidecar = other / "model" / "multitask.json"
    sidecar.write_text(sidecar.read_text() + "\n")
    made.clear()
    scored = eq.predict_files(other, "in/*.csv", "out", batch_rows=7)
    assert {file.redone for file in scored.files} == {"the model is another one"}
    assert len(made) == 4


def test_no_model_is_loaded_where_nothing_is_to_do(run: eq.Run, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eq.predict_files(run, "in/*.csv", "out")
    monkeypatch.setattr(_score, "load", lambda *a, **k: pytest.fail("it was loaded"))
    assert set(statuses(eq.predict_files(run, "in/*.csv", "out")).values()) == {"kept"}


def test_an_output_of_an_earlier_run_does_not_outlive_its_input(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    eq.predict_files(run, "in/*.csv", "out")
    (inputs / "a.csv").write_bytes(b"")
    found = eq.predict_files(run, "in/*.csv", "out")
    assert statuses(found) == {"a.csv": "failed", "b.csv": "kept", "c.csv": "kept"}
    assert found.files[0].redone == "the input is another one"
    assert not (tmp_path / "out" / "a.csv").exists()
    # A file that failed is tried again; it needs no change of ours to go well.
    write_table(inputs / "a.csv", rows=3)
    assert statuses(eq.predict_files(run, "in/*.csv", "out"))["a.csv"] == "scored"


def test_a_file_that_changes_while_it_is_read_is_not_trusted(
    run: eq.Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(model: Model, source: Path, output: Path, **settings: Any) -> Any:
        counts = eq.predict_file(model, source, output, **settings)
        with source.open("a") as file:
            file.write("9,late,0,neutral,\n")
        return counts

    monkeypatch.setattr(_score, "predict_file", meanwhile)
    found = eq.predict_files(run, "in/a.csv", "out")
    assert found.files[0].reason == "in/a.csv changed while it was read. Run the command again"
    assert not (tmp_path / "out" / "a.csv").exists()


def test_a_killed_run_goes_on(run: eq.Run, model: Model, inputs: Path, tmp_path: Path) -> None:
    write_table(inputs / "d.csv", rows=20000, seed=9)
    process = start(tmp_path, str(run.folder), "in/*.csv", "-o", "out/")
    wait_for(lambda: [*(tmp_path / "out").glob(".d.csv.*.tmp")] if (tmp_path / "out").exists() else None, process)
    process.kill()
    process.communicate()
    assert [line["output"] for line in lines_of(tmp_path / "out")] == ["a.csv", "b.csv", "c.csv"]
    assert not (tmp_path / "out" / "d.csv").exists()
    before = (tmp_path / "out" / "a.csv").stat().st_mtime_ns
    with (tmp_path / "out" / "_manifest.jsonl").open("ab") as file:
        file.write(b'{"output": "d.cs')  # what a lost power supply may leave
    found = eq.predict_files(run, "in/*.csv", "out", threads=1)
    assert statuses(found) == {"a.csv": "kept", "b.csv": "kept", "c.csv": "kept", "d.csv": "scored"}
    assert (tmp_path / "out" / "a.csv").stat().st_mtime_ns == before
    assert [line["output"] for line in lines_of(tmp_path / "out")] == ["a.csv", "b.csv", "c.csv", "d.csv"]
    assert not [*(tmp_path / "out").glob(".*")]
    for file in found.files[:3]:
        assert_as_by_itself(model, Path(file.input), file.output, tmp_path)


# The record ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mine": 1}\n', "_manifest.jsonl is no record of equipoise predict. Choose another folder"),
        ("\x00\xff", "is no record of equipoise predict"),
        ('{"equipoise": "predictions", "format_version": 2}\n', r"another version.*format 2, this one reads 1"),
    ],
)
def test_a_record_that_is_none_of_ours_stays(run: eq.Run, inputs: Path, text: str, message: str) -> None:
    Path("out").mkdir()
    Path("out/_manifest.jsonl").write_text(text)
    with pytest.raises(RunError, match=message):
        eq.predict_files(run, "in/*.csv", "out")
    assert Path("out/_manifest.jsonl").read_text() == text
    assert [*Path("out").iterdir()] == [Path("out/_manifest.jsonl")]


def test_two_at_once_do_not_share_a_folder(run: eq.Run, inputs: Path) -> None:
    with open_manifest(Path("out")), pytest.raises(RunError, match="another prediction is writing to out"):
        eq.predict_files(run, "in/*.csv", "out")
    assert set(statuses(eq.predict_files(run, "in/*.csv", "out")).values()) == {"scored"}


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "output", "settings", "message"),
    [
        ("in/*.parquet", "out", {}, r"no file fits 'in/\*\.parquet' \(looked in .*in\)"),
        ("nowhere/**/*.csv", "out", {}, r"no file fits 'nowhere/\*\*/\*\.csv'"),
        ("in/z.csv", "out", {}, r"in/z\.csv: no such file"),
        ("in", "out", {}, r"in is a folder\. Name its files, such as 'in/\*\.parquet'"),
        ([], "out", {}, "no input was named"),
        ("hub:org/name", "out", {}, "hub:org/name: a folder of outputs takes files"),
        (["in/a.csv", "more/a.csv"], "out", {}, "in/a.csv and more/a.csv would both be written to out/a.csv"),
        (["in/a.csv", "in/a.tsv"], "out", {"format": "jsonl"}, "in/a.csv and in/a.tsv would both be written"),
        ("in/*.csv", "in", {}, "in/a.csv: the output would replace an input"),
        ("**/*.csv", "out", {}, r"the output would be among the inputs '\*\*/\*\.csv' of the next run"),
        ("in/*.csv", "out", {"format": "xlsx"}, "cannot write files of kind 'xlsx'. Known: csv, tsv, jsonl, parquet"),
        ("in/*.csv", "out", {"engine": "rya"}, "no engine 'rya'. Did you mean 'ray'"),
        ("in/*.csv", "out", {"workers": 2}, "workers=2 goes with the engine ray"),
        ("in/*.csv", "out", {"threads": 0}, "threads must be 1 or more, found 0"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(
    run: eq.Run, inputs: Path, asked: Any, output: str, settings: dict[str, Any], message: str
) -> None:
    shutil.copy(inputs / "a.csv", inputs / "a.tsv")
    Path("more").mkdir()
    shutil.copy(inputs / "a.csv", "more/a.csv")
    with pytest.raises(DataError, match=message):
        eq.predict_files(run, asked, output, **settings)
    assert not Path("out").exists()
    assert sorted(path.name for path in inputs.iterdir()) == ["a.csv", "a.tsv", "b.csv", "c.csv"]


def test_an_output_folder_that_is_a_file(run: eq.Run, inputs: Path) -> None:
    Path("out").touch()
    with pytest.raises(RunError, match="the folder 'out' cannot be used"):
        eq.predict_files(run, "in/*.csv", "out")


# The command line ----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["equipoise", "predict", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0), capsys.readouterr().err


def test_the_command(
    run: eq.Run, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(run.folder)
    assert command(monkeypatch, capsys, where, "in/a.csv", "in/b.csv", "-o", "out") == (
        0, "2 files (2 scored), 11 rows -> out\n",
    )  # fmt: skip
    (inputs / "bad.csv").touch()
    (inputs / "b.csv").write_text("text\nprofit\n,\n")
    code, told = command(monkeypatch, capsys, where, "in/*.csv", "-o", "out/", "--format", "csv")
    assert code == 2
    assert told.splitlines() == [
        "scored again, the input is another one: in/b.csv",
        "failed: in/bad.csv is empty. It needs a header line and rows.",
        "4 files (2 scored, 1 kept of an earlier run, 1 failed), 14 rows, 1 of them not predicted "
        "(see the column 'error') -> out/",
        "error: 1 of 4 files could not be scored; the reasons are above and in out/_manifest.jsonl. "
        "Mend them and run the same command again: the others are kept",
    ]
    # One file with a name of its own goes as ever.
    assert command(monkeypatch, capsys, where, "in/a.csv", "-o", "a.jsonl") == (0, "5 rows -> a.jsonl\n")
    assert len(Path("a.jsonl").read_text().splitlines()) == 5
    assert "polarity" in json.loads(Path("a.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/*.csv"], "in/*.csv: many inputs need a folder: -o out/"),
        (["in/a.csv", "in/b.csv", "-o", "all.csv"], "in/a.csv in/b.csv: many inputs need a folder: -o out/"),
        (["in/a.csv", "-o", "a.jsonl", "--engine", "ray"], "--engine ray goes with a folder of outputs. Name one"),
        (["in/a.csv", "--format", "csv"], "--format csv goes with a folder of outputs"),
        (["-", "in/a.csv", "-o", "out/"], "standard input (-) goes alone, into one file"),
        (["in/*.csv", "-o", "out/", "--engine", "spark"], "no engine 'spark'. Available: local, ray"),
    ],
)
def test_what_the_command_refuses(
    run: eq.Run, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    code, told = command(monkeypatch, capsys, str(run.folder), *arguments)
    assert (code, told.startswith(f"error: {message}")) == (2, True), told
    assert sorted(path.name for path in inputs.parent.iterdir()) == ["in"]


def test_ctrl_c_keeps_what_is_finished(run: eq.Run, inputs: Path, tmp_path: Path) -> None:
    def interrupted(*told: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        eq.predict_files(run, "in/*.csv", "out", progress=interrupted)
    assert [line["output"] for line in lines_of(tmp_path / "out")] == ["a.csv"]
    assert statuses(eq.predict_files(run, "in/*.csv", "out")) == {"a.csv": "kept", "b.csv": "scored", "c.csv": "scored"}
