import pickle

import numpy as np
import pytest

from equipoise.data import Collator, TableSpec, TokenSplit, prepare, tokenise
from equipoise.errors import DataError
from equipoise.tasks import kind

VOCABULARY = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "up": 4, "down": 5, "flat": 6}


def make_tokenizer(*, special=True, types=True, side="right"):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names, padding_side=side
    )


def make_split(folder, rows, text="text"):
    (folder / "t.csv").write_text("text,other,score,tags\n" + "".join(",".join(row) + "\n" for row in rows))
    tasks = {
        "score": kind("regression").Settings(type="regression"),
        "tags": kind("multilabel").Settings(type="multilabel"),
    }
    return prepare(
        [TableSpec(str(folder / "t.csv"), text)], tasks,
        validation=None, test=None, seed=0, drop_leaks=False, max_rejected=1.0, folder=folder,
    ).splits["train"]  # fmt: skip


ROWS = [
    ("up up", "down", "1", "a|b"),
    ("down", "up flat", "2", "a"),
    ("flat up down up", "flat", "", "b"),
    ("up", "down", "3", ""),
]


def test_tokens_targets_and_truncation(tmp_path):
    split = tokenise(make_split(tmp_path, ROWS), make_tokenizer(), max_length=4, folder=tmp_path, name="train")
    assert [row["input_ids"].tolist() for row in (split[i] for i in range(4))] == [
        [1, 4, 4, 2], [1, 5, 2], [1, 6, 4, 2], [1, 4, 2],
    ]  # fmt: skip
    assert split.lengths.tolist() == [4, 3, 4, 3]
    assert split.lengths.dtype == np.int32
    assert split.truncated == 1
    assert split[1]["targets"]["tags"].tolist() == [1, 0]
    assert np.isnan(split[2]["targets"]["score"])
    assert split[-1]["input_ids"].tolist() == [1, 4, 2]
    with pytest.raises(IndexError, match="row 4 of 4"):
        split[4]


def test_rows_are_found_across_record_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("equipoise.data._tokens._CHUNK_ROWS", 3)
    rows = [("up " * (1 + i % 4), "x", str(i), "a" if i % 2 else "b") for i in range(10)]
    split = tokenise(make_split(tmp_path, rows), make_tokenizer(), max_length=9, folder=tmp_path, name="train")
    assert [len(split[i]["input_ids"]) for i in range(10)] == [3 + i % 4 for i in range(10)] == split.lengths.tolist()
    assert [row["input_ids"].tolist() for row in split.__getitems__([9, 0])] == [[1, 4, 4, 2], [1, 4, 2]]


def test_pairs_carry_token_types(tmp_path):
    split = make_split(tmp_path, ROWS, text=("text", "other"))
    tokens = tokenise(split, make_tokenizer(), max_length=16, folder=tmp_path, name="train")
    assert tokens[1]["input_ids"].tolist() == [1, 5, 2, 4, 6, 2]
    assert tokens[1]["token_type_ids"].tolist() == [0, 0, 0, 1, 1, 1]
    without = tokenise(split, make_tokenizer(types=False), max_length=16, folder=tmp_path, name="plain")
    assert not without.token_types
    assert "token_type_ids" not in without[0]


def test_a_text_without_tokens_is_named(tmp_path):
    split = make_split(tmp_path, [*ROWS, ("removed", "x", "1", "a")])
    tokenizer = make_tokenizer(special=False)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("removed", "")
    with pytest.raises(DataError, match=r"t.csv:6: the tokenizer makes no token of this text"):
        tokenise(split, tokenizer, max_length=8, folder=tmp_path, name="train")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_collator_pads_as_the_tokenizer_does(tmp_path, side, multiple):
    tokenizer = make_tokenizer(side=side)
    split = tokenise(
        make_split(tmp_path, ROWS, text=("text", "other")), tokenizer, max_length=16, folder=tmp_path, name="train"
    )
    batch = Collator(tokenizer, ["score", "tags"], multiple)(split.__getitems__([0, 2, 3]))
    plain = [
        {key: row[key].tolist() for key in ("input_ids", "token_type_ids")} for row in split.__getitems__([0, 2, 3])
    ]
    expected = tokenizer.pad(plain, padding=True, pad_to_multiple_of=multiple, return_tensors="pt")
    for key in ("input_ids", "token_type_ids", "attention_mask"):
        assert batch[key].tolist() == expected[key].tolist()
        assert str(batch[key].dtype) == "torch.int64"
    assert batch["targets"]["score"].tolist()[::2] == pytest.approx(split.split.targets["score"][[0, 3]].tolist())
    assert batch["targets"]["score"].isnan().tolist() == [False, True, False]
    assert batch["targets"]["tags"].shape == (3, 2)
    assert batch["targets"]["tags"].isnan().tolist() == [[False, False], [False, False], [True, True]]


def test_a_torch_loader_reads_it(tmp_path):
    from torch.utils.data import DataLoader

    tokenizer = make_tokenizer()
    split = tokenise(make_split(tmp_path, ROWS), tokenizer, max_length=8, folder=tmp_path, name="train")
    loader = DataLoader(split, batch_size=2, collate_fn=Collator(tokenizer, ["score"]))
    assert [list(batch["input_ids"].shape) for batch in loader] == [[2, 4], [2, 6]]


def test_splits_and_collator_are_pickled_as_paths_and_numbers(tmp_path):
    tokenizer = make_tokenizer()
    split = tokenise(make_split(tmp_path, ROWS * 500), tokenizer, max_length=8, folder=tmp_path, name="train")
    content = pickle.dumps((split, Collator(tokenizer, ["score"])))
    assert len(content) < 2_000
    copy, collate = pickle.loads(content)  # noqa: S301 - our own bytes
    assert isinstance(copy, TokenSplit)
    assert collate(copy.__getitems__([0, 1]))["input_ids"].tolist() == [[1, 4, 4, 2], [1, 5, 2, 0]]
    assert copy.split.targets["tags"].shape == (2_000, 2)
