"""Tokenising word by word, where that provably gives the ids of the whole text: every word is computed once.

A BPE merge makes a piece of the vocabulary out of two neighbours. Where two characters are neighbours in no piece, no
merge reaches over them, and the text can be cut between them: the ids of its parts, joined, are the ids of the whole.
SentencePiece vocabularies have spaces almost only where pieces begin, so nearly every space is such a place; and
newlines almost only where pieces end.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from tokenizers import Tokenizer

from jobs.models.convert import SPACE

REMEMBERED = 2**17
"""Words in one generation of the cache, about 30 MB. When it is full, words not met during it are forgotten."""

MAX_WORD = 32
"""Characters of the longest word that is kept: longer text without spaces occurs only once."""

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
    """Tokenizer that gives the ids of `encode_special_tokens=True`, without BOS. Safe to use from many threads."""

    def __init__(self, tokenizer: Tokenizer, pieces: Iterable[str], added: Iterable[str]) -> None:
        """See `of`.

        Args:
            pieces: the vocabulary.
            added: tokens that are matched before the text is split into pieces; a text with one is left whole.
        """
        self._tokenizer, self._model = tokenizer, tokenizer.model
        pairs = {pair for piece in pieces for pair in pairwise(piece)} | {(SPACE, SPACE), ("\n", "\n")}
        before_space = _class(first for first, second in pairs if second == SPACE)
        after_newline = _class(second for first, second in pairs if first == "\n")
        # A character, and all that follow it up to the next place where the text can be cut.
        more = f"(?<!\n)[^{SPACE}\n]+|(?<!\n)\n|(?<={before_space}){SPACE}|(?<=\n){after_newline}"
        self._word = re.compile(f"[^\n][^{SPACE}\n]*(?:{more})*|\n(?:{more})*")
        names = [re.escape(name.replace(" ", SPACE)) for name in added]
        self._added = re.compile("|".join(names) or "(?!)")
        self._known = _Remembered(self._tokenise, {})

    @classmethod
    def of(cls, document: Mapping[str, Any], tokenizer: Tokenizer) -> Self | None:
        """Build one for a tokenizer whose words are independent; return None if this is not certain.

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

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the token ids of each text, packed, in order."""
        spaced = [text.replace(" ", SPACE) for text in texts]
        left = {at: texts[at] for at, text in enumerate(spaced) if self._added.search(text)}
        whole = iter(self._tokenizer.encode_batch_fast(list(left.values()), add_special_tokens=False))
        if len(self._known) > REMEMBERED:  # replaced, not cleared: other threads may be reading it
            # A copy, because the original would keep all earlier generations alive.
            self._known = _Remembered(self._tokenise, dict(self._known))
        ids, split = self._known.__getitem__, self._word.findall
        return [
            pack(next(whole).ids) if at in left else b"".join(map(ids, split(text))) for at, text in enumerate(spaced)
        ]

    def _tokenise(self, word: str) -> bytes:
        return pack([token.id for token in self._model.tokenize(word)])


def pack(ids: Sequence[int]) -> bytes:
    """Pack token ids as 32-bit native integers: joined faster than lists, and no work for the garbage collector."""
    return array("i", ids).tobytes()


def unpack(packed: bytes) -> list[int]:
    """Return the token ids that `pack` packed."""
    return array("i", packed).tolist()


class _Remembered(dict[str, bytes]):
    """Cache of the ids of words, computed on first use."""

    def __init__(self, compute: Callable[[str], bytes], older: Mapping[str, bytes]) -> None:
        super().__init__()
        self._compute, self._older = compute, older

    def __missing__(self, word: str) -> bytes:
        ids = self._older.get(word) or self._compute(word)
        if len(word) <= MAX_WORD:
            self[word] = ids
        return ids


def _class(characters: Iterable[str]) -> str:
    """Return a regular expression that matches any of the characters."""
    return "[" + "".join(map(re.escape, sorted(characters))) + "]"
