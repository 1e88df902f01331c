"""Pools as people handle them: what they write, what a job takes from a pool, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import __version__
from jobs.client import BatchClient
from jobs.cluster.submission import Submission, Submitter
from jobs.errors import JobsError, UsageError
from jobs.models.encoding import BYTES_MODEL
from jobs.pools.book import PoolBook
from jobs.pools.matching import mismatch
from jobs.pools.placing import placement_of
from jobs.pools.ranges import parse_range
from jobs.settings import Settings
from jobs.spec.options import spec_of
from schemas.pools import Placement, PoolDown, PoolRange, PoolSpec, PoolState
from schemas.spec import EngineSpec, FakeSpec, JobSpec, ModelSpec

FAKE = EngineSpec(name="fake", max_num_seqs=8, fake=FakeSpec(token_s=0.5))
MODEL = ModelSpec(path=BYTES_MODEL)


class Cluster(Submitter):
    """A cluster that remembers which pools were started on it."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.status = "RUNNING"

    def start_pool(self, pool_uri: str, submission_id: str, metadata: dict[str, str], env: dict[str, str]) -> bool:
        self.started.append(submission_id)
        return True

    def find(self, job_uri: str) -> list[Submission]:
        return [
            Submission(submission_id=each, status=self.status, message="", started_at=1.0, ended_at=None, metadata={})
            for each in self.started
            if f"-{job_uri.rpartition('/')[2]}-" in f"-{each}"
        ]

    def stop(self, submission_id: str, wait_s: float = 30.0) -> None:
        self.status = "STOPPED"


@pytest.fixture
def client(tmp_path: Path) -> BatchClient:
    found = BatchClient(Settings(root=str(tmp_path)))
    found._submitter = Cluster()
    return found


def up(client: BatchClient, name: str = "demo", **options: Any) -> PoolSpec:
    return client.pools().up(name, model=MODEL, engine=options.pop("engine", FAKE), **options)[0]


def cluster_of(client: BatchClient) -> Cluster:
    assert isinstance(client._submitter, Cluster)
    return client._submitter


def test_the_same_pool_again_attaches_and_another_is_a_new_generation(client: BatchClient) -> None:
    first, created = client.pools().up("demo", model=MODEL, engine=FAKE)
    assert (first.generation, created, len(cluster_of(client).started)) == (1, True, 1)
    again, created = client.pools().up("demo", model=MODEL, engine=FAKE)
    assert (again, created, len(cluster_of(client).started)) == (first, False, 1)
    more, created = client.pools().up("demo", model=MODEL, engine=FAKE, replicas=PoolRange(min=0, max=3))
    assert (more.generation, created, len(cluster_of(client).started)) == (2, True, 1), "its driver goes on"
    cluster_of(client).status = "FAILED"
    assert client.pools().standing("demo").word == "LOST"
    _, created = client.pools().up("demo", model=MODEL, engine=FAKE, replicas=PoolRange(min=0, max=3))
    assert created
    assert len(set(cluster_of(client).started)) == 2, "Ray takes no id twice"


def test_a_pool_that_is_down_comes_back_in_a_new_generation(client: BatchClient) -> None:
    up(client)
    cluster_of(client).status = "SUCCEEDED"
    client.pools().down("demo", by="ada")
    assert client.pools().standing("demo").word == "DOWN"
    with pytest.raises(UsageError, match="was taken down by ada"):
        PoolBook(client.store).standing("demo")
    assert up(client).generation == 2


def test_states_are_told_in_one_word(client: BatchClient) -> None:
    up(client)
    assert client.pools().standing("demo").word == "STARTING"
    state = PoolState(pool="demo", generation=1, driver="d", phase="up", updated_at="", started_at="")
    book = PoolBook(client.store)
    book.write_state(state)
    assert client.pools().standing("demo").word == "UP"
    book.write_state(state.evolve(phase="ended", reason="The engine did not start."))
    cluster_of(client).status = "FAILED"
    standing = client.pools().standing("demo")
    assert (standing.word, standing.reason) == ("FAILED", "The engine did not start.")
    book.take_down("demo", 1, PoolDown(by="ada", at="", drain=True))
    assert client.pools().standing("demo").word == "DOWN"
    assert [each.spec.name for each in client.pools().standings()] == ["demo"]


def test_unknown_pools_are_told_with_what_there_is(client: BatchClient) -> None:
    with pytest.raises(UsageError) as caught:
        PoolBook(client.store).standing("demo")
    assert caught.value.hint == "Start it: jobs pool up demo --model DIR"
    up(client, "chat")
    with pytest.raises(UsageError, match="did you mean `chat`") as caught:
        PoolBook(client.store).standing("chatt")
    assert caught.value.hint == "Pools are: chat."
    for name in ("", "Chat", "a/b", "-a", "x" * 41):
        with pytest.raises(UsageError, match="not a name of a pool"):
            PoolBook(client.store).standing(name)


