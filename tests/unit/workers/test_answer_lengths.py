"""What is expected of answers, from those that have ended and those that have not."""

from __future__ import annotations

import numpy as np
import pytest

from workers.replica.answer_lengths import REMEMBERED, AnswerLengths


def expected(lengths: AnswerLengths, *written: float) -> list[float]:
    return lengths.expected(np.array(written)).tolist()  # type: ignore[no-any-return]


def test_as_long_as_they_may_be_while_nothing_is_known() -> None:
    assert expected(AnswerLengths(), 0.0, 0.4, 1.0) == [1.0, 1.0, 1.0]


def test_the_product_limit_estimate_by_hand() -> None:
    """Of four, one ended at 0.2; of the three that came to 0.4, one ended there. A new one tells nothing."""
    lengths = AnswerLengths()
    lengths.learn(0.4)
    lengths.learn(0.2)
    from_the_start = 0.2 * 1 / 4 + 0.4 * (3 / 4) * (1 / 3) + 1.0 * (3 / 4) * (2 / 3)
    assert expected(lengths, 0.4, 0.6, 0.0) == pytest.approx([1.0, 1.0, from_the_start])
    of_those_beyond = 0.4 * 1 / 3 + 1.0 * 2 / 3
    assert expected(lengths, 0.4, 0.6, 0.2) == pytest.approx([1.0, 1.0, of_those_beyond])


@pytest.mark.parametrize("mean", [0.1, 0.5])
def test_the_first_to_end_do_not_stand_for_those_still_being_written(mean: float) -> None:
    """All begin together: whenever one looks, what is expected is near the truth, and never far below."""
    chance = np.random.default_rng(1)
    lengths, all_of_them = AnswerLengths(), np.sort(np.clip(chance.lognormal(np.log(mean), 0.5, 500), 0.0, 1.0))
    for ended in range(500):
        lengths.learn(all_of_them[ended])
        if ended in (50, 250, 450):
            inside = np.full(499 - ended, all_of_them[ended])
            begin = lengths.expected(np.append(inside, 0.0))[-1]
            assert all_of_them.mean() * 0.97 <= begin
            beyond = lengths.expected(inside)[0]
            assert beyond >= all_of_them[ended + 1 :].mean() * 0.97
    assert expected(lengths, 0.0) == pytest.approx([all_of_them.mean()])


def test_earlier_answers_are_forgotten() -> None:
    lengths = AnswerLengths()
    for length in (0.1, 0.8):
        for _ in range(REMEMBERED):
            lengths.learn(length)
    assert expected(lengths, 0.0) == pytest.approx([0.8])


def test_an_answer_longer_than_all_before_may_use_its_whole_budget() -> None:
    lengths = AnswerLengths()
    for _ in range(10):
        lengths.learn(0.5)
    assert expected(lengths, 0.5, 0.7) == [1.0, 1.0]
