"""A replica is stalled when it has rows and shows no sign of life for long enough."""

from __future__ import annotations

from workers.driver.watchdog import Watchdog
from workers.messages import ReplicaCounters


def looks(watchdog: Watchdog, counters: ReplicaCounters | None, count: int, elapsed_s: float = 1.0) -> list[bool]:
    return [watchdog.is_stalled(counters, elapsed_s) for _ in range(count)]


def test_rows_without_any_sign_of_life_are_a_stall_after_the_timeout() -> None:
    stuck = ReplicaCounters(rows_in_flight=3, rows_done=7, engine_steps=100)
    assert looks(Watchdog(4), stuck, 6) == [False, False, False, False, True, True]


def test_a_row_or_a_step_is_a_sign_of_life() -> None:
    watchdog = Watchdog(4)
    for n in range(20):
        assert not watchdog.is_stalled(ReplicaCounters(rows_in_flight=1, rows_done=n // 2, engine_steps=n), 3)


def test_a_replica_without_rows_is_not_expected_to_compute() -> None:
    assert not any(looks(Watchdog(4), ReplicaCounters(rows_done=7), 50))


def test_a_replica_that_answers_nothing_is_stalled_too() -> None:
    watchdog = Watchdog(4)
    assert looks(watchdog, ReplicaCounters(rows_in_flight=1), 1) == [False]
    assert looks(watchdog, None, 4) == [False, False, False, True]


def test_a_pause_of_the_watcher_is_not_held_against_the_replica() -> None:
    watchdog = Watchdog(40)
    stuck = ReplicaCounters(rows_in_flight=3)
    assert looks(watchdog, stuck, 2, elapsed_s=5.0) == [False, False]
    assert not watchdog.is_stalled(stuck, 100_000)
