"""Where a recipe's settings come from: the file and its YAML, `--set`, the environment."""

import copy

import pytest

from equipoise import recipe
from equipoise.errors import RecipeError

GOOD = {
    "data": {"train": "train.csv"},
    "tasks": {"polarity": {"type": "regression", "range": [-1, 1]}, "label": {"type": "classification"}},
}


def written(folder, text):
    path = folder / "reviews.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Overrides


def test_overrides_win():
    sets = [
        "training.epochs=2",
        "model.adapter.rank=4",
        "balance.method=fixed",
        "balance.weights={polarity: 1, label: 3}",
    ]
    found = recipe.load(
        GOOD, [*sets, "training.learning_rate=1e-5", "data.text=[a, b]", "output=runs/x", "model.dropout="]
    )
    assert found.training.epochs == 2
    assert found.training.learning_rate == 1e-5
    assert found.model.adapter == recipe.AdapterSettings(rank=4)
    assert found.balance.options["weights"] == {"polarity": 1, "label": 3}
    assert found.data.text == ("a", "b")
    assert found.model.dropout is None
    assert found.output == "runs/x"


def test_override_adds_a_task_and_replaces_null():
    found = recipe.load(GOOD | {"model": None}, ["tasks.stars.type=ordinal", "model.max_length=64"])
    assert found.tasks["stars"].type == "ordinal"
    assert found.model.max_length == 64


def test_overrides_leave_the_callers_mapping_alone():
    data = copy.deepcopy(GOOD) | {"training": {"epochs": 1}}
    before = copy.deepcopy(data)
    recipe.load(data, ["training.epochs=2", "model.max_length=64"])
    assert data == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", r"--set training\.epochs: expected KEY=VALUE, such as training\.epochs=2"),
        ("=3", "expected KEY=VALUE"),
        ("training..epochs=3", "expected KEY=VALUE"),
        ("training.epochs=[1", "the value is not valid YAML"),
        ("output.deep=3", "'output' is 'here', which has no keys of its own"),
        ("training.epoch=3", r"training\.epoch: unknown key\. Did you mean 'epochs'"),
        ("training.epochs=!!python/name:os.system", "the value is not valid YAML: could not determine a constructor"),
    ],
)
def test_bad_override(override, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load(GOOD | {"output": "here"}, [override])


# Files


def test_paths_are_relative_to_the_recipes_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "recipes").mkdir()
    text = """
        data:
          train: [{path: ../a.csv, tasks: [p]}, {path: /b.csv, validation: v/b.csv}, {path: "hub:org/name:config"}]
          validation: ~/v.csv
          test: sub/t.csv
        tasks: {p: {type: regression}}
    """
    found = recipe.load(written(tmp_path / "recipes", text))
    paths = [(table.path, table.validation) for table in found.data.train]
    folder = tmp_path.resolve()
    assert paths == [
        (f"{folder}/a.csv", None),
        ("/b.csv", f"{folder}/recipes/v/b.csv"),
        ("hub:org/name:config", None),
    ]
    assert (found.data.validation, found.data.test) == ("/home/someone/v.csv", f"{folder}/recipes/sub/t.csv")
    assert found.output == "runs/reviews"


@pytest.mark.parametrize(
    ("value", "environment", "expected"),
    [
        ("${DATA}/a.csv", "/data", "/data/a.csv"),
        ("${DATA}/a.csv", "here", "CWD/here/a.csv"),
        ("${DATA:-data}/a.csv", None, "RECIPE/data/a.csv"),
        ("${DATA:-data}/a.csv", "", "RECIPE/data/a.csv"),
        ("${DATA:-/data}/a.csv", None, "/data/a.csv"),
        ("sets/${DATA}/a.csv", "small", "RECIPE/sets/small/a.csv"),
        ("hub:${DATA}/name", "org", "hub:org/name"),
        ("${DATA}", "hub:org/name", "hub:org/name"),
        ("$DATA/a.csv", "x", "RECIPE/$DATA/a.csv"),
    ],
)
def test_environment_in_paths(tmp_path, monkeypatch, value, environment, expected):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    if environment is None:
        monkeypatch.delenv("DATA", raising=False)
    else:
        monkeypatch.setenv("DATA", environment)
    path = written(tmp_path, f"data: {{train: '{value}'}}\ntasks: {{p: {{type: regression}}}}\n")
    folder = str(tmp_path.resolve())
    expected = expected.replace("CWD", f"{folder}/cwd").replace("RECIPE", folder)
    assert recipe.load(path).data.train == expected


def test_environment_that_is_not_set(monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(
        RecipeError, match=r"data\.test: environment variable NOWHERE is not set\. .*\$\{NOWHERE:-default\}"
    ):
        recipe.load(GOOD, ["data.test=${NOWHERE}/a.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  train: [a\nmodel: {}\n", r"reviews\.yaml:3: not valid YAML: "),
        ("data:\n\ttrain: a\n", r"reviews\.yaml:2: not valid YAML: found character '\\t'"),
        (
            "data: {}\nmodel: !!python/object:os.system {}\n",
            r"reviews\.yaml:2: not valid YAML: could not determine a constructor",
        ),
        ("model: {}\ndata: {}\nmodel: {}\n", r"reviews\.yaml:3: not valid YAML: the key 'model' stands twice"),
        ("a: 1\n---\nb: 2\n", r"reviews\.yaml:2: not valid YAML: but found another document"),
        ("a: \x07\n", r"reviews\.yaml: not valid YAML: "),
        ("output: 2024-13-45\n", r"reviews\.yaml: not valid YAML: month must be in 1\.\.12"),
        ("- a\n", r"reviews\.yaml: a recipe is a mapping with the keys model, data, tasks, balance, .*found \['a'\]"),
        ("", "a recipe is a mapping"),
    ],
)
def test_file_that_is_no_recipe(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipe.load(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.yaml: no such recipe\. `equipoise init DATA\.csv`"):
        recipe.load(tmp_path / "nothing.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("output: ä".encode("latin-1"))
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(tmp_path / "latin.yaml")


def test_numbers_with_an_exponent_are_numbers_everywhere(tmp_path):
    text = """
        data: {train: a.csv, validation: 1e-1, max_rejected: 5E-2}
        tasks: {p: {type: regression, range: [-1e0, 1.5e+1]}, q: {type: regression, loss: huber, huber_delta: 2e-1}}
        balance: {method: dao, floor: 1e-3, epsilon: +1.e-9}
        training: {learning_rate: 1e-4, epochs: 1e1, weight_decay: .5e-2, arguments: {adam_epsilon: 1.0e6}}
    """
    found = recipe.load(written(tmp_path, text))
    assert (found.data.validation, found.data.max_rejected) == (0.1, 0.05)
    assert found.tasks["p"].range == (-1, 15)
    assert found.tasks["q"].huber_delta == 0.2
    assert (found.balance.options["floor"], found.balance.options["epsilon"]) == (1e-3, 1e-9)
    assert (found.training.learning_rate, found.training.epochs, found.training.weight_decay) == (1e-4, 10, 0.005)
    assert found.training.arguments == {"adam_epsilon": 1e6}
