import contextlib
import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from equipoise import balance, recipe
from equipoise.errors import RecipeError
from equipoise.tasks import available, kind

GOOD = {
    "data": {"train": "train.csv"},
    "tasks": {"polarity": {"type": "regression", "range": [-1, 1]}, "label": {"type": "classification"}},
}

RECIPES = {
    "defaults": {},
    "adapter": {"model": {"adapter": {"rank": 4, "targets": ["query"], "merge": False}, "pooling": "mean"}},
    "default adapter": {"model": {"adapter": {}}},
    "tables": {
        "data": {
            "train": [
                {"path": "a.csv", "tasks": ["polarity"], "validation": "a-valid.csv"},
                {"path": "hub:org/name:config", "tasks": ["label"], "text": "title"},
            ],
            "validation": None,
            "test": 0.2,
        }
    },
    "derived": {
        "tasks": {
            "polarity": {"type": "regression"},
            "band": {"type": "classification", "from": "polarity", "bins": 3},
            "sign": {"type": "classification", "from": "polarity", "thresholds": [0], "labels": ["down", "up"]},
            "stars": {"type": "ordinal", "column": "1e-4"},
            "tags": {"type": "multilabel"},
        }
    },
    "balance": {"balance": {"method": "fixed", "weights": {"polarity": 1, "label": 0.5}, "shared": "last_layer"}},
    "balance defaults": {"balance": {"method": "dao", "smoothing": 0.9}},
    "training": {
        "training": {"learning_rate": 2.0e-5, "epochs": 0.5, "arguments": {"fsdp": "full"}, "select": "label.mcc"}
    },
    "odd text": {"data": {"train": "a.csv", "text": "1e5"}, "output": "yes"},
}


def changed(**changes):
    """GOOD with `section__key=value` put in."""
    data = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *sections, last = path.split("__")
        node = data
        for part in sections:
            node = node.setdefault(part, {})
        node[last] = value
    return data


def problems(data, overrides=()):
    """The lines of the one error that a recipe gives."""
    with pytest.raises(RecipeError) as error:
        recipe.load(data, overrides)
    head, *lines = str(error.value).split("\n  - ")
    assert head == f"recipe: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    assert not any("\n" in line for line in lines)
    return lines


def test_a_method_may_stand_alone_and_auto_is_written_out_as_what_it_stands_for():
    assert recipe.load(GOOD | {"balance": "famo"}) == recipe.load(GOOD | {"balance": {"method": "famo"}})
    assert recipe.load(GOOD, ["balance=famo"]).balance.method == "famo"
    chosen = recipe.load(GOOD | {"balance": "auto"})
    assert chosen == recipe.load(GOOD) == recipe.load(GOOD | {"balance": {"method": "dao"}})
    assert "method: dao" in recipe.dump(chosen), "a later default changes no old run"
    slower = recipe.load(GOOD | {"balance": {"method": "auto", "smoothing": 0.9}})
    assert slower.balance.options["smoothing"] == 0.9


def test_smallest_recipe_has_every_default():
    found = recipe.load(GOOD)
    assert found.model == recipe.ModelSettings()
    assert found.training == recipe.TrainingSettings()
    assert (found.balance.method, found.balance.shared) == ("dao", "representation")
    assert found.balance.options == balance.defaults_of(balance.DAO)  # a later default must not change an old run
    assert found.data.validation == 0.1
    assert found.output == "runs/run"


