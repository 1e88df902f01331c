"""Prompts and a tokenizer for tests: the real ones if they lie beside the repository, else small ones of our own.

The small tokenizer has the properties of InternLM2's that conversion and chat format depend on: BPE with byte fallback,
the identity normaliser, no dummy prefix, whitespace kept, a literal NUL piece that is never used, user-defined pieces,
and the chat markers at the same ids of a vocabulary of the same size. Its merges are trained on
`tests/fixtures/prompts.jsonl`.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2

from jobs.models.internlm2 import MARKERS, VOCAB_SIZE

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "data"
REAL_TOKENIZER, REAL_PROMPTS = REAL / "internlm2-tokenizer.model", REAL / "debian-descriptions-4k.parquet"
PROMPTS = REPOSITORY / "tests" / "fixtures" / "prompts.jsonl"

needs_real_tokenizer = pytest.mark.skipif(not REAL_TOKENIZER.is_file(), reason=f"knows ids of {REAL_TOKENIZER}")
"""Mark of tests that name ids of InternLM2's own pieces."""

_TRAINED_PIECES = 1400
_NUL_PLACE = 354
_FULL_WIDTH = "ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ"
_UNUSED_TOKENS = 147
_FILLER = 0x20000
"""First of the rare characters (CJK extension B and on) that fill the vocabulary up, one piece each."""


@cache
def tokenizer_model() -> bytes:
    """Return the bytes of a `tokenizer.model`: the real one, or the small one."""
    return REAL_TOKENIZER.read_bytes() if REAL_TOKENIZER.is_file() else small_tokenizer_model()


@cache
def small_tokenizer_model() -> bytes:
    """Train a SentencePiece model like InternLM2's on the sample prompts, and return its bytes."""
    texts = [message["content"] for row in sample_rows() for message in row["messages"]]
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n") if line]),
        model_writer=trained,
        model_type="bpe",
        vocab_size=_TRAINED_PIECES,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(trained.getvalue())
    kinds = proto.SentencePiece
    pieces = list(proto.pieces)
    lowest = min(piece.score for piece in pieces)
    pieces.insert(_NUL_PLACE, kinds(piece="\0", score=lowest - 1, type=kinds.NORMAL))
    named = [*_FULL_WIDTH, *(f"[UNUSED_TOKEN_{number}]" for number in range(_UNUSED_TOKENS - len(MARKERS)))]
    markers = [f"[UNUSED_TOKEN_{number}]" for number in range(_UNUSED_TOKENS - len(MARKERS), _UNUSED_TOKENS)]
    known = {piece.piece for piece in pieces}
    room = VOCAB_SIZE - len(pieces) - len(named) - len(markers)
    rare = (chr(code) for code in range(_FILLER, 0x3FFFF) if chr(code) not in known)
    pieces += [kinds(piece=next(rare), score=lowest - 2 - place, type=kinds.NORMAL) for place in range(room)]
    pieces += [kinds(piece=name, score=0.0, type=kinds.USER_DEFINED) for name in (*named, *markers)]
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    proto.trainer_spec.vocab_size = len(pieces)
    assert len(pieces) == VOCAB_SIZE
    return bytes(proto.SerializeToString())


@cache
def sample_rows() -> list[dict[str, Any]]:
    """Return the sample prompts: about a hundred chats in twenty languages."""
    return [json.loads(line) for line in PROMPTS.read_text("utf-8").splitlines()]


def write_chats(path: Path, rows: int = 4000) -> Path:
    """Write a Parquet dataset of chats with a `custom_id` and two columns to keep: real ones, or samples repeated."""
    if REAL_PROMPTS.is_file():
        table = pq.read_table(REAL_PROMPTS)
    else:
        sample = sample_rows()
        found = [sample[number % len(sample)] for number in range(rows)]
        table = pa.table(
            {
                "custom_id": [f"{row['custom_id']}-{number}" for number, row in enumerate(found)],
                "package": [row["topic"] for row in found],
                "language": [row["language"] for row in found],
                "messages": [
                    [
                        *row["messages"][:-1],
                        {**row["messages"][-1], "content": f"{number}. {row['messages'][-1]['content']}"},
                    ]
                    for number, row in enumerate(found)
                ],
            }
        )
    pq.write_table(table.slice(0, rows), path, row_group_size=1000)
    return path
