import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.data import Column, Guess, guess, recipe_text
from equipoise.errors import DataError

WORDS = ["profit", "loss", "rises", "falls", "again", "today", "firm", "market", "outlook", "sales"]


def sentence(i):
    return " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 5 + i % 7)) + f" {i}"


def columns_of(i):
    """Row i of a table that holds one column of every sort."""
    score = ((i * 37) % 200 - 100) / 100
    return {
        "id": i,
        "text": sentence(i),
        "score": score,
        "cut": "low" if score < -0.3 else "high" if score > 0.3 else "middle",
        "genre": ["news", "blog", "post"][(i * 7) % 11 % 3],
        "genre_id": (i * 7) % 11 % 3,
        "stars": 1 + (i * 13) % 17 % 5,
        "rating": 10 + (i * 31) % 73,
        "emotions": "|".join(["joy", "fear", "anger"][: 1 + i % 3]),
        "tags": json.dumps(["x", "y", "z"][i % 3 :]),
        "when": f"2024-01-{1 + i % 28:02}",
        "split": "train" if i % 2 else "dev",
        "constant": "same",
        "link": f"https://example.org/{i % 9}",
        "empty": "",
        "code": f"k{i % 80}",
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("guess") / "some table.jsonl"
    file.write_text("".join(json.dumps(columns_of(i)) + "\n" for i in range(300)))
    return file


def test_every_sort_of_column_is_recognised(path):
    found = guess(path)
    assert {column.name: column.role for column in found.columns} == {
        "id": "ignored", "text": "text", "score": "score", "cut": "class", "genre": "class", "genre_id": "ignored",
        "stars": "ordinal", "rating": "score", "emotions": "multilabel", "tags": "multilabel", "when": "ignored",
        "split": "ignored", "constant": "ignored", "link": "ignored", "empty": "ignored", "code": "ignored",
    }  # fmt: skip
    by_name = {column.name: column for column in found.columns}
    assert by_name["score"].settings == {"range": [-1, 1]}
    assert by_name["rating"].settings == {"range": [0, 100]}
    assert by_name["emotions"].settings == {"separator": "|"}
    assert by_name["tags"].settings == {}
    assert "it is 'score' cut near -0.305, 0.305" in by_name["cut"].note
    assert by_name["genre_id"].why == "says the same as 'genre', value for value"
    assert by_name["genre"].note == ""
    assert "delete the task" in by_name["rating"].note
    assert all(column.why for column in found.columns)


def test_the_recipe_parses_and_says_why(path):
    text = recipe_text(guess(path), path)
    recipe = yaml.safe_load(text)
    assert recipe["data"]["train"] == str(path)
    assert recipe["tasks"]["score"] == {"type": "regression", "column": "score", "range": [-1, 1]}
    assert recipe["tasks"]["stars"] == {"type": "ordinal", "column": "stars"}
    assert recipe["tasks"]["emotions"] == {"type": "multilabel", "column": "emotions", "separator": "|"}
    assert recipe["output"] == "runs/some_table"
    assert "#   when: dates" in text
    assert "# Note: it is 'score' cut near" in text
    pytest.importorskip("equipoise.recipe").parse(recipe)


def test_the_recipe_trains_on_the_table_it_was_guessed_from(path, tmp_path):
    from equipoise.data import TableSpec, prepare
    from equipoise.tasks import kind

    recipe = yaml.safe_load(recipe_text(guess(path), path))
    tasks = {name: kind(body["type"]).Settings.model_validate(body) for name, body in recipe["tasks"].items()}
    prepared = prepare(
        [TableSpec(recipe["data"]["train"], recipe["data"]["text"])], tasks, validation=recipe["data"]["validation"],
        test=None, seed=0, drop_leaks=True, max_rejected=0.05, folder=tmp_path,
    )  # fmt: skip
    assert prepared.report["rows_rejected"] == 0


def test_nothing_to_read_or_to_learn(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i},w{i % 3}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"no column looks like text .* Seen: 'x': .*identifier; 'y': 3 classes"):
        guess(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,text\n" + "".join(f"{i},{sentence(i)}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"no column can be learned, .* 'text': the longest texts"):
        guess(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("x,text\n1\n2\n")
    with pytest.raises(DataError, match="none of the first 2 rows can be read"):
        guess(tmp_path / "c.csv")


def test_broken_rows_are_counted_and_passed_over(tmp_path):
    rows = [f"{sentence(i)},{'xyz'[i % 3]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows, "broken"]))
    found = guess(tmp_path / "t.csv")
    assert (found.rows, found.broken) == (41, 1)
    assert "1 of these rows cannot be read" in recipe_text(found, "t.csv")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(names, st.lists(names, min_size=1, max_size=4, unique=True), names)
def test_any_names_give_yaml_that_says_them_back(text, tasks, path):
    columns = [Column(text, "text", text), *(Column(name, "class", name, note=name) for name in tasks)]
    columns.append(Column(path, "ignored", path))
    recipe = yaml.safe_load(recipe_text(Guess(columns, 10, 0, 20), path))
    assert recipe["data"]["text"] == text
    assert recipe["data"]["train"] == path
    assert [task["column"] for task in recipe["tasks"].values()] == tasks
