"""SentencePiece BPE models as `tokenizer.json`, converted piece by piece.

The general converters guess at this tokenizer and get ids wrong. Nothing is guessed here: both
libraries merge the best-scored adjacent pair first and the leftmost among equals, so merges ranked by
the score of the piece they make give the same segmentation. `jobs.models.parity` proves it per model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.errors import InvalidModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Piece types of `sentencepiece_model.proto`."""

SPACE = "▁"
_BPE = 2
_NUL_NAME = "<|unused NUL|>"


def parse_sentencepiece(model: bytes) -> Any:
    """Parse a SentencePiece model as `ModelProto`.

    Raises:
        InvalidModel: not a SentencePiece model, or one of a kind that has no exact conversion.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise InvalidModel(
            "tokenizer.model is not a SentencePiece model.", "Download tokenizer.model again; it may be a Git LFS stub."
        ) from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    for fits, what in (
        (trainer.model_type == _BPE, "is not a BPE model"),
        (trainer.byte_fallback, "has no byte fallback"),
        (not trainer.treat_whitespace_as_suffix, "treats whitespace as a suffix"),
        (not normalizer.precompiled_charsmap, "normalises text"),
        (not normalizer.add_dummy_prefix, "puts a space before the text"),
        (not normalizer.remove_extra_whitespaces, "removes whitespace"),
        (normalizer.escape_whitespaces, "does not escape spaces"),
    ):
        if not fits:
            raise InvalidModel(f"tokenizer.model {what}, unlike that of InternLM2.", "Use an InternLM2/2.5 model.")
    return proto


def convert_sentencepiece(model: bytes, markers: Mapping[int, str]) -> Tokenizer:
    """Convert a SentencePiece model for the `tokenizers` library.

    Args:
        model: bytes of `tokenizer.model`.
        markers: ids of chat markers and their text; they replace the names that the pieces have in the
            file (`[UNUSED_TOKEN_n]`) and become special tokens.

    Returns:
        A tokenizer whose default encoding starts with the BOS token.

    Raises:
        InvalidModel: see `parse_sentencepiece`; or a marker that is not a user-defined piece.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    proto = parse_sentencepiece(model)
    names: list[str] = []
    added: list[AddedToken] = []
    bos_id = -1
    for index, piece in enumerate(proto.pieces):
        name = markers.get(index, piece.piece)
        if index in markers and piece.type != USER_DEFINED:
            raise InvalidModel(f"Piece {index} of tokenizer.model is no place for {name}.", "Use an InternLM2 model.")
        # SentencePiece never produces a NUL piece; it would end a C string. NUL falls back to its byte.
        names.append(_NUL_NAME if name == "\0" else name)
        special = index in markers or piece.type in (UNKNOWN, CONTROL)
        if special or piece.type == USER_DEFINED:
            added.append(AddedToken(name, normalized=False, special=special))
        if piece.type == CONTROL and name == "<s>":
            bos_id = index
    vocab = {name: index for index, name in enumerate(names)}
    unknown = next((piece.piece for piece in proto.pieces if piece.type == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=_merges(proto.pieces), byte_fallback=True, fuse_unk=False, unk_token=unknown)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.Replace(_NUL_NAME, "\0"),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
    )
    tokenizer.add_tokens(added)
    if bos_id >= 0:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos_id)]
        )
    return tokenizer


def _merges(pieces: Any) -> list[tuple[str, str]]:
    normal = {piece.piece: piece.score for piece in pieces if piece.type == NORMAL and piece.piece != "\0"}
    ranked = [
        (-score, order, cut, text[:cut], text[cut:])
        for order, (text, score) in enumerate(normal.items())
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]
