"""Datasets on the hub and in Google's and Azure's stores, from `jobs submit` to the results, on a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import hub
from tests.support.clouds import Cloud, azure_environment, azurite, google_environment, use_azure, use_google
from tests.support.harness import User, check_invariants, embedded_cluster, new_id
from tests.support.hub import TOKEN
from tests.support.s3 import S3Server
from tests.unit.dataset.test_dataset_clouds import parquet

ROWS = 1500
"""More than a driver stages by itself, so that Ray's tasks read the files."""


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[SimpleNamespace]:
    """A hub, and a cluster that reaches it and Google's store."""
    with hub.serving() as server:
        env = {
            "HF_ENDPOINT": server.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            **google_environment(s3_server),
        }
        with embedded_cluster(tmp_path_factory.mktemp("state"), env) as cluster:
            yield SimpleNamespace(hub=server, env=cluster)


def computed(user: User, uri: str) -> str:
    """Run a job over a dataset that is somewhere else, and check that it has an answer to each row."""
    job_id = new_id()
    submit = ("submit", uri, "--engine", "fake", "--id", job_id, "--keep", "n", "--max-tokens", "4", "--wait")
    user.run(*submit, "--prompt-column", "prompt", timeout_s=300)
    table = check_invariants(user.ledger(job_id), ROWS)
    assert table["n"].to_pylist() == list(range(ROWS))
    assert set(table["status"].to_pylist()) == {"ok"}
    return job_id


def files() -> dict[str, bytes]:
    return {
        "data/part-0.parquet": parquet(*range(ROWS // 2)),
        "data/part-1.parquet": parquet(*range(ROWS // 2, ROWS)),
    }


def test_a_data_set_on_the_hub_is_computed_at_the_commit_of_its_submission(
    away: SimpleNamespace, tmp_path: Path
) -> None:
    user = User(root=str(tmp_path / "root"), env=away.env)
    first = away.hub.commit(**files())
    job_id = computed(user, "hf://datasets/org/name")
    plan = user.ledger(job_id).plan()
    assert plan is not None
    assert [(table.format, table.version) for table in plan.tables] == [("hub", first)]
    away.hub.commit(**{"data/part-0.parquet": parquet(7)})
    found = user.json("preview", f"hf://datasets/org/name@{first}", "--engine", "fake")
    assert found
    said = "".join(user.said)
    assert TOKEN not in said
    store = user.ledger(job_id).store
    assert not [info.key for info in store.list("") if TOKEN.encode() in (store.get(info.key) or b"")]


def test_files_in_googles_store_are_computed(
    away: SimpleNamespace, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    cloud = use_google(monkeypatch, s3_server)
    _compute_in(cloud, User(root=str(tmp_path / "root"), env=away.env))


def test_files_in_azures_store_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    with azurite(tmp_path / "azurite") as endpoint:
        cloud = use_azure(monkeypatch, endpoint)
        with embedded_cluster(tmp_path / "state", azure_environment(endpoint)) as env:
            _compute_in(cloud, User(root=str(tmp_path / "root"), env=env))


def _compute_in(cloud: Cloud, user: User) -> None:
    for key, data in files().items():
        cloud.put(f"in/{key}", data)
    job_id = computed(user, f"{cloud.root}/in/")
    cloud.put("in/data/part-1.parquet", parquet(1))
    refused = user.run("resume", job_id, code=None)
    assert "has ended" in refused.stderr
    plan = user.ledger(job_id).plan()
    assert plan is not None
    assert [file.num_rows for file in plan.files] == [ROWS // 2, ROWS // 2]