def test_all_problems_are_told_together():
    data = changed(
        model__max_length="long", training__epoch=3, tasks__label={"type": "clasification"}, balance={"method": "doa"}
    )
    data["outptu"] = "x"
    lines = problems(data)
    assert len(lines) == 5
    for start in (
        "tasks.label.type: no task type 'clasification'. Did you mean 'classification'?",
        "model.max_length: input should be a valid integer",
        "training.epoch: unknown key. Did you mean 'epochs'? Valid keys: epochs, max_steps,",
        "outptu: unknown key. Did you mean 'output'? Valid keys: model, data, tasks, balance, training, output",
        "balance: no balancer 'doa'. Did you mean 'dao'? Available: ",
    ):
        assert [line for line in lines if line.startswith(start)], start


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training__batch_size": True}, "training.batch_size: input should be a number, found True"),
        ({"training__batch_size": 1.5}, "training.batch_size: input should be a valid integer"),
        ({"training__epochs": float("inf")}, "training.epochs: input should be a finite number, found inf"),
        ({"training__epochs": float("nan")}, "training.epochs: input should be a finite number, found nan"),
        ({"training__epochs": 0}, "training.epochs: input should be greater than 0, found 0"),
        (
            {"training__schedule": "linaer"},
            "training.schedule: input should be 'linear', 'cosine' or 'constant', found 'linaer'. Did you mean 'line",
        ),
        ({"training__trackers": "wandb"}, "training.trackers: input should be a valid list, found 'wandb'"),
        (
            {"training__select": "polarty.mse"},
            "training.select: 'polarty.mse' is neither mean_rank nor TASK.METRIC. Did you mean 'polarity.mse'?",
        ),
        ({"training__select": "polarity"}, "training.select: 'polarity' is neither"),
        ({"training__select": "polarity."}, "training.select: 'polarity.' is neither"),
        (
            {"training__early_stopping": 2, "data__validation": None},
            "training.early_stopping: needs data.validation, which is null",
        ),
        ({"model": "minilm"}, "model: input should be a mapping, found 'minilm'"),
        ({"model__adapter": "lora"}, "model.adapter: input should be a mapping, found 'lora'"),
        (
            {"model__adapter": {"rnk": 3}},
            "model.adapter.rnk: unknown key. Did you mean 'rank'? Valid keys: type, rank,",
        ),
        ({"data": None}, "data: missing"),
        ({"data": {}}, "data.train: missing"),
        ({"data__train": 3}, "data.train: input should be a valid string or a valid list, found 3"),
        ({"data__train": []}, "data.train: the list of tables is empty"),
        (
            {"data__train": [{"path": "a", "tsks": ["label"]}]},
            "data.train.0.tsks: unknown key. Did you mean 'tasks'? Valid keys: path, validation, test, text, tasks",
        ),
        ({"data__train": [{"tasks": ["label"]}]}, "data.train.0.path: missing"),
        (
            {"data__train": [{"path": "a"}, {"path": "b", "tasks": ["lable"]}]},
            "data.train.1.tasks: no task 'lable'. Did you mean 'label'? Tasks: polarity, label",
        ),
        (
            {"data__train": [{"path": "a"}, {"path": "b", "tasks": []}]},
            "data.train.1.tasks: names no task. null means all of them",
        ),
        (
            {"data__train": [{"path": "a", "tasks": ["label"]}]},
            "tasks.polarity: no table of data.train carries its labels",
        ),
        ({"data__validation": 2}, "data.validation: input should be less than 1, found 2"),
        ({"data__validation": True}, "data.validation: input should be a number, found True"),
        ({"data__text": ["a", "b", "c"]}, "data.text: tuple should have at most 2 items"),
        ({"tasks": {}}, "tasks: expected a mapping of task names to settings, found {}"),
        ({"tasks": ["polarity"]}, "tasks: expected a mapping of task names to settings, found ['polarity']"),
        ({"tasks__label": "classification"}, "tasks.label.type: missing. Expected one of classification, "),
        ({"tasks__label": {"column": "x"}}, "tasks.label.type: missing. Expected one of classification, "),
        (
            {"tasks__label": {"type": "classification", "bin": 3}},
            "tasks.label.bin: unknown key. Did you mean 'bins'? Valid keys: type, column, ",
        ),
        (
            {"tasks__polarity": {"type": "regression", "range": [1, -1]}},
            "tasks.polarity: range must go up, not from 1 to -1",
        ),
        ({"tasks__polarity": {"type": "regression", "range": [1]}}, "tasks.polarity.range.1: missing"),
        (
            {"tasks__band": {"type": "classification", "from": "label", "bins": 3}},
            "tasks.band.from: 'label' is not a regression task. Regression tasks: polarity",
        ),
        (
            {"tasks__band": {"type": "classification", "from": "polrity", "bins": 3}},
            "tasks.band.from: 'polrity' is not a regression task. Did you mean 'polarity'?",
        ),
        (
            {"tasks__a/b": {"type": "regression"}},
            "tasks.a/b: a task's name is text made of letters, digits, '_', '-' and spaces, found 'a/b'",
        ),
        ({"balance": 3}, "balance: input should be a mapping, found 3"),
        ({"balance": "dua"}, "balance: no balancer 'dua'. Did you mean 'dwa'"),
        (
            {"training__learning_rate": "fast"},
            "training.learning_rate: input should be a valid number or 'auto', found 'fa",
        ),
        ({"training__learning_rate": -1}, "training.learning_rate: input should be greater than 0, found -1"),
        ({"balance__method": 3}, "balance.method: input should be a valid string, found 3"),
        (
            {"balance__smothing": 0.5},
            "balance: balancer 'dao' has no setting 'smothing'. Did you mean 'smoothing'? Settings: smoothing, ",
        ),
        ({"balance__name": "dao"}, "balance.name: unknown key"),
        ({"balance__task_names": []}, "balance.task_names: unknown key"),
        ({"balance__shared": "adapter"}, "balance.shared: 'adapter' needs model.adapter, which is null"),
        ({"balance": {"method": "fixed", "weights": {"polarity": 1}}}, "balance: weights lack a number for label"),
    ],
)
def test_one_problem(changes, line):
    (found,) = problems(changed(**changes))
    assert found.startswith(line)


