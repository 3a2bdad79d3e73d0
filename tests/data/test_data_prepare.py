import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.data import TableSpec, prepare
from equipoise.data._assign import assign, first_match, text_hashes
from equipoise.errors import DataError, RecipeError
from equipoise.tasks import kind


def task(type_, **options):
    return kind(type_).Settings.model_validate({"type": type_, **options})


SCORE = {"score": task("regression", range=(-1, 1))}
LABEL = {"label": task("classification")}
BOTH = {**SCORE, **LABEL}


def table(path, header, rows):
    path.write_text(header + "\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(path)


def run(folder, tables, tasks, **options):
    defaults = {"validation": None, "test": None, "seed": 0, "drop_leaks": False, "max_rejected": 1.0, "folder": folder}
    tables = [TableSpec(tables, "text")] if isinstance(tables, str) else tables
    return prepare(tables, tasks, **{**defaults, **options})


def rejected(folder):
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


def many(folder, n=400, name="t.csv"):
    """Rows whose classes are 5 %, 25 % and 70 %."""
    labels = ["rare" if i % 20 == 0 else "some" if i % 4 == 1 else "most" for i in range(n)]
    return table(folder / name, "text,score,label", [f"text {i},{(i % 21 - 10) / 10},{labels[i]}" for i in range(n)])


def test_rows_keep_order_place_and_targets(tmp_path):
    path = table(
        tmp_path / "t.csv",
        "score,text,label",
        ["1,first, pos ", ",second,neg", "-0.5,third,   ", "x,bad,neg", "0.5,,neg"],
    )
    prepared = run(tmp_path, path, BOTH)
    train = prepared.splits["train"]
    assert list(prepared.tasks) == ["score", "label"]
    assert train.text_list() == ["first", "second", "third"]
    assert train.text_list([2, 0]) == ["third", "first"]
    assert train.pairs is None
    assert train.pair_list() is None
    np.testing.assert_array_equal(train.targets["score"], np.array([1, np.nan, -0.5], np.float32))
    np.testing.assert_array_equal(train.targets["label"], np.array([1, 0, np.nan], np.float32))
    assert train.row_ids.tolist() == [0, 1, 2]
    assert train.lines.tolist() == [2, 3, 4]
    assert train.where(1) == f"{path}:3"
    assert isinstance(train.targets["score"], np.memmap)
    assert [(row["line"], row["reason"]) for row in rejected(tmp_path)] == [
        (6, "column 'text' is empty"),
        (5, "score 'x' is not a number"),
    ]
    assert rejected(tmp_path)[1]["row"] == {"text": "bad", "score": "x", "label": "neg"}


def test_report_is_json_and_counts_everything(tmp_path):
    path = table(tmp_path / "t.csv", "text,score,label", ["a,0.5,x", "A ,0.1,y", "b,,", "c,0.2,y", "d"])
    report = run(tmp_path, path, BOTH).report
    assert json.loads(json.dumps(report)) == report
    assert report["files"] == [{"file": path, "split": "train", "rows": 5}]
    assert (report["rows_read"], report["rows_rejected"]) == (5, 2)
    assert report["rejected"]["train"] == [
        {"reason": "no label for any task (in label, score)", "count": 1, "example": f"{path}:4"},
        {"reason": "has 1 cell, the header has 3", "count": 1, "example": f"{path}:6"},
    ]
    assert report["duplicates"] == {"train": 1}
    assert report["splits"]["train"]["rows"] == 3
    assert report["splits"]["train"]["labelled"] == {"score": 3, "label": 3}
    assert report["splits"]["train"]["tasks"]["label"]["counts"] == {"x": 1, "y": 2}


def test_only_what_is_needed_is_left_on_disk(tmp_path):
    run(tmp_path, many(tmp_path), BOTH, validation=0.1)
    assert sorted(os.listdir(tmp_path)) == [
        "rejected.jsonl", "t.csv", "train.arrow", "train.target0.f32", "train.target1.f32",
        "validation.arrow", "validation.target0.f32", "validation.target1.f32",
    ]  # fmt: skip


ERRORS = {
    "missing column": (
        ["a,1"],
        "text,scroe",
        SCORE,
        {},
        "column 'score' is not in {}. Did you mean 'scroe'? Columns: text, scroe",
    ),
    "empty train": ([",1", " ,1"], "text,score", SCORE, {}, "2 of 2 rows cannot be used (100.00%"),
    "no usable label": (["a,x", "b,y"], "text,score", SCORE, {}, "score"),
    "task without label": (
        ["a,1,", "b,2,"],
        "text,score,label",
        BOTH,
        {},
        "task 'label': none of the 2 training rows carries a label",
    ),
    "share too small": (
        ["a,1", "b,.5", "c,0"],
        "text,score",
        SCORE,
        {"validation": 0.1},
        "the validation split is empty",
    ),
    "share out of range": (["a,1"], "text,score", SCORE, {"validation": 1.5}, "data.validation is 1.5; as a share"),
    "shares too large": (
        ["a,1"],
        "text,score",
        SCORE,
        {"validation": 0.5, "test": 0.5},
        "together take 1 of the training rows",
    ),
    "one class": (["a,x", "b,x"], "text,label", LABEL, {}, "label"),
}


@pytest.mark.parametrize(("rows", "header", "tasks", "options", "message"), ERRORS.values(), ids=list(ERRORS))
def test_data_that_cannot_be_used_is_one_clear_error(tmp_path, rows, header, tasks, options, message):
    path = table(tmp_path / "t.csv", header, rows)
    with pytest.raises(DataError) as caught:
        run(tmp_path, path, tasks, **options)
    assert message.format(path) in str(caught.value)
    assert not list(tmp_path.glob("raw.*"))


def test_a_missing_column_in_the_last_file_is_known_before_anything_is_read(tmp_path):
    path = many(tmp_path)
    other = table(tmp_path / "test.csv", "text,score", ["a,1"])
    with pytest.raises(DataError, match=r"column 'label' is not in .*test.csv"):
        run(tmp_path, path, BOTH, test=other)
    assert not (tmp_path / "raw.train.arrow").exists()


def test_too_many_bad_rows_stop_with_reasons_and_examples(tmp_path):
    path = table(
        tmp_path / "t.csv", "text,score", [f"t{i},{'?' * (i % 9 + 1) if i < 30 else 0.1}" for i in range(99)] + [",1"]
    )
    with pytest.raises(DataError) as caught:
        run(tmp_path, path, SCORE, max_rejected=0.2)
    message = str(caught.value)
    assert "31 of 100 rows cannot be used (31.00%; the run stops at data.max_rejected = 0.2)" in message
    assert f"30 x score '?' is not a number (as at {path}:2); 1 x column 'text' is empty (as at {path}:101)" in message
    assert str(tmp_path / "rejected.jsonl") in message
    assert len(rejected(tmp_path)) == 31
    assert len(run(tmp_path, path, SCORE, max_rejected=0.32).splits["train"]) == 69


def test_long_cells_are_cut_in_the_rejected_rows(tmp_path):
    path = table(tmp_path / "t.csv", "text,score", [f"{'w' * 2_000},bad", "fine,1", "good,0.5"])
    run(tmp_path, path, SCORE)
    assert len(rejected(tmp_path)[0]["row"]["text"]) == 500


def test_seeded_shares_are_stable_stratified_and_exact(tmp_path):
    path = many(tmp_path)

    def texts(seed, path=path):
        prepared = run(tmp_path, path, BOTH, validation=0.1, test=0.2, seed=seed)
        return {name: split.text_list() for name, split in prepared.splits.items()}, prepared.report

    first, report = texts(1)
    assert {name: len(split) for name, split in first.items()} == {"train": 280, "validation": 40, "test": 80}
    assert report["stratified_by"] == "label"
    counts = {name: split["tasks"]["label"]["counts"] for name, split in report["splits"].items()}
    assert counts["validation"] == {"most": 28, "rare": 2, "some": 10}
    assert counts["test"] == {"most": 56, "rare": 4, "some": 20}
    assert texts(1)[0] == first
    assert texts(2)[0] != first
    # The same rows, in another order and with a few more: nearly all stay where they were.
    lines = (tmp_path / "t.csv").read_text().splitlines()
    grown = table(tmp_path / "grown.csv", lines[0], [*lines[:0:-1], *(f"new {i},0.1,most" for i in range(8))])
    moved = set(first["test"]) ^ set(texts(1, grown)[0]["test"])
    assert len(moved) <= 8


def test_a_text_is_on_one_side_of_a_seeded_split(tmp_path):
    rows = [f"{'  Same   TEXT' if i % 2 else 'same text'} {i // 4},{i % 3 / 2},{'xyz'[i % 3]}" for i in range(400)]
    prepared = run(tmp_path, table(tmp_path / "t.csv", "text,score,label", rows), BOTH, validation=0.2, test=0.2)
    sides = [{" ".join(text.casefold().split()) for text in split.text_list()} for split in prepared.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 100
    assert 70 <= len(prepared.splits["validation"]) <= 80
    assert all(leak["rows"] == 0 for leak in prepared.report["leaks"].values())
    assert prepared.report["duplicates"]["train"] == len(prepared.splits["train"]) - len(sides[0])


@pytest.mark.parametrize("drop", [False, True])
def test_leaks_across_files(tmp_path, drop):
    train = table(tmp_path / "train.csv", "text,score", ["one,0.1", "TWO,0.2", "three,0.3", "four ,0.4", "five,0.5"])
    validation = table(tmp_path / "val.csv", "text,score", ["two,0", "four,0", "six,0"])
    test = table(tmp_path / "test.csv", "text,score", ["Three,0", "four,0", "four,0"])
    prepared = run(tmp_path, train, SCORE, validation=validation, test=test, drop_leaks=drop)
    leaks = prepared.report["leaks"]
    assert {pair: leak["rows"] for pair, leak in leaks.items()} == {
        "train/test": 2, "validation/test": 1, "train/validation": 2,
    }  # fmt: skip
    assert [leak["dropped"] for leak in leaks.values()] == ([2, 1, 1] if drop else [0, 0, 0])
    assert len(prepared.splits["test"]) == 3
    if not drop:
        assert [len(split) for split in prepared.splits.values()] == [5, 3, 3]
        assert len(prepared.report["warnings"]) == 3
        assert not rejected(tmp_path)
        return
    assert prepared.splits["train"].text_list() == ["one", "five"]
    assert prepared.splits["validation"].text_list() == ["two", "six"]
    assert prepared.report["rows_rejected"] == 0
    assert [(row["split"], row["line"], row["reason"]) for row in rejected(tmp_path)] == [
        ("train", 4, f"the same text is in the test split too ({test}:2)"),
        ("train", 5, f"the same text is in the test split too ({test}:3)"),
        ("validation", 3, f"the same text is in the test split too ({test}:3)"),
        ("train", 3, f"the same text is in the validation split too ({validation}:2)"),
    ]


def test_several_tables_with_tasks_and_files_of_their_own(tmp_path):
    many(tmp_path)
    scores = table(tmp_path / "scores.csv", "body,score", [f"s{i},{i / 100}" for i in range(100)])
    labels = table(
        tmp_path / "labels.jsonl", '{"text": "l", "label": "x", "score": 9}', ['{"text": "m", "label": "y"}'] * 3
    )
    held = table(tmp_path / "held.csv", "text,label", ["p,x", "q,y"])
    tables = [
        TableSpec(scores, "body", tasks=("score",)),
        TableSpec(labels, "text", tasks=("label",), validation=held),
    ]
    prepared = run(tmp_path, tables, BOTH, validation=0.1)
    train, validation = prepared.splits["train"], prepared.splits["validation"]
    # A share is taken only from tables without a file of their own, and a table's labels are read for its tasks only.
    assert (len(train), len(validation)) == (94, 12)
    assert train.text_list()[-4:] == ["l", "m", "m", "m"]
    assert np.isnan(train.targets["score"][-4:]).all()
    assert np.isnan(train.targets["label"][:-4]).all()
    assert validation.text_list()[-2:] == ["p", "q"]
    assert [train.files[i] for i in (train.file_ids[0], train.file_ids[-1], validation.file_ids[-1])] == [
        scores,
        labels,
        held,
    ]
    with pytest.raises(DataError, match=r"labels.jsonl: no task 'lable'. Did you mean 'label'\? Tasks: score, label"):
        run(tmp_path, [TableSpec(labels, "text", tasks=("lable",))], BOTH)
    with pytest.raises(DataError, match="text columns differ"):
        run(tmp_path, tables, BOTH, test=held)


def test_pairs_need_both_texts(tmp_path):
    path = table(tmp_path / "t.csv", "a,b,score", ["x,y,1", "x,,1", ",y,1", "v,w,0"])
    prepared = run(tmp_path, [TableSpec(path, ("a", "b"))], SCORE)
    assert prepared.splits["train"].text_list() == ["x", "v"]
    assert prepared.splits["train"].pair_list() == ["y", "w"]
    assert isinstance(prepared.splits["train"].pairs, pa.ChunkedArray)
    assert [row["reason"] for row in rejected(tmp_path)] == ["column 'b' is empty", "column 'a' is empty"]
    with pytest.raises(DataError, match="some training tables have one text column and others a pair"):
        run(tmp_path, [TableSpec(path, ("a", "b")), TableSpec(path, "a")], SCORE)


def test_derived_tasks_are_fitted_behind_their_source_on_the_training_split_only(tmp_path):
    tasks = {"band": task("classification", **{"from": "score"}, bins=2), **SCORE}
    train = table(tmp_path / "t.csv", "text,score", [f"t{i},{i / 10}" for i in range(10)])
    test = table(tmp_path / "test.csv", "text,score", [f"u{i},{0.0}" for i in range(50)] + ["v,2"])
    prepared = run(tmp_path, train, tasks, test=test)
    assert list(prepared.tasks) == ["band", "score"]
    assert prepared.splits["train"].targets["band"].tolist() == [0] * 5 + [1] * 5
    assert (prepared.splits["test"].targets["band"] == 0).all()
    assert len(prepared.splits["test"]) == 50
    assert len(rejected(tmp_path)) == 1
    with pytest.raises(
        (DataError, RecipeError), match=r"task 'band': no task 'scor' to derive from. Did you mean 'score'"
    ):
        run(tmp_path, train, {"band": task("classification", **{"from": "scor"}, bins=2), **SCORE})


def test_many_batches_give_what_one_batch_gives(tmp_path, monkeypatch):
    path = many(tmp_path)
    options = {"validation": 0.2, "seed": 5}
    whole = run(tmp_path, path, {**BOTH, "tags": task("multilabel", column="label")}, **options).splits["train"]
    expected = {name: targets.copy() for name, targets in whole.targets.items()}
    texts = whole.text_list()
    monkeypatch.setattr("equipoise.data._prepare._ENCODE_ROWS", 37)
    split = run(tmp_path, path, {**BOTH, "tags": task("multilabel", column="label")}, **options).splits["train"]
    assert split.text_list() == texts
    for name, targets in split.targets.items():
        np.testing.assert_array_equal(targets, expected[name])
    assert split.targets["tags"].shape == (320, 3)


def test_a_sample_of_the_training_rows(tmp_path):
    path = many(tmp_path)
    prepared = run(tmp_path, path, BOTH, validation=0.1, max_train_rows=50)
    assert (len(prepared.splits["train"]), len(prepared.splits["validation"])) == (50, 40)
    assert prepared.report["sampled_out"] == 310
    again = run(tmp_path, path, BOTH, validation=0.1, max_train_rows=50)
    assert again.splits["train"].text_list() == prepared.splits["train"].text_list()


def test_a_split_crosses_processes_as_its_path(tmp_path):
    split = run(tmp_path, many(tmp_path), BOTH).splits["train"]
    content = pickle.dumps(split)
    assert len(content) < 500
    copy = pickle.loads(content)  # noqa: S301 - our own bytes
    assert copy.text_list([3]) == ["text 3"]
    np.testing.assert_array_equal(copy.targets["score"], split.targets["score"])


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=200),
    st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2]), st.integers(0, 5),
)  # fmt: skip
def test_assign_keeps_texts_together_and_never_takes_too_much(rows, validation, test, seed):
    hashes = text_hashes([str(text) for text, _ in rows])
    strata = np.array([stratum for _, stratum in rows])
    code = assign(hashes, strata, np.full(4, validation), np.full(4, test), seed)
    assert all(len(set(code[hashes == text].tolist())) == 1 for text in hashes)
    assert (code == 0).any()
    assert (code == 1).sum() <= round(len(rows) * validation) + 1
    assert (code == 2).sum() <= round(len(rows) * test) + 1


def test_a_text_with_very_many_copies_does_not_empty_a_share():
    hashes = text_hashes(["again"] * 500 + [str(i) for i in range(500)])
    code = assign(hashes, np.zeros(1000, np.int64), np.array([0.1]), np.array([0.0]), 0)
    assert (code == 1).sum() == 100


def test_hashes_look_through_case_width_and_white_space():
    hashes = text_hashes(["ＡＢ\u00a0 Straße", "ab strasse", "ab strass e"])
    assert hashes[0] == hashes[1] != hashes[2]
    assert text_hashes(["a b"], ["c"]) != text_hashes(["a"], ["b c"])


def test_first_match():
    assert first_match(np.array([5, 7, 5], np.uint64), np.array([9, 5, 5], np.uint64)).tolist() == [1, -1, 1]
    assert first_match(np.array([5], np.uint64), np.array([], np.uint64)).tolist() == [-1]
