"""What a driver keeps of the past: enough for a chart, bounded however long the job."""

from __future__ import annotations

from itertools import pairwise

from schemas.history import Activity, Loss, Sample
from schemas.records import ReplicaProgress, ReplicaState
from workers.driver.history import MAX_REPLICAS, MAX_SAMPLES, WRITE_EVERY_S, Recorder, activity_of
from workers.engines.base import EngineInfo


def replica(state: ReplicaState, *, shards: tuple[int, ...] = (), rows_in_flight: int = 0) -> ReplicaProgress:
    return ReplicaProgress(replica="replica-0", state=state, shards=shards, rows_in_flight=rows_in_flight)


BUSY, IDLE, LOADING = replica("ready", shards=(1,)), replica("ready"), replica("loading")
WAITING, LOST = replica("waiting"), replica("lost")


def test_what_replicas_do() -> None:
    assert "".join(map(activity_of, (WAITING, LOADING, BUSY, IDLE, LOST))) == "wlbix"
    assert activity_of(replica("ready", rows_in_flight=3)) is Activity.BUSY


def test_gpu_time_counts_while_a_replica_holds_its_gpus_and_not_while_it_waits() -> None:
    recorder = Recorder("demo")
    recorder.resolved(2, None)
    for at, replicas in (
        (0, [WAITING, WAITING]),
        (10, [WAITING, WAITING]),  # nothing held
        (20, [LOADING, WAITING]),  # 10 s of one
        (30, [BUSY, IDLE]),  # 10 s of two
        (40, [LOST, BUSY]),  # 10 s of one
    ):
        recorder.look(Sample(at=at), replicas)
    assert recorder.gpu_s == (10 + 20 + 10) * 2
    assert [sample.replicas for sample in recorder.history([]).samples] == ["ww", "ww", "lw", "bi", "xb"]


def test_a_week_of_many_replicas_stays_small_and_keeps_its_ends() -> None:
    recorder, looks = Recorder("demo"), 40_000
    for number in range(looks):
        recorder.look(Sample(at=number * 15.0, rows_ok=number), [BUSY] * (2 * MAX_REPLICAS if number < 3 else 4))
    history = recorder.history([])
    times = [sample.at for sample in history.samples]
    assert MAX_SAMPLES // 2 <= len(times) <= MAX_SAMPLES + 1
    assert (times[0], times[-1]) == (0.0, (looks - 1) * 15.0)
    steps = {late - early for early, late in pairwise(times[:-1])}
    assert len(steps) == 1, "samples are evenly spaced"
    assert len(history.samples[0].replicas) == MAX_REPLICAS
    assert len(history.to_json()) < 400_000


def test_the_document_tells_what_ran() -> None:
    recorder = Recorder("demo")
    recorder.resolved(None, None)
    recorder.look(Sample(at=1.0), [LOADING])
    recorder.resolved(
        1, EngineInfo(max_num_seqs=8, max_model_len=512, kv_tokens=4096, details={"dtype": "bfloat16", "sizes": [1, 2]})
    )
    recorder.look(Sample(at=2.0), [BUSY])
    recorder.resolved(1, None)  # the replicas have ended; what they were is still known
    loss = Loss(at=1.5, slot=0, reason="killed by signal 9")
    history = recorder.history([loss])
    limits = {"max_num_seqs": 8, "max_model_len": 512, "kv_tokens": 4096, "dtype": "bfloat16", "sizes": "[1, 2]"}
    assert history.engine == {**limits, "kv_block_tokens": 1, "device": "unknown"}
    assert (history.gpus_per_replica, history.num_slots, history.losses) == (1, 1, (loss,))
    assert {"python", "ray", "pyarrow"} <= history.versions.keys()


def test_it_is_written_soon_in_a_young_job_rarely_in_an_old_one_and_at_the_end() -> None:
    recorder, written = Recorder("demo"), []
    for at in range(0, 400, 2):
        recorder.look(Sample(at=float(at)), [BUSY])
        if recorder.due(float(at), ended=False):
            written.append(at)
    assert written[0] == 0
    assert any(0 < at <= 10 for at in written)
    assert {late - early for early, late in pairwise(written[-5:])} == {WRITE_EVERY_S}
    assert len(written) < 40
    assert recorder.due(399.0, ended=True)
