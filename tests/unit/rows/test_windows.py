"""Windows over a long text: each token is scored once, after as much of the text as the engine can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.rows.windows import num_read_tokens, parts, windows


def of(num_tokens: int, max_model_len: int) -> list[tuple[list[int], list[int]]]:
    """The windows over tokens 0, 1, … after the token -1."""
    token_ids = [-1, *range(num_tokens)]
    return [(list(a), list(b)) for a, b in windows(token_ids[:1], parts(token_ids, max_model_len))]


def test_the_example_of_lm_evaluation_harness() -> None:
    """The one in the docstring of `LM.loglikelihood_rolling`: ten tokens, and a model that reads four."""
    assert of(10, 6) == [([-1], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]


@given(st.integers(1, 80), st.integers(3, 40))
def test_every_token_is_scored_once_after_all_that_fits(num_tokens: int, max_model_len: int) -> None:
    found = of(num_tokens, max_model_len)
    assert [token for _, part in found for token in part] == list(range(num_tokens))
    whole = [-1, *range(num_tokens)]
    for context, part in found:
        end = part[-1] + 2
        assert [*context, *part] == whole[max(0, end - (max_model_len - 1)) : end]
    lengths = [len(part) for _, part in found]
    assert num_read_tokens(lengths) == sum(len(context) + len(part) for context, part in found)


@given(st.integers(1, 80), st.integers(3, 40))
def test_the_windows_are_those_of_lm_evaluation_harness(num_tokens: int, max_model_len: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is not installed here")
    expected = utils.get_rolling_token_windows(list(range(num_tokens)), -1, max_model_len - 2, 1)
    assert of(num_tokens, max_model_len) == [utils.make_disjoint_window(window) for window in expected]
