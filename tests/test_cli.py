"""The command line as a user has it: every command on a tiny model, and every mistake as one line and exit code 2."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import write_table

from equipoise import cli

TASKS = ["score", "label", "topic"]  # as `init` names them, after the columns of `write_table`
Backbone = Callable[[str], Path]


@dataclass
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def equipoise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, through the same `main` as the console script."""

    def run(*arguments: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["equipoise", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        found = capsys.readouterr()
        return Done(int(stopped.value.code or 0), found.out, found.err)

    return run


def start(*arguments: object, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command as a process of its own."""
    script = Path(sys.executable).with_name("equipoise")
    return subprocess.run(
        [str(script), *map(str, arguments)], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone) -> Path:
    """A folder in which somebody has run init, validate and train, each as a process of its own."""
    folder = tmp_path_factory.mktemp("workplace")
    write_table(folder / "table.csv")
    made = start("init", "table.csv", "-o", "recipe.yaml", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "equipoise validate recipe.yaml" in made.stderr
    settings = [
        f"model.backbone={tiny_backbone('bert')}",
        "model.max_length=24",
        "data.test=0.2",
        "data.validation=0.2",
    ]
    settings += ["training.epochs=1", "training.batch_size=16", "training.precision=fp32", "output=runs/tiny"]
    text = yaml.safe_load((folder / "recipe.yaml").read_text())
    for setting in settings:
        section, _, key = setting.partition("=")[0].rpartition(".")
        (text[section] if section else text)[key] = yaml.safe_load(setting.partition("=")[2])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    trained = start("train", "recipe.yaml", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    assert "test split" in trained.stdout
    assert trained.stdout.rstrip().endswith("run folder: runs/tiny")
    return folder


@pytest.fixture
def at_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    return workplace


def assert_one_error(done: Done, *words: str) -> None:
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err
    assert done.err.endswith("\n")
    for word in words:
        assert word in done.err


# What works ----------------------------------------------------------------------------------------------------------


def test_init_writes_a_recipe_that_keeps_its_reasons(equipoise: Command, at_work: Path) -> None:
    done = equipoise("init", "table.csv", "-o", "-")
    assert done.code == 0
    recipe = yaml.safe_load(done.out)
    assert list(recipe["tasks"]) == TASKS
    assert recipe["data"]["train"] == "table.csv"
    assert "# 3 classes" in done.out


def test_a_recipe_in_another_folder_still_finds_its_table(equipoise: Command, at_work: Path) -> None:
    assert equipoise("init", "table.csv", "-o", "below/recipe.yaml").code == 0
    assert yaml.safe_load(Path("below/recipe.yaml").read_text())["data"]["train"] == "../table.csv"


def test_validate_says_what_training_would_do_and_writes_nothing(equipoise: Command, at_work: Path) -> None:
    before = sorted(at_work.rglob("*"))
    done = equipoise("validate", "recipe.yaml", "--set", "training.epochs=2")
    assert done.code == 0
    assert "rows read: 120, rejected: 0" in done.out
    assert re.search(r"steps: \d+", done.out)
    assert "recipe.yaml is sound" in done.out
    assert sorted(at_work.rglob("*")) == before


def test_evaluate_as_a_table_and_as_json(equipoise: Command, at_work: Path) -> None:
    done = equipoise("evaluate", "runs/tiny", "--data", "table.csv")
    assert done.code == 0
    assert "macro_f1" in done.out
    done = equipoise("evaluate", "runs/tiny", "--data", "table.csv", "--json")
    found = json.loads(done.out)
    assert list(found["tasks"]) == TASKS
    assert found["rows"] == 120


def test_predict_keeps_rows_and_columns_in_every_format(equipoise: Command, at_work: Path) -> None:
    Path("new.csv").write_text("id,text\n7,profit rise strong\n8,\n9,loss fall weak\n")
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        done = equipoise("predict", "runs/tiny", "new.csv", "-o", name)
        assert (done.code, done.out) == (0, "")
        assert done.err == f"3 rows, 1 of them not predicted (see the column 'error') -> {name}\n"
    with open("out.csv", newline="") as file:
        as_csv = list(csv.DictReader(file))
    as_jsonl = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    as_parquet = pq.read_table("out.parquet").to_pylist()
    assert list(as_csv[0]) == list(as_jsonl[0]) == list(as_parquet[0])
    assert list(as_csv[0])[:3] == ["id", "text", "score"]
    for rows in (as_csv, as_jsonl, as_parquet):
        assert [str(row["id"]) for row in rows] == ["7", "8", "9"]
        assert "empty" in rows[1]["error"]
        assert not rows[1]["label"]
        assert not rows[0]["error"]
    assert as_jsonl == as_parquet
    assert [row["label"] for row in as_csv if row["label"]] == [row["label"] for row in as_jsonl if row["label"]]
    assert sum(as_jsonl[0][f"label/{name}"] for name in ("negative", "neutral", "positive")) == pytest.approx(1)


def test_predict_reads_lines_and_writes_json_lines(equipoise: Command, at_work: Path) -> None:
    done = equipoise("predict", "runs/tiny", "-", stdin="profit rise\nloss fall")
    assert done.code == 0
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["text"] for row in rows] == ["profit rise", "loss fall"]
    assert set(TASKS) <= set(rows[0])
    assert done.err == "2 rows\n"


def test_predict_in_a_pipe_as_a_process(workplace: Path) -> None:
    done = start("predict", "runs/tiny", "-", cwd=workplace, stdin="profit rise\n")
    assert done.returncode == 0
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["profit rise"]
    assert done.stderr == "1 row\n"


def test_an_exported_task_is_a_stock_checkpoint(equipoise: Command, at_work: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import equipoise as eq

    done = equipoise("export", "runs/tiny", "--task", "label", "-o", "label-model")
    assert done.code == 0
    model = AutoModelForSequenceClassification.from_pretrained("label-model")
    tokenizer = AutoTokenizer.from_pretrained("label-model")
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    text = "profit rise strong"
    with torch.no_grad():
        found = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    ours = eq.load("runs/tiny", precision="fp32").predict([text]).iloc[0]
    assert found == pytest.approx([ours["label/negative"], ours["label/neutral"], ours["label/positive"]], abs=1e-6)
    assert_one_error(equipoise("export", "runs/tiny", "--task", "label", "-o", "label-model"), "is not empty")


def test_recipe_is_printed_short_and_resolved(equipoise: Command, at_work: Path) -> None:
    short = yaml.safe_load(equipoise("recipe", "recipe.yaml").out)
    resolved = yaml.safe_load(equipoise("recipe", "recipe.yaml", "--resolved", "--set", "training.epochs=2").out)
    assert "weight_decay" not in short.get("training", {})
    assert resolved["training"]["weight_decay"] == 0.01
    assert resolved["training"]["epochs"] == 2
    assert list(short["tasks"]) == list(resolved["tasks"]) == TASKS


def test_the_schema_is_json_and_knows_every_task_kind(equipoise: Command) -> None:
    done = equipoise("recipe", "--schema")
    assert done.code == 0
    schema = json.loads(done.out)
    branches = schema["properties"]["tasks"]["additionalProperties"]["oneOf"]
    assert len(branches) >= 4


def test_balancers_are_listed(equipoise: Command) -> None:
    assert {row["method"] for row in json.loads(equipoise("balancers", "--json").out)} >= {"dao", "equal", "fixed"}
    assert "dao" in equipoise("balancers").out


def test_version_needs_no_command(equipoise: Command) -> None:
    from equipoise import __version__

    assert equipoise("--version") == Done(0, f"equipoise {__version__}\n", "")


def test_help_knows_every_command(equipoise: Command) -> None:
    done = equipoise("--help")
    assert done.code == 0
    for command in ("init", "validate", "recipe", "train", "evaluate", "predict", "export", "balancers", "demo"):
        assert re.search(rf"\b{command}\b", done.out)
        assert equipoise(command, "--help").code == 0


# What does not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["validate", "nope.yaml"], ["nope.yaml", "no such recipe"]),
        (["train", "nope.yaml"], ["nope.yaml", "no such recipe"]),
        (["train"], ["RECIPE", "--resume"]),
        (["recipe"], ["--schema"]),
        (["init", "nope.csv", "-o", "-"], ["nope.csv", "no such file"]),
        (["init", "table.csv", "-o", "recipe.yaml"], ["recipe.yaml exists", "--force"]),
        (["validate", "recipe.yaml", "--set", "training.epoch=2"], ["training.epoch", "Did you mean 'epochs'?"]),
        (["validate", "recipe.yaml", "--set", "training.epochs"], ["KEY=VALUE"]),
        (["validate", "recipe.yaml", "--set", "training.epochs=many"], ["training.epochs", "'many'"]),
        (["validate", "recipe.yaml", "--set", "balance.method=doa"], ["Did you mean 'dao'?"]),
        (["validate", "recipe.yaml", "--set", "tasks.label.column=lable"], ["'lable'", "Did you mean 'label'?"]),
        (["validate", "recipe.yaml", "--set", "data.text=body"], ["'body'", "table.csv"]),
        (["validate", "recipe.yaml", "--set", "model.backbone=./nope"], ["model.backbone", "./nope"]),
        (["train", "recipe.yaml"], ["a run in", "--resume", "--overwrite"]),
        (["train", "recipe.yaml", "-o", "."], ["output: the folder '.'", "Choose another"]),
        (["train", "--resume", "runs/tiny"], ["finished"]),
        (["train", "--resume", "runs/nope"], ["no run", "runs/nope"]),
        (["train", "--resume", "runs/tiny", "--overwrite"], ["--overwrite"]),
        (["predict", "runs/nope", "table.csv"], ["no run folder", "runs/nope"]),
        (["predict", "runs/tiny", "nope.csv"], ["nope.csv", "no such file"]),
        (["predict", "runs/tiny", "notext.csv"], ["notext.csv", "no column 'text'", "body"]),
        (["predict", "runs/tiny", "table.csv", "-o", "table.csv"], ["replace the input"]),
        (["predict", "runs/tiny", "table.csv", "-o", "out.xlsx"], ["out.xlsx", ".parquet"]),
        (["evaluate", "runs/tiny", "--data", "notext.csv"], ["no column 'text'"]),
        (["evaluate", "runs/tiny", "--data", "nolabel.csv"], ["no label column", "score"]),
        (["export", "runs/tiny", "--task", "lable", "-o", "elsewhere"], ["no task 'lable'", "label"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_exit_code_2(
    equipoise: Command, at_work: Path, arguments: list[str], words: list[str]
) -> None:
    Path("notext.csv").write_text("body\nprofit rise\n")
    Path("nolabel.csv").write_text("text\nprofit rise\n")
    table = Path("table.csv").read_bytes()
    assert_one_error(equipoise(*arguments), *words)
    assert Path("table.csv").read_bytes() == table
    assert not Path("elsewhere").exists()


def test_several_problems_are_told_at_once(equipoise: Command, at_work: Path) -> None:
    done = equipoise("validate", "recipe.yaml", "--set", "training.epoch=2", "--set", "model.bakbone=x")
    assert_one_error(done, "2 problems", "training.epoch", "model.bakbone")


def test_an_error_as_a_process_has_a_traceback_only_with_debug(workplace: Path) -> None:
    done = start("recipe", "nope.yaml", cwd=workplace)
    assert_one_error(Done(done.returncode, done.stdout, done.stderr), "nope.yaml")
    done = start("--debug", "recipe", "nope.yaml", cwd=workplace)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "RecipeError" in done.stderr
