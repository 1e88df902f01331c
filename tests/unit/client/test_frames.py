"""Data frames as datasets: what is written, what is refused, and that no message quotes a row."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import frames
from jobs.client import BatchClient
from jobs.cluster.submission import Submission, Submitter
from jobs.dataset import inspect
from jobs.errors import Conflict, InvalidInput, JobsError, UsageError
from jobs.frames import as_parquet
from jobs.settings import Settings

SECRET = "CANARY-7e1f"
ROWS = [{"prompt": f"{SECRET} {i}", "number": i} for i in range(10)]


class NoCluster(Submitter):
    """A cluster that takes every driver and runs none."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def find(self, job_uri: str) -> list[Submission]:
        return []

    def submit(
        self, job_uri: str, submission_id: str, metadata: dict[str, str], env: dict[str, str], pool: str | None = None
    ) -> bool:
        self.started.append(submission_id)
        return True


class Exported:
    """A frame of a library that we do not know, through Arrow's C stream alone."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    found = BatchClient(Settings(root=str(tmp_path / "root"), engine="fake"))
    found._submitter = NoCluster()
    return found


def _digest(data: object) -> str:
    with as_parquet(data) as frame:
        return frame.digest


def _read_back(data: object) -> pa.Table:
    with as_parquet(data) as frame:
        return pa.concat_tables([pq.read_table(part) for part in sorted(frame.folder.iterdir())])


def test_every_kind_of_frame_with_the_same_rows_is_the_same_dataset() -> None:
    table = pa.Table.from_pandas(pd.DataFrame(ROWS))
    pieces = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    kinds = [
        pd.DataFrame(ROWS),
        pd.DataFrame([{}, *ROWS], columns=["prompt", "number"])[1:].astype({"number": int}),
        table,
        pieces,
        pieces.to_reader(),
        table.combine_chunks().to_batches()[0],
        Exported(pieces),
    ]
    assert len({_digest(kind) for kind in kinds}) == 1
    assert _digest(table.slice(1)) != _digest(table)
    assert _read_back(pieces).to_pylist() == ROWS


def test_of_a_pandas_index_named_levels_become_columns() -> None:
    frame = pd.DataFrame(ROWS)
    assert _read_back(frame.set_index("number")).schema.names == ["prompt", "number"]
    assert _read_back(frame[frame.number > 3]).schema.names == ["prompt", "number"]


def test_types_that_parquet_readers_differ_on() -> None:
    chat = [{"role": "user", "content": "hi"}]
    frame = pd.DataFrame({"messages": [chat, chat], "kind": pd.Categorical(["a", "b"])})
    assert _read_back(frame).to_pylist() == [{"messages": chat, "kind": kind} for kind in "ab"]
    views = pa.table({"prompt": pa.array(["a", None], pa.string_view())})
    assert _read_back(views)["prompt"].to_pylist() == ["a", None]


def test_a_large_frame_is_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "GROUP_ROWS", 4)
    monkeypatch.setattr(frames, "PART_BYTES", 1)
    with as_parquet(pd.DataFrame(ROWS)) as frame:
        parts = sorted(frame.folder.iterdir())
        assert [part.name for part in parts] == [f"part-0000{i}.parquet" for i in range(3)]
        assert [pq.read_metadata(part).num_rows for part in parts] == [4, 4, 2]
        assert inspect(str(frame.folder)).num_rows == 10
    assert not frame.folder.exists()


def _breaking() -> Iterator[pa.RecordBatch]:
    yield pa.record_batch({"prompt": ["a"]})
    raise ValueError(SECRET)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([SECRET], UsageError, "made of list"),
        ({"prompt": [SECRET]}, UsageError, "made of dict"),
        (SECRET.encode(), UsageError, "made of bytes"),
        (None, UsageError, "made of NoneType"),
        (pd.Series([SECRET]), UsageError, "made of pandas"),
        (pa.array([SECRET]), UsageError, "made of pyarrow"),
        (pa.chunked_array([[SECRET]]), UsageError, "made of pyarrow"),
        (pd.DataFrame({"prompt": [SECRET, 1, {}]}), InvalidInput, "column 'prompt' has values of types"),
        (pd.DataFrame({"prompt": [SECRET], "z": [1 + 2j]}), InvalidInput, "column 'z' has values of types"),
        (pd.DataFrame({"prompt": []}), InvalidInput, "no rows"),
        (pd.concat([pd.DataFrame(ROWS)] * 2, axis=1), InvalidInput, "two columns named 'number'"),
        (pa.RecordBatchReader.from_batches(pa.schema({"prompt": pa.string()}), _breaking()), InvalidInput, "producer"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_refused_is_named_by_type_and_column_alone(
    client: BatchClient, data: Any, kind: type[JobsError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client.submit(data)
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert SECRET not in shown
    assert "pyarrow.Table" in caught.value.hint or kind is InvalidInput
    assert not list(client.jobs())


@pytest.mark.parametrize(
    "text", [f"{SECRET}\nsecond line", f"{SECRET} " * 40, f"s3://bucket/\ud800{SECRET}", f"a://{SECRET}\n"]
)
def test_text_that_is_no_path_is_not_quoted(client: BatchClient, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inspect(text)
    assert SECRET not in str(caught.value) + caught.value.hint
    assert "characters" in str(caught.value)


def test_a_frame_becomes_the_input_of_its_job(client: BatchClient) -> None:
    job = client.submit(pd.DataFrame(ROWS), job_id="framed", keep=["number"])
    spec = job.ledger.spec()
    assert spec.name == "data-frame"
    assert spec.input.uri.startswith(f"{client.store.uri}/_inputs/")
    assert inspect(spec.input.uri).num_rows == 10
    assert [each.id for each in client.jobs()] == ["framed"]


def test_the_same_frame_under_the_same_id_attaches(client: BatchClient) -> None:
    frame = pd.DataFrame(ROWS)
    client.submit(frame, job_id="framed")
    before = {info.key: info.modified_at for info in client.store.list()}
    client.submit(pa.Table.from_pandas(frame).to_reader(), job_id="framed")
    assert {info.key: info.modified_at for info in client.store.list()} == before
    with pytest.raises(Conflict):
        client.submit(frame[:5], job_id="framed")
    assert {info.key: info.modified_at for info in client.store.list()} == before, "nothing is left of the other"
    client.submit(frame, job_id="another")
    assert len(list(client.store.list("_inputs/"))) == 1, "two jobs read the same rows"


def test_a_frame_that_fails_the_checks_leaves_nothing(client: BatchClient) -> None:
    with pytest.raises(UsageError, match="no column 'nope'"):
        client.submit(pd.DataFrame(ROWS), job_id="framed", keep=["nope"])
    with pytest.raises(InvalidInput) as caught:
        client.submit(pd.DataFrame({"other": [SECRET]}), job_id="framed")
    assert SECRET not in str(caught.value) + caught.value.hint
    assert not [info.key for info in client.store.list() if not info.key.startswith("_probe")]