@pytest.mark.parametrize("method", balance.available())
def test_balancers_settings_of_odd_types_are_told(method):
    from equipoise.balance._registry import settings_of

    for setting in settings_of(balance.available()[method]):
        for odd in ("much", [1], {"a": 1}, float("nan"), -1, None, True):
            with contextlib.suppress(RecipeError):  # no other kind of error
                recipe.load(changed(balance={"method": method, setting: odd}))


def test_keys_that_are_no_text():
    data = changed()
    data[3] = 4
    assert problems(data) == ["3: keys should be strings, found 3"]
    assert problems(changed(tasks={1: {"type": "regression"}}))[0].startswith("tasks.1: a task's name is text made of")


def test_long_values_are_cut_in_messages():
    (line,) = problems(changed(model__max_length=["x" * 5000]))
    assert len(line) < 400


def test_section_with_nothing_in_it_is_its_default():
    assert recipe.load(changed(model=None, balance=None, training=None, output=None)) == recipe.load(GOOD)


# Round trips


@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_dump_and_load_give_an_equal_recipe(tmp_path, name, defaults):
    found = recipe.load({**copy.deepcopy(GOOD), **RECIPES[name]})
    text = recipe.dump(found, defaults)
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    again = recipe.load(tmp_path / "again.yaml")
    assert again == found
    assert recipe.dump(again, defaults) == text


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", " ", "1e-4", "null", "a\rb"])
def test_dump_and_load_keep_every_text(tmp_path, text):
    arguments = {f"key{text}": text, "list": [text]}
    found = recipe.load(changed(training__arguments=arguments, tasks__label__labels=["good", f"bad{text}."]))
    (tmp_path / "again.yaml").write_text(recipe.dump(found), encoding="utf-8", newline="")
    again = recipe.load(tmp_path / "again.yaml")
    assert again == found
    assert again.training.arguments == arguments


def test_dump_writes_every_default_out():
    data = yaml.safe_load(recipe.dump(recipe.load(GOOD)))
    for section, settings in (
        ("model", recipe.ModelSettings),
        ("data", recipe.DataSettings),
        ("training", recipe.TrainingSettings),
    ):
        assert list(data[section]) == list(settings.model_fields)
    for name, task in GOOD["tasks"].items():
        fields = kind(task["type"]).Settings.model_fields
        assert set(data["tasks"][name]) == {field.alias or key for key, field in fields.items()}


