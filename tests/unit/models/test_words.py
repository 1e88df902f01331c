"""Tokenising word by word gives the ids of the whole text, and happens only where that is certain."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from jobs.models import words as module
from jobs.models.prompt_encoder import PromptEncoder
from jobs.models.words import WordTokenizer, unpack
from tests.support.samples import needs_real_tokenizer

BREAKS = [
    *(" ", "  ", "    ", "\n", "\n ", " \n", "\t ", "\r\n  "),
    *("▁", " ▁", "\u00a0", "Ａ", " [UNUSED_TOKEN_1] ", "<s> "),
]


@pytest.fixture(scope="module")
def document(chat_dir: Path) -> dict[str, Any]:
    """The tokenizer.json of a prepared snapshot."""
    found: dict[str, Any] = json.loads((chat_dir / "tokenizer.json").read_text())
    return found


def plain(document: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.encode_special_tokens = True
    return tokenizer


def tiny(pieces: list[str], merges: list[tuple[str, str]], **changes: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {piece: at for at, piece in enumerate(pieces)}, "merges": merges}
    defaults = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "unk_token": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {
        "version": "1.0",
        "model": model | defaults | flags | changes,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "added_tokens": [],
    }


def test_same_ids_as_the_whole_text(document: dict[str, Any]) -> None:
    tokenizer = plain(document)
    by_words = WordTokenizer.of(document, tokenizer)
    assert by_words is not None
    chance, known = random.Random(5), ["the", "dog", "in", "résumé", "中文", "x" * 40, "don't", "_", "0", "\0", "🙂"]
    texts = ["".join(chance.choice((known, BREAKS)[i % 2]) for i in range(chance.randint(0, 40))) for _ in range(3000)]
    expected = [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert [unpack(ids) for some in (texts[:1500], texts[1500:]) for ids in by_words.encode(some)] == expected


class Counting:
    """A model that notes what it is asked."""

    def __init__(self, model: Any) -> None:
        self._model, self.asked = model, list[str]()

    def tokenize(self, word: str) -> Any:
        self.asked.append(word)
        return self._model.tokenize(word)


@needs_real_tokenizer
def test_words_are_computed_once(document: dict[str, Any]) -> None:
    tokenizer = plain(document)
    by_words = WordTokenizer.of(document, tokenizer)
    assert by_words is not None
    by_words._model = counting = Counting(by_words._model)
    by_words.encode(["one two  one", "two one\n two"])
    by_words.encode([" two" * 10])
    assert sorted(counting.asked) == ["one", "two", "▁one\n▁two", "▁two", "▁▁one"]


def test_a_piece_with_a_space_inside_is_not_cut() -> None:
    document = tiny(["a", "b", "▁", "a▁", "a▁b", "b▁"], [("a", "▁"), ("a▁", "b")])
    by_words = WordTokenizer.of(document, plain(document))
    assert by_words is not None
    assert [unpack(ids) for ids in by_words.encode(["a b b a b"])] == [[4, 2, 1, 2, 4]]


def test_memory_is_bounded(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 100)
    by_words = WordTokenizer.of(document, plain(document))
    assert by_words is not None
    by_words._model = counting = Counting(by_words._model)
    for start in range(0, 2000, 50):
        by_words.encode([" ".join(str(number) for number in range(start, start + 50)), " often", "long" * 100])
    assert len(by_words._known) + len(by_words._known._older) <= 2 * (100 + 51)
    assert counting.asked.count("▁often") == 1
    assert max(map(len, by_words._known)) <= module.MAX_WORD


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": None},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"fuse_unk": True}},
        {"model": {"ignore_merges": True}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "b", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}},
            }
        },
    ],
)
def test_other_tokenizers_are_left_alone(change: dict[str, Any]) -> None:
    document = tiny(["a", "b", "▁"], [], **change.get("model", {})) | {k: v for k, v in change.items() if k != "model"}
    assert WordTokenizer.of(document, plain(document)) is None


def test_internlm2_is_tokenised_by_words(encoder: PromptEncoder) -> None:
    assert encoder._words is not None
