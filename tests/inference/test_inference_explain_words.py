"""Which words pushed a prediction: how a text is taken apart, and which token's share comes to which word."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import explain_helpers
import pytest
import torch
from explain_helpers import Bag, many, many_tasks
from hypothesis import given
from hypothesis import strategies as st

from equipoise.inference import Model, explain
from equipoise.inference._words import spread, words_of
from equipoise.models import LoadedModel, Sidecar

model = explain_helpers.model
one_thread = explain_helpers.one_thread

ODD = [
    ("Don't panic: 3.5% of U.S.-based firms", ["Don't", "panic", ":", "3.5", "%", "of", "U", ".", "S", ".-", "based", "firms"]),
    ("🎉🚀 great!🇩🇪 👩‍👩‍👧", ["🎉🚀", "great", "!🇩🇪", "👩‍👩‍👧"]),
    ("الربح قوي، جدًّا", ["الربح", "قوي", "،", "جدًّا"]),
    ("שלום עולם!", ["שלום", "עולם", "!"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("利润rise 強い", ["利", "润", "rise", "強", "い"]),
    ("cafe\u0301 e.g.\t\n x_y", ["cafe\u0301", "e", ".", "g", ".", "x_y"]),
    ("\u202eloss\u202c", ["\u202e", "loss", "\u202c"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ODD)
def test_words_of_many_scripts(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == expected


@given(st.text(max_size=40))
def test_words_cover_all_but_white_space_once(text: str) -> None:
    spans = words_of(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    covered = {at for start, end in spans for at in range(start, end)}
    assert covered == {at for at, character in enumerate(text) if not character.isspace()}


def test_tokens_are_shared_out_by_characters() -> None:
    words = [(0, 4), (4, 6), (7, 9)]
    # Two tokens in one word; one over two words, of 1 and 2 characters; two on one character; a blank; nothing at all.
    tokens = [(0, 2), (2, 3), (3, 6), (7, 8), (7, 8), (6, 7), (9, 9)]
    sums, rest = spread(words, tokens, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert sums == pytest.approx([1 + 2 + 1, 2, 9])
    assert rest == pytest.approx(13)


@pytest.mark.parametrize("text", [text for text, _ in ODD])
def test_spans_fit_the_text_whatever_is_written_in_it(model: Model, text: str) -> None:
    found = explain(model, text, "stars", steps=4)
    assert [(word["start"], word["end"]) for word in found["words"]] == words_of(text)
    assert all(text[word["start"] : word["end"]] == word["text"] for word in found["words"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("text", [text for text, _ in ODD])
def test_bytes_of_a_character_come_to_its_word(text: str) -> None:
    """A tokenizer of bytes, whose tokens are parts of a character."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {symbol: at for at, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    numbers = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(0)).tolist()
    sidecar = Sidecar({"stars": many_tasks()["stars"]}, "native", 512, ("text",), "tiny")
    model = Model(LoadedModel(Bag(numbers), tokenizer, sidecar), device="cpu")
    found = explain(model, text, "stars", steps=2)

    def by_hand(piece: str) -> float:
        symbols = backend.pre_tokenizer.pre_tokenize_str(piece)[0][0]
        assert len(symbols) == len(piece.encode())
        return sum(2 * (numbers[alphabet[symbol]] - numbers[-1]) for symbol in symbols)  # stars are 3 + 2 x

    assert [(word["text"], word["contribution"]) for word in found["words"]] == [
        (text[start:end], pytest.approx(by_hand(text[start:end]))) for start, end in words_of(text)
    ]
    blanks = "".join(character for character in text if character.isspace())
    assert found["rest"] == pytest.approx(by_hand(blanks) if blanks else 0, abs=1e-9)


def test_words_that_were_cut_off_have_no_contribution(tiny_backbone: Callable[[str], Path]) -> None:
    model = many(tiny_backbone("bert"), max_length=8)  # six words beside [CLS] and [SEP]
    text = "strong profit weak oil the bank says , 🎉"
    found = explain(model, text, "stars")
    assert [word["contribution"] is None for word in found["words"]] == [False] * 6 + [True] * 3
    assert found["words"][-1] == {"text": "🎉", "start": 39, "end": 40, "field": "text", "contribution": None}
    fits = explain(model, "strong profit weak oil the bank", "stars")
    assert fits["value"] == pytest.approx(found["value"], abs=1e-6)
    assert fits["words"] == [
        {**word, "contribution": pytest.approx(word["contribution"], abs=1e-6)} for word in found["words"][:6]
    ]
    assert not [word for word in fits["words"] if word["contribution"] is None]
    model._loaded.tokenizer.truncation_side = "left"
    cut = explain(model, text, "stars")
    assert [word["contribution"] is None for word in cut["words"]] == [True] * 3 + [False] * 6
