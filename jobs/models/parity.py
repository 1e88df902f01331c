"""Proof that a converted tokenizer gives SentencePiece's ids."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from jobs.errors import InvalidModel
from jobs.models.convert import BYTE, CONTROL, SPACE, UNKNOWN, UNUSED, parse_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 4096
_RUN = 256
_SURROGATES = range(0xD800, 0xE000)


def check_parity(
    tokenizer: Tokenizer, model: bytes, markers: Mapping[int, str], *, stride: int = 1, num_mixtures: int = 20_000
) -> int:
    """Compare a conversion with its original on texts that cover the vocabulary and Unicode.

    The texts: every piece alone, doubled and tripled (overlapping merges); every `stride`-th character of
    Unicode; and mixtures of pieces, characters, whitespace and NUL from a fixed seed. Ids must be equal, and
    decoding must restore the text, except for U+2581, which SentencePiece itself reads as a space.

    Returns:
        The number of tokens compared.

    Raises:
        InvalidModel: they differ on a text.
    """
    from sentencepiece import SentencePieceProcessor, set_min_log_level

    set_min_log_level(2)  # it warns about the NUL piece, which is handled
    original = SentencePieceProcessor(model_proto=model)
    texts = _texts(model, markers, stride=stride, num_mixtures=num_mixtures)
    num_tokens = 0
    plain = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        while batch := list(islice(texts, _BATCH)):
            expected = original.encode(batch)
            got = [encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            decoded = tokenizer.decode_batch(got, skip_special_tokens=False)
            for text, want, ids, back in zip(batch, expected, got, decoded, strict=True):
                if ids != want or back != text.replace(SPACE, " "):
                    raise InvalidModel(
                        f"The converted tokenizer differs from SentencePiece on the text {text[:80]!a}.",
                        "Report this tokenizer.model as a bug; do not use the conversion.",
                    )
            num_tokens += sum(map(len, got))
    finally:
        tokenizer.encode_special_tokens = plain
    return num_tokens


def _texts(model: bytes, markers: Mapping[int, str], *, stride: int, num_mixtures: int) -> Iterator[str]:
    pieces = [
        piece.piece.replace(SPACE, " ")
        for index, piece in enumerate(parse_sentencepiece(model).pieces)
        if index not in markers and piece.type not in (UNKNOWN, CONTROL, UNUSED, BYTE)
    ]
    for times in (1, 2, 3):
        yield from (piece * times for piece in pieces)
    characters = [chr(code) for code in range(0, 0x110000, stride) if code not in _SURROGATES]
    for start in range(0, len(characters), _RUN):
        yield "".join(characters[start : start + _RUN])
    yield from _mixtures(pieces, characters, num_mixtures)


def _mixtures(pieces: list[str], characters: list[str], count: int) -> Iterator[str]:
    chance = random.Random(0)  # noqa: S311 - reproducible test texts, not secrets
    sources = (pieces, pieces, pieces, characters, [" ", "  ", "\n", "\t", "\r\n", "\0", SPACE, "0", "——", "…"])
    for _ in range(count):
        yield "".join(chance.choice(chance.choice(sources)) for _ in range(chance.randint(1, 40)))
