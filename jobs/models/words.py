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
        pairs = {pair for piece in pieces for pair in pairwise(piece)} | {(SPACE, SPACE), ("\n", "\n")}
        before_space = _class(first for first, second in pairs if second == SPACE)
        after_newline = _class(second for first, second in pairs if first == "\n")
        # A character, and all that follow it up to a place where the text can be cut.
        more = f"(?<!\n)[^{SPACE}\n]+|(?<!\n)\n|(?<={before_space}){SPACE}|(?<=\n){after_newline}"
        self._word = re.compile(f"[^\n][^{SPACE}\n]*(?:{more})*|\n(?:{more})*")
        names = [re.escape(name.replace(" ", SPACE)) for name in added]
        self._added = re.compile("|".join(names) or "(?!)")
        self._known = _Remembered(self._tokenise, {})

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

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Token ids of each text, packed, in order."""
        spaced = [text.replace(" ", SPACE) for text in texts]
        left = {at: texts[at] for at, text in enumerate(spaced) if self._added.search(text)}
        whole = iter(self._tokenizer.encode_batch_fast(list(left.values()), add_special_tokens=False))
        if len(self._known) > REMEMBERED:  # replaced, not cleared: other threads may be reading it
            # A copy: it must not keep the ones before it.
            self._known = _Remembered(self._tokenise, dict(self._known))
        ids, split = self._known.__getitem__, self._word.findall
        return [
            pack(next(whole).ids) if at in left else b"".join(map(ids, split(text))) for at, text in enumerate(spaced)
        ]

    def _tokenise(self, word: str) -> bytes:
        return pack([token.id for token in self._model.tokenize(word)])


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as 32-bit numbers in this machine's byte order: joined faster than lists, and nothing to collect."""
    return array("i", ids).tobytes()


def unpack(packed: bytes) -> list[int]:
    """The ids again."""
    return array("i", packed).tolist()


class _Remembered(dict[str, bytes]):
    """The ids of words, computed when they are first asked for."""

    def __init__(self, compute: Callable[[str], bytes], older: Mapping[str, bytes]) -> None:
        super().__init__()
        self._compute, self._older = compute, older

    def __missing__(self, word: str) -> bytes:
        ids = self._older.get(word) or self._compute(word)
        if len(word) <= MAX_WORD:
            self[word] = ids
        return ids


def _class(characters: Iterable[str]) -> str:
    """A regular expression for any of them."""
    return "[" + "".join(map(re.escape, sorted(characters))) + "]"