def test_dump_without_defaults_shows_what_differs():
    found = recipe.load(changed(training__epochs=4, model__max_length=64, model__adapter={}))
    assert yaml.safe_load(recipe.dump(found, defaults=False)) == {
        "model": {"adapter": {"type": "lora"}, "max_length": 64},
        "data": {"train": str(Path("train.csv").resolve())},
        "tasks": GOOD["tasks"],
        "balance": {"method": "dao"},
        "output": "runs/run",
    }


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)


@given(
    column=WORDS,
    output=WORDS,
    rate=st.floats(min_value=1e-300, max_value=1e300),
    low=st.floats(-1e6, 1e6),
    length=st.integers(4, 10**9),
    defaults=st.booleans(),
)
def test_any_text_and_number_comes_back(column, output, rate, low, length, defaults):
    task = {"type": "regression", "column": column, "range": [low, low + 1]}
    data = {"data": {"train": "/a.csv", "text": [column, "b"]}, "tasks": {"a b": task}, "output": output}
    found = recipe.load(data | {"training": {"learning_rate": rate}, "model": {"max_length": length}})
    assert recipe.parse(recipe._recipe_yaml.load(recipe.dump(found, defaults))) == found


# The schema for editors


def test_schema_knows_every_key_and_kind():
    found = recipe.schema()
    assert json.loads(json.dumps(found)) == found
    assert list(found["properties"]) == list(recipe.Recipe.model_fields)
    assert found["additionalProperties"] is False
    assert set(found["required"]) == {"data", "tasks"}
    branches = found["properties"]["tasks"]["additionalProperties"]["oneOf"]
    assert {branch["properties"]["type"]["const"] for branch in branches} == set(available())
    assert {"classification", "multilabel", "ordinal", "regression"} <= set(available())
    for branch in branches:
        assert branch["additionalProperties"] is False
        assert "type" in branch["required"]  # else a task without one would fit several branches
    classes = next(b for b in branches if b["properties"]["type"]["const"] == "classification")
    assert "from" in classes["properties"]
    assert "source" not in classes["properties"]


def test_schema_is_closed_but_for_the_balancers_settings_and_describes_every_key():
    found = recipe.schema()
    for name, section in found["$defs"].items():
        if section.get("type") == "object":
            assert section["additionalProperties"] is (name == "BalanceSettings"), name
            assert all("description" in value for value in section["properties"].values()), name


def test_schema_refers_to_nothing_that_is_not_there():
    found = recipe.schema()

    def references(node):
        if isinstance(node, dict):
            yield from [node["$ref"]] if "$ref" in node else []
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(found):
        assert reference.removeprefix("#/$defs/") in found["$defs"]


def test_recipes_are_read_without_torch():
    code = "import sys, equipoise.recipe as r; r.schema(); assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tables_of_single_texts_and_of_pairs_do_not_mix():
    tables = [
        {"path": "a.csv", "tasks": ["polarity"]},
        {"path": "b.csv", "tasks": ["label"], "text": ["title", "body"]},
    ]
    with pytest.raises(RecipeError, match=r"data\.train: some tables have one text column and some a pair"):
        recipe.load(changed(data={"train": tables}))


def test_a_metric_that_does_not_exist_is_told_before_training():
    with pytest.raises(RecipeError, match=r"training\.select: polarity has no metric 'mes'\. Did you mean 'mse'\?"):
        recipe.load(changed(training__select="polarity.mes"))


def test_a_backbone_in_a_folder_is_found_from_anywhere(tmp_path):
    (tmp_path / "encoder").mkdir()
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(changed(model__backbone="./encoder")))
    assert recipe.load(file).model.backbone == str(tmp_path / "encoder")
    file.write_text(yaml.safe_dump(changed(model__backbone="org/name")))
    assert recipe.load(file).model.backbone == "org/name"
