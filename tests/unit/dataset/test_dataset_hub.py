"""Data sets on Hugging Face's hub: read at one commit, which the plan pins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.dataset import inspect, pin
from jobs.errors import InvalidInput, MissingInput, StoreError
from schemas.spec import InputSpec
from tests.support.hub import TOKEN, Hub, serving
from tests.unit.dataset.test_dataset_clouds import parquet, rows_of

ROOT = "hf://datasets/org/name"


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty hub: one server for all tests, since a decoder's process keeps the address that it has first seen."""
    server.commits, server.gated, server.ranges, server.requests = {}, False, True, []
    _use(monkeypatch, server.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return server


def _use(monkeypatch: pytest.MonkeyPatch, endpoint: str, *, offline: bool = False) -> None:
    from huggingface_hub import constants

    # The library reads the environment once, when it is imported.
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template[template.index("/{repo_id}") :])


def test_a_data_set_is_read_at_the_commit_that_is_pinned(hub: Hub) -> None:
    files = {"README.md": b"# name", "data/train-00000-of-00002.parquet": parquet(1, 2)}
    first = hub.commit(**files, **{"data/train-00001-of-00002.parquet": parquet(3)})
    dataset = inspect(ROOT)
    assert rows_of(dataset) == [1, 2, 3]
    assert [(table.format, table.uri, table.version) for table in dataset.tables] == [("hub", ROOT, first)]
    assert dataset.files[0].uri == f"{ROOT}@{first}/data/train-00000-of-00002.parquet"
    second = hub.commit(**{"data/a b.parquet": parquet(7)})
    assert rows_of(ROOT) == [7]
    assert rows_of(f"{ROOT}/data/*.parquet") == rows_of(f"{ROOT}@{second}/data/a b.parquet") == [7]
    again = inspect(ROOT, dataset.tables)  # type: ignore[arg-type]
    assert rows_of(again) == rows_of(inspect(InputSpec(uri=ROOT, at=first))) == [1, 2, 3]
    assert pin(again) == pin(dataset)


def test_only_the_bytes_that_are_needed_are_read(hub: Hub) -> None:
    hub.commit(**{"a.jsonl": b"".join(b'{"prompt": "%0200d", "n": %d}\n' % (n, n) for n in range(30_000))})
    assert rows_of(f"{ROOT}/a.jsonl") == [*range(30_000)]
    assert all(request.startswith(("GET", "POST")) for request in hub.requests)


def test_a_mirror_that_knows_no_ranges_costs_time_and_no_row(hub: Hub) -> None:
    hub.ranges = False
    lines = b"".join(b'{"prompt": "%0200d", "n": %d}\n' % (n, n) for n in range(3000))
    hub.commit(**{"a.jsonl": lines, "b/x.parquet": parquet(1, 2)})
    assert rows_of(f"{ROOT}/a.jsonl") == [*range(3000)]
    assert rows_of(f"{ROOT}/b/") == [1, 2]


def test_what_is_not_there_or_refused_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(**{"a.parquet": parquet(1)})
    with pytest.raises(MissingInput, match="There is nothing at"):
        inspect(f"{ROOT}/nothing/")
    with pytest.raises(MissingInput, match=r"no .* at v9 on the hub"):
        inspect(InputSpec(uri=ROOT, at="v9"))
    with pytest.raises(MissingInput, match=r"no .* on the hub"):
        inspect("hf://datasets/org/other")
    with pytest.raises(InvalidInput, match="names no data set"):
        inspect("hf://models/org/name")
    for odd in ("or--g/name", "org/na..me", "-org/name", "org/name.git"):
        with pytest.raises(InvalidInput, match="the hub has no such names"):
            inspect(f"hf://datasets/{odd}")
    with pytest.raises(InvalidInput, match="has a revision, and --at"):
        inspect(InputSpec(uri=f"{ROOT}@main", at="main"))
    hub.gated = True
    with pytest.raises(StoreError, match="accepted its terms") as caught:
        inspect(ROOT)
    assert TOKEN not in str(caught.value)
    _use(monkeypatch, hub.endpoint, offline=True)
    with pytest.raises(StoreError, match="HF_HUB_OFFLINE is set here"):
        inspect(ROOT)
