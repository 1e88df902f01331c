"""Tokenising word by word, where that provably gives the ids of the whole text: every word is computed once.

A BPE merge makes a piece of the vocabulary out of two neighbours. Where two characters are neighbours in no piece, no
merge reaches over them, and the text can be cut between them: the ids of its parts, joined, are the ids of the whole.
SentencePiece vocabularies have spaces almost only where pieces begin, so nearly every space is such a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

from tokenizers import Tokenizer

from jobs.models.convert import SPACE

REMEMBERED = 2**17
"""Words, about 30 MB of them, after which those are forgotten that have not been met since as many before."""

MAX_WORD = 32
"""Characters of the longest word that is kept: text without spaces comes once."""

_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PLAIN_BPE = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "ignore_merges": False,
}


class WordTokenizer:
    """Gives the ids that `encode_special_tokens=True` gives, without BOS. Safe to use from many threads."""

    def __init__(self, tokenizer: Tokenizer, pieces: Iterable[str], added: Iterable[str]) -> None:
        """See `of`.

        Args:
            pieces: the vocabulary.
            added: tokens that are found in the text before it is split into pieces; such a text is left whole.
        """
        self._tokenizer, self._model = tokenizer, tokenizer.model
        glue = {SPACE} | {piece[at - 1] for piece in pieces for at in _inner_spaces(piece)}
        before = "".join(map(re.escape, sorted(glue)))
        self._word = re.compile(f"(?s:.)[^{SPACE}]*(?:(?<=[{before}]){SPACE}[^{SPACE}]*)*")
        names = [re.escape(name.replace(" ", SPACE)) for name in added]
        self._added = re.compile("|".join(names) or "(?!)")
        self._known: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, document: Mapping[str, Any], tokenizer: Tokenizer) -> Self | None:
        """For a tokenizer whose words are independent; None where this is not certain.

        Args:
            document: its `tokenizer.json`.
        """
        model = document.get("model") or {}
        plain_bpe = all(model.get(key) == value for key, value in _PLAIN_BPE.items())
        if not plain_bpe or document.get("pre_tokenizer") or document.get("normalizer") != _NORMALIZER:
            return None
        if tokenizer.encode("a").ids != [
            *tokenizer.encode("").ids,
            *tokenizer.encode("a", add_special_tokens=False).ids,
        ]:
            return None  # it has an end-of-text token, or the like
        added = [token["content"] for token in document.get("added_tokens") or () if not token["special"]]
        return cls(tokenizer, model["vocab"], added)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, in order."""
        spaced = [text.replace(" ", SPACE) for text in texts]
        words = [None if self._added.search(text) else self._word.findall(text) for text in spaced]
        ids = self._ids(set(chain.from_iterable(found for found in words if found)))
        left = [text for text, found in zip(texts, words, strict=True) if found is None]
        whole = iter(self._tokenizer.encode_batch_fast(left, add_special_tokens=False))
        return [
            next(whole).ids if found is None else [*chain.from_iterable([ids[word] for word in found])]
            for found in words
        ]

    def _ids(self, words: set[str]) -> dict[str, Any]:
        if len(self._known) > REMEMBERED:
            self._known, self._older = {}, self._known  # replaced, not cleared: other threads may be reading them
        known, older = self._known, self._older
        ids = {word: known.get(word) for word in words}
        new = {word: older.get(word) or self._tokenise(word) for word, found in ids.items() if found is None}
        known.update((word, found) for word, found in new.items() if len(word) <= MAX_WORD)
        return ids | new

    def _tokenise(self, word: str) -> tuple[int, ...]:
        # The garbage collector does not look into tuples of numbers, of which there are many here.
        return tuple([token.id for token in self._model.tokenize(word)])


def _inner_spaces(piece: str) -> Iterable[int]:
    return (at for at in range(1, len(piece)) if piece[at] == SPACE)
