"""Rows that kill the engine are found, all of them and no other, with few deaths."""

from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import RowError
from workers.driver.search import MAX_FRUITLESS, Search

CRASH = RowError.ENGINE_CRASH


def bound(rows: int, killers: int) -> int:
    """Deaths over a shard, its first strike included."""
    return killers + 1 + killers * max(1, ceil(log2(rows)))


def run(search: Search, rows: int, killers: set[int]) -> int:
    """Run a shard as the dispatcher does after its first strike; returns the deaths."""
    deaths = 0
    for _ in range(20_000):
        places = search.probe
        in_engine = set(range(rows)) - set(search.killers) if places is None else set(places)
        if in_engine & killers:
            deaths += 1
            search.died(places, CRASH)
        elif places is None:
            return deaths
        else:
            search.survived(places, rows)
    raise AssertionError("the search does not end")


@st.composite
def shards(draw: st.DrawFn) -> tuple[int, set[int]]:
    rows = draw(st.integers(1, 600))
    return rows, draw(st.sets(st.integers(0, rows - 1), min_size=1, max_size=min(rows, 8)))


@given(shards())
def test_every_killer_is_found_and_no_other_row_within_the_bound(shard: tuple[int, set[int]]) -> None:
    rows, killers = shard
    search = Search(rows)
    deaths = 1 + run(search, rows, killers)
    assert set(search.killers) == killers
    assert search.fruitless == 0
    assert deaths <= bound(rows, len(killers))


@pytest.mark.parametrize("place", [0, 1, 8191, 16383])
def test_one_killer_in_the_largest_shard_costs_at_most_sixteen_deaths(place: int) -> None:
    search = Search(16_384)
    assert 1 + run(search, 16_384, {place}) <= 16
    assert set(search.killers) == {place}


@given(shards(), st.data())
def test_killers_that_are_known_are_not_searched_again(shard: tuple[int, set[int]], data: st.DataObject) -> None:
    rows, killers = shard
    known = data.draw(st.sets(st.sampled_from(sorted(killers))))
    search = Search(rows, dict.fromkeys(known, CRASH))
    deaths = run(search, rows, killers)
    assert set(search.killers) == killers
    assert deaths <= bound(rows, len(killers - known)) if killers - known else deaths == 0


def test_a_shard_that_dies_as_a_whole_only_is_given_up_after_some_searches() -> None:
    search = Search(8)
    for _ in range(500):
        if search.hopeless:
            break
        if (places := search.probe) is None:
            search.died(None, CRASH)
        else:
            search.survived(places, 8)
    assert search.hopeless
    assert search.fruitless == MAX_FRUITLESS
    assert not search.killers


def test_places_beyond_the_rows_that_there_are_do_no_harm() -> None:
    search = Search(64)
    for _ in range(40):
        places = search.probe
        if 2 in (set(range(64)) - set(search.killers) if places is None else places):
            search.died(places, CRASH)
        elif places is None:
            break
        else:
            search.survived(places, 3)
    assert search.killers == {2: CRASH}
    assert {search.sample(n) for n in range(6)} == {0, 1}


def test_samples_are_different_rows_and_not_suspected_ones_while_there_are_others() -> None:
    search = Search(12)
    assert len({search.sample(n) for n in range(3)}) == 3
    search.died(None, CRASH)
    search.died((0, 1, 2, 3, 4, 5), CRASH)
    assert all(search.sample(n) in range(6, 12) for n in range(6))
    assert Search(1, {0: CRASH}).sample(0) is None


def test_a_row_that_hangs_keeps_its_own_code() -> None:
    search = Search(2)
    search.died(None, CRASH)
    assert search.died((0,), RowError.TIMEOUT) == 0
    assert search.killers == {0: RowError.TIMEOUT}
