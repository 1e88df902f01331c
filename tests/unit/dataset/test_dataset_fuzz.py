"""Files that nobody would write, by the thousand: every row is accounted for, or the file is refused by name.

By time, not by count. A failing example is shrunk; its seed is in the message and repeats it.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from jobs.dataset import InputChanged, decoder, failures_of, inspect, read_slice, resolve_columns, slices
from jobs.errors import InvalidInput, UsageError
from jobs.models.encoding import BYTES_MODEL, load_encoder
from jobs.rows.prepare import RowPreparer
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec
from tests.support.quick import QUICK

EXAMPLES = 50
"""Of one seed; the time is looked at in between."""

Mutation = tuple[str, int, int, bytes]

SECONDS = [
    pytest.param(2.0 if QUICK else 10.0, id="short"),
    pytest.param(100.0, id="long", marks=[pytest.mark.nightly, pytest.mark.timeout(600)]),
]


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MEMORY_BYTES", 2**30)
    monkeypatch.setattr(decoder, "CPU_S", 30)
    monkeypatch.setattr(decoder, "STILL_S", 30.0)


def fuzz(strategy: st.SearchStrategy[bytes], path: Path, seconds: float, request: pytest.FixtureRequest) -> None:
    """Read what the strategy gives, until the time is over."""
    long = request.node.get_closest_marker("nightly") is not None
    first, outcomes, end = random.randrange(2**31) if long else 0, set(), time.monotonic() + seconds
    number = first
    while time.monotonic() < end:

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        @given(strategy)
        def try_some(data: bytes) -> None:
            path.write_bytes(data)
            outcomes.add(read(path))

        try:
            try_some()
        except BaseException as error:
            error.add_note(f"seed {number}")
            raise
        number += 1
    assert outcomes == {"refused", "read"}, f"seeds {first} to {number}"


def read(path: Path) -> str:
    """What comes of a file. Every other outcome is a fault of the program."""
    try:
        dataset = inspect(str(path))
        spec = JobSpec(
            name="n",
            input=InputSpec(uri=str(path), chat=False),
            model=ModelSpec(path=BYTES_MODEL),
            engine=EngineSpec(name="fake"),
        )
        try:
            columns = resolve_columns(dataset.schema, spec.input)
        except UsageError:
            columns = None
        row_ids: list[int] = []
        for piece in slices(dataset, 32):
            first = piece.first_row_id
            for batch in read_slice(piece):
                assert batch.schema.names == dataset.schema.names
                assert all(0 <= index < len(batch) for index in failures_of(batch))
                row_ids += range(first, first + len(batch))
                if columns is not None:
                    prepared = RowPreparer(spec, columns, load_encoder(BYTES_MODEL), 4096).prepare(
                        batch.select(list(columns.needed)), first
                    )
                    assert prepared["row_id"].to_pylist() == list(range(first, first + len(batch)))
                first += len(batch)
        assert row_ids == list(range(dataset.num_rows))
    except InputChanged:
        raise AssertionError("nothing has changed the file") from None
    except InvalidInput as error:
        if path.name not in str(error) or not error.hint:
            raise AssertionError(f"the file is not named: {error}") from None
        return "refused"
    return "read"


# -- bytes that were something ------------------------------------------------------------------

POSITIONS = st.integers(0, 2**20)
NASTY = st.sampled_from(
    [b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80" * 10 + b"\x01", b"PAR1", b"\n", b'"']
)
MUTATIONS: st.SearchStrategy[Mutation] = st.one_of(
    st.tuples(st.sampled_from(["flip", "flip near the end"]), POSITIONS, st.integers(0, 7), st.just(b"")),
    st.tuples(st.sampled_from(["cut", "delete", "repeat"]), POSITIONS, st.integers(1, 200), st.just(b"")),
    st.tuples(st.sampled_from(["put", "put near the end", "insert"]), POSITIONS, st.just(0), NASTY),
    st.tuples(st.just("footer's length"), POSITIONS, st.integers(0, 2**32 - 1), st.just(b"")),
)


def mutated(data: bytes, mutation: Mutation, other: bytes) -> bytes:
    what, position, number, piece = mutation
    at = position % max(1, len(data))
    if what.endswith("near the end"):
        at = max(0, len(data) - 1 - position % 600)
    match what.removesuffix(" near the end"):
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << number)]) + data[at + 1 :] if data else data
        case "cut":
            return data[:at]
        case "delete":
            return data[:at] + data[at + number :]
        case "repeat":
            return data[: at + number] + other[at : at + number] + data[at + number :]
        case "put":
            return data[:at] + piece + data[at + len(piece) :]
        case "insert":
            return data[:at] + piece + data[at:]
        case _:
            return data[:-8] + number.to_bytes(4, "little") + data[-4:]


def mutants_of(originals: Callable[[], list[bytes]]) -> st.SearchStrategy[bytes]:
    def apply(start: int, other: int, mutations: list[Mutation]) -> bytes:
        bases = originals()
        data = bases[start % len(bases)]
        for mutation in mutations:
            data = mutated(data, mutation, bases[other % len(bases)])
        return data

    return st.builds(apply, st.integers(0, 99), st.integers(0, 99), st.lists(MUTATIONS, min_size=0, max_size=4))


# -- Parquet ------------------------------------------------------------------------------------


@cache
def parquet_files() -> list[bytes]:
    """Small files with every kind of page, compression and column that datasets have."""
    rows = 40
    start = datetime(2026, 1, 1, tzinfo=UTC)
    plain = pa.table(
        {"prompt": [f"prompt {n}" for n in range(rows)], "custom_id": [f"id-{n % 7}" for n in range(rows)]}
    )
    rich = pa.table(
        {
            "messages": [[{"role": "user", "content": f"hello {n}"}] for n in range(rows)],
            "max_tokens": pa.array([n or None for n in range(rows)], pa.int32()),
            "sampling_params": [{"temperature": n / 10, "stop": [str(n)]} for n in range(rows)],
            "when": [start + timedelta(days=n) for n in range(rows)],
            "kind": pa.array([str(n % 3) for n in range(rows)]).dictionary_encode(),
            "ratio": pa.array([Decimal(n) / 8 for n in range(rows)], pa.decimal128(38, 28)),
            "flag": [n % 2 == 0 for n in range(rows)],
            "blob": [bytes([n]) * n for n in range(rows)],
        }
    )
    ways: list[dict[str, Any]] = [
        {"compression": "none", "write_page_checksum": True},
        {"compression": "zstd", "write_page_checksum": False},
        {"compression": "snappy", "data_page_version": "2.0"},
        {"compression": "gzip", "use_dictionary": False},
        {"compression": "none", "use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
    ]
    files = []
    for table in (plain, rich):
        for way in ways:
            if "column_encoding" in way and "prompt" not in table.schema.names:
                continue
            sink = io.BytesIO()
            pq.write_table(table, sink, row_group_size=15, data_page_size=200, **way)
            files.append(sink.getvalue())
    return files


@pytest.mark.parametrize("seconds", SECONDS)
def test_damaged_parquet(tmp_path: Path, seconds: float, request: pytest.FixtureRequest) -> None:
    fuzz(mutants_of(parquet_files), tmp_path / "fuzzed.parquet", seconds, request)


# -- JSON lines ---------------------------------------------------------------------------------

NAMES = st.sampled_from(["prompt", "messages", "custom_id", "max_tokens", "tools", "sampling_params", "body", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": VALUES, "content": VALUES}), max_size=3) | VALUES


def lines_of(objects: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    line = st.one_of(
        objects.map(lambda value: json.dumps(value).encode()),
        objects.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
        st.binary(max_size=20),
    )
    files = st.lists(line, min_size=1, max_size=6).map(b"\n".join)
    damage = st.lists(MUTATIONS, max_size=1)

    def apply(data: bytes, mutations: list[Mutation]) -> bytes:
        for mutation in mutations:
            data = mutated(data, mutation, data)
        return data

    return st.builds(apply, files, damage)


@pytest.mark.parametrize("seconds", SECONDS)
def test_odd_json_lines(tmp_path: Path, seconds: float, request: pytest.FixtureRequest) -> None:
    rows = st.dictionaries(NAMES, VALUES | MESSAGES, max_size=4)
    fuzz(lines_of(rows | VALUES), tmp_path / "fuzzed.jsonl", seconds, request)


@pytest.mark.parametrize("seconds", SECONDS)
def test_odd_batch_requests(tmp_path: Path, seconds: float, request: pytest.FixtureRequest) -> None:
    fields = ["model", "max_tokens", "n", "stop", "logprobs", "tools", "tool_choice", "response_format", "temperature"]
    body = st.dictionaries(st.sampled_from(["messages", "prompt", *fields]), VALUES | MESSAGES, max_size=5)
    requests = st.fixed_dictionaries(
        {"custom_id": st.text(max_size=5) | VALUES, "body": body | VALUES},
        optional={"method": VALUES, "url": VALUES},
    )
    fuzz(lines_of(requests), tmp_path / "fuzzed.jsonl", seconds, request)
