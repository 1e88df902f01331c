"""Windows over a text that is scored as a whole: every token is scored once, with as many tokens before it as fit.

The cut is that of lm-evaluation-harness (`lm_eval.utils.get_rolling_token_windows` with `context_len=1`, then
`make_disjoint_window`), so that sums can be compared with its numbers. Its `max_seq_len` is `max_model_len - 2` here:
an engine reads the scored tokens themselves, and generates a token after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise


def parts(token_ids: Sequence[int], max_model_len: int) -> list[Sequence[int]]:
    """Cut the tokens after the first one into the parts that are scored at a time.

    Args:
        token_ids: tokens of the text after the one that begins it, which is not scored.
    """
    longest = max(1, max_model_len - 2)
    return [token_ids[start : start + longest] for start in range(1, len(token_ids), longest)]


def windows(begin: Sequence[int], cut: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Yield context and scored tokens of each part.

    Args:
        begin: the tokens before the first part.
        cut: result of `parts`; all but the last are as long as the first.
    """
    yield begin, cut[0]
    for before, part in pairwise(cut):
        # As long as the first window. A full part leaves room for one token of context.
        yield before[len(part) - len(cut[0]) - 1 :], part


def num_read_tokens(lengths: Sequence[int]) -> int:
    """Count the tokens that an engine reads for parts of these lengths, contexts included."""
    return 1 + lengths[0] + sum(1 + lengths[0] for _ in lengths[1:]) if lengths else 0