def test_a_job_gets_engine_and_model_from_its_pool(client: BatchClient) -> None:
    pool = up(client, replicas=PoolRange(min=0, max=4))
    settings = Settings(root=client.settings.root, replicas="9", model="/elsewhere")
    spec = spec_of("/d.parquet", {"pool": "demo", "temperature": 0.5}, settings, pool=pool)
    assert spec.engine == FAKE
    assert (spec.model.path, spec.replicas.min, spec.replicas.max) == (BYTES_MODEL, 1, 4)
    assert spec_of("/d.parquet", {"replicas": 2}, settings, pool=pool).replicas.max == 2, "a limit of the job's own"
    assert mismatch(spec, pool, version=__version__) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_num_seqs": 9}, "`max_num_seqs`: 9 is asked for, and pool demo has 8."),
        ({"dtype": "float16"}, "`dtype`: float16 is asked for, and pool demo has auto."),
        ({"fields": {"engine.fake.token_s": 9}}, "pool demo has"),
    ],
)
def test_another_engine_than_the_pools_is_refused_by_name(
    client: BatchClient, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        spec_of("/d.parquet", options, client.settings, pool=up(client))
    assert said in caught.value.message
    assert "--no-pool" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": {"quantization": "fp8", "name": "vllm"}}, "another engine"),
        ({"engine": {"max_model_len": 100}}, "another longest sequence: the model's own, and the job 100"),
        ({"engine": {"kv_cache_dtype": "fp8", "name": "vllm"}}, "another engine"),
        ({"model": {"path": "/models/other"}}, "another model"),
        ({"model": {"path": BYTES_MODEL, "fingerprint": "b"}}, "another model"),
    ],
)
def test_what_could_change_a_result_must_be_equal(client: BatchClient, change: dict[str, Any], said: str) -> None:
    pool = up(client)
    pool = pool.evolve(model=pool.model.evolve(fingerprint="a"))
    spec = spec_of("/d.parquet", {}, client.settings, pool=pool)
    assert mismatch(spec, pool, version=__version__) is None
    values = spec.model_dump(mode="json")
    for table, fields in change.items():
        values[table] |= fields
    why = mismatch(JobSpec.model_validate(values), pool, version=__version__)
    assert why is not None
    assert said in why
    assert "runs version" in (mismatch(spec, pool, version="0.0.0") or "")


def test_what_only_costs_room_is_the_pools_business(client: BatchClient) -> None:
    pool = up(client)
    spec = spec_of("/d.parquet", {}, client.settings, pool=pool)
    wider = spec.evolve(engine=spec.engine.evolve(max_num_seqs=64, gpu_memory_utilization=0.5))
    assert mismatch(wider, pool, version=__version__) is None


def test_a_claim_comes_from_options_before_file_before_settings() -> None:
    settings = Settings(root="/r", pool="shared")
    assert placement_of({}, {}, settings) == Placement(pool="shared")
    assert placement_of({}, {"pool": "file", "weight": 2}, settings) == Placement(pool="file", weight=2.0)
    found = placement_of({"pool": "mine", "priority": "urgent"}, {"pool": "file", "weight": 2}, settings)
    assert found == Placement(pool="mine", priority="urgent", weight=2.0)
    assert placement_of({"pool": ""}, {}, settings) is None, "--no-pool"
    assert placement_of({}, {}, Settings(root="/r")) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": "urgent"}, "no pool is given"),
        ({"pool": "a", "priority": "soon"}, "priority"),
        ({"pool": "a", "weight": 0}, "weight"),
        ({"pool": "A B"}, "pool"),
    ],
)
def test_claims_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        placement_of(options, {}, Settings(root="/r"))
    assert said in caught.value.message


@pytest.mark.parametrize(("text", "reach"), [("2", (2, 2)), ("0..8", (0, 8)), (" 1 .. 3 ", (1, 3))])
def test_numbers_of_replicas(text: str, reach: tuple[int, int]) -> None:
    assert parse_range(text) == PoolRange(min=reach[0], max=reach[1])


@pytest.mark.parametrize("text", ["", "0", "3..1", "many", "1..", "0..99999"])
def test_numbers_of_replicas_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--replicas"):
        parse_range(text)


@pytest.mark.parametrize(("word", "said"), [("FAILED", "is gone"), ("RUNNING", "")])
def test_a_job_is_not_submitted_to_a_pool_that_is_gone(client: BatchClient, word: str, said: str) -> None:
    pool = up(client)
    spec = spec_of("/d.parquet", {}, client.settings, pool=pool)
    cluster_of(client).status = word
    if not said:
        client.pools().check(Placement(pool="demo"), spec)
        return
    with pytest.raises(JobsError, match=said) as caught:
        client.pools().check(Placement(pool="demo"), spec)
    assert "jobs pool up demo" in caught.value.hint


def test_a_jobs_claim_is_kept_beside_its_spec_and_may_change(client: BatchClient) -> None:
    ledger = client.exact_job("job-1").ledger
    assert ledger.placement() is None
    ledger.place(Placement(pool="demo", weight=3.0))
    assert ledger.placement() == Placement(pool="demo", weight=3.0)
    ledger.place(None)
    assert ledger.placement() is None
