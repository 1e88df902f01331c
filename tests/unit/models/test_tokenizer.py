"""The converted tokenizer gives SentencePiece's ids, on everything we can throw at it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from jobs.errors import InvalidModel
from jobs.models.convert import convert_sentencepiece, parse_sentencepiece
from jobs.models.internlm2 import MARKERS, markers_of
from jobs.models.parity import check_parity
from jobs.models.prompt_encoder import PromptEncoder
from tests.support.quick import examples
from tests.support.samples import REAL_PROMPTS, needs_real_tokenizer, sample_rows

EXAMPLES = int(os.environ.get("TOKENIZER_EXAMPLES", examples(2000)))
"""The nightly run sets 20000."""

PIECE_NAMES_OF_MARKERS = [f"[UNUSED_TOKEN_{number}]" for number in range(141, 147)]

CHARACTERS = st.characters(exclude_categories=["Cs"])
FRAGMENTS = st.sampled_from(
    [
        *(
            "\0",
            " ",
            "  ",
            " " * 9,
            "\n",
            "\r\n",
            "\t",
            "▁",
            "▁▁",
            "——",
            "———",
            "……",
            "…",
            "Ａ",
            "Ｅ",
            "ｚ",
            "０",
            "１２",
        ),
        *("👩\u200d👩\u200d👧", "🇫🇷", "e\u0301", "\u200b", "\ufeff", "\u202e", "\x7f", "\x1b[0m"),
        *("中文", "日本語", "русский", "हिन्दी", "عربى"),
        *("<s>", "</s>", "<unk>", "<0x00>", "<0xFF>", "[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_14", *MARKERS.values()),
        *("the", "ing", " import", "    return", "===", "aaaa", "ababab", "1234567890", "http://", "\\n", "'''"),
    ]
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=200),
    st.lists(st.one_of(FRAGMENTS, st.text(CHARACTERS, max_size=4)), max_size=30).map("".join),
    st.text(st.sampled_from("ab \n\0é中Ｅ—…▁"), max_size=60),
)


@pytest.fixture(scope="session")
def original(sentencepiece_model: bytes) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=sentencepiece_model)


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Messages of 4,000 real chat rows in seven languages where they are, and of a hundred in twenty languages."""
    chats = [row["messages"] for row in sample_rows()]
    if REAL_PROMPTS.is_file():
        chats += pq.read_table(REAL_PROMPTS, columns=["messages"]).column("messages").to_pylist()
    return [message["content"] for chat in chats for message in chat]


def check_same(encoder: PromptEncoder, original: SentencePieceProcessor, texts: Sequence[str]) -> None:
    for text, ids, expected in zip(texts, encoder.encode_prompts(texts), original.encode(list(texts)), strict=True):
        assert ids == [1, *expected], ascii(text)
        assert encoder.decode(ids) == text.replace("▁", " ")


def test_corpus(encoder: PromptEncoder, original: SentencePieceProcessor, corpus: list[str]) -> None:
    assert len(corpus) > (7000 if REAL_PROMPTS.is_file() else 100)
    check_same(encoder, original, corpus)


def test_long_lines(encoder: PromptEncoder, original: SentencePieceProcessor, corpus: list[str]) -> None:
    chance = random.Random(3)
    words = " ".join(corpus).split()
    texts = [
        "".join(chance.choices("abcdefghij", k=200_000)),
        " " * 100_000,
        "a" * 100_000,
        "\0" * 10_000,
        "".join(
            chr(chance.choice((chance.randint(32, 0xD7FF), chance.randint(0xE000, 0x10FFFF)))) for _ in range(50_000)
        ),
        "".join(chance.choices(words, k=50_000)),
        " ".join(chance.choices(words, k=50_000)),
    ]
    check_same(encoder, original, texts)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text(encoder: PromptEncoder, original: SentencePieceProcessor, text: str) -> None:
    if not any(name in text for name in PIECE_NAMES_OF_MARKERS):
        check_same(encoder, original, [text])


