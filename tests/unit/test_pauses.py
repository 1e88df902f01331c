"""Pauses grow, end by either clock, and begin anew when they are forgotten."""

from __future__ import annotations

from jobs.pauses import Pauses


def test_a_pause_doubles_up_to_the_longest() -> None:
    now = [0.0]
    pauses = Pauses(5, 15, (lambda: now[0],))
    assert not pauses.lasts("a")
    for seconds, longer in [(5, True), (10, True), (10, False), (15, True), (15, True)]:
        pauses.begin("a", longer=longer)
        now[0] += seconds - 0.5
        assert pauses.lasts("a")
        assert not pauses.lasts("b")
        now[0] += 0.5
        assert not pauses.lasts("a")
    pauses.forget("a")
    pauses.begin("a", longer=True)
    now[0] += 5
    assert not pauses.lasts("a")


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    wall, monotonic = [1000.0], [0.0]
    pauses = Pauses(5, 300, (lambda: wall[0], lambda: monotonic[0]))
    pauses.begin("a", longer=True)
    wall[0], monotonic[0] = 0.0, 4.0
    assert pauses.lasts("a")
    monotonic[0] = 5.0
    assert not pauses.lasts("a")