@pytest.mark.parametrize(("marker_id", "marker"), MARKERS.items())
def test_marker_text_in_a_prompt_is_plain_text(encoder: PromptEncoder, marker_id: int, marker: str) -> None:
    piece_name = PIECE_NAMES_OF_MARKERS[marker_id - 92538]
    for text in (marker, piece_name, f"a{marker}b", f" {piece_name} "):
        ids = encoder.encode_prompt(text)
        assert not MARKERS.keys() & set(ids)
        assert encoder.decode(ids) == text


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>"])
def test_control_text_in_a_prompt_is_plain_text(encoder: PromptEncoder, text: str) -> None:
    ids = encoder.encode_prompt(text)
    assert ids[0] == 1
    assert not {0, 1, 2} & set(ids[1:])


def test_markers_have_their_ids(encoder: PromptEncoder) -> None:
    for marker_id, marker in MARKERS.items():
        assert encoder.decode([marker_id], skip_special=False) == marker
        assert encoder.decode([marker_id]) == ""


def test_a_lone_surrogate_costs_its_prompt_only(encoder: PromptEncoder) -> None:
    good, bad, last = encoder.encode_prompts(["a", "\ud800", "b"])
    assert good == encoder.encode_prompt("a")
    assert last == encoder.encode_prompt("b")
    assert isinstance(bad, ValueError)
    assert bad.code == "INVALID_TEXT"


def test_throughput(encoder: PromptEncoder, corpus: list[str]) -> None:
    """A floor that holds on a busy machine; `tests/bench` measures."""
    started = time.process_time()
    num_tokens = sum(len(ids) for ids in encoder.encode_prompts(corpus))
    assert num_tokens / (time.process_time() - started) > 200_000


@needs_real_tokenizer
def test_parity_check_finds_a_wrong_merge_order(sentencepiece_model: bytes) -> None:
    proto = parse_sentencepiece(sentencepiece_model)
    swapped = {piece.piece: piece for piece in proto.pieces}
    swapped["▁the"].score, swapped["▁t"].score = -90_000.0, -90_001.0
    wrong = convert_sentencepiece(proto.SerializeToString(), MARKERS)
    with pytest.raises(InvalidModel, match="differs from SentencePiece"):
        check_parity(wrong, sentencepiece_model, MARKERS, stride=10_007, num_mixtures=10)


def test_parity_check_finds_a_wrong_user_defined_piece(sentencepiece_model: bytes) -> None:
    proto = parse_sentencepiece(sentencepiece_model)
    proto.pieces[92395].piece = "〰〰"
    wrong = convert_sentencepiece(proto.SerializeToString(), MARKERS)
    with pytest.raises(InvalidModel, match="differs from SentencePiece"):
        check_parity(wrong, sentencepiece_model, MARKERS, stride=10_007, num_mixtures=10)


NATIVE = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "unigram"}, "not a BPE"),
        ({"byte_fallback": False, "vocab_size": 60}, "byte fallback"),
        ({"normalization_rule_name": "nfkc"}, "normalises"),
        ({"add_dummy_prefix": True}, "puts a space"),
        ({"remove_extra_whitespaces": True}, "removes whitespace"),
        ({"treat_whitespace_as_suffix": True}, "suffix"),
    ],
)
def test_other_kinds_of_sentencepiece_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    options = {**NATIVE, "hard_vocab_limit": False, **change}
    lines = [f"word{number} other{number % 7} words" for number in range(300)]
    SentencePieceTrainer.train(
        **{"sentence_iterator": iter(lines), "model_prefix": f"{tmp_path}/m", "vocab_size": 330, "minloglevel": 2}
        | options
    )
    with pytest.raises(InvalidModel, match=message):
        convert_sentencepiece((tmp_path / "m.model").read_bytes(), {})


def test_a_git_lfs_stub_is_refused() -> None:
    with pytest.raises(InvalidModel, match="not a SentencePiece model"):
        parse_sentencepiece(b"version https://git-lfs.github.com/spec/v1\n")


def test_markers_of_the_public_model(sentencepiece_model: bytes) -> None:
    assert markers_of(parse_sentencepiece(sentencepiece_model)) == MARKERS
