"""A result object holds exactly the rows that the plan gives to its shard, or it is not written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from jobs.dataset.columns import resolve_columns
from jobs.models.encoding import BytesEncoder
from jobs.planning.facts import facts_of
from jobs.planning.shards import row_ids_digest, split
from jobs.rows.prepare import FACTS_FIELDS, RowPreparer
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.commits import commit_of
from schemas.records import Plan
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec, ShardBudget
from schemas.tables import with_kept_types
from tests.support.kept_types import kept_columns
from workers.engines.base import Completion, Output
from workers.engines.fake import FakeEngine
from workers.shards import results
from workers.shards.results import (
    ShardMismatch,
    by_row_id,
    encode_refused,
    encode_results,
    read_parquet,
    write_parquet,
)
from workers.shards.staged_rows import valid_rows

SPEC = JobSpec(
    name="n",
    input=InputSpec(uri="/d", keep=("tag",)),
    model=ModelSpec(path="builtin:bytes"),
    engine=EngineSpec(name="fake"),
    shards=ShardBudget(min_tokens=1, target_count=3),
)
EMPTY, FAILED = {4, 11}, {7}
"""Row ids that staging has turned into error rows, and that the engine fails on."""


def whole_dataset() -> tuple[Plan, list[pa.Table]]:
    """The plan of thirty rows and the staged rows of each shard, in the order of work."""
    source = pa.table(
        {
            "custom_id": [f"id-{n}" for n in range(30)],
            "prompt": ["" if n in EMPTY else f"prompt {n} " * (1 + n % 3) for n in range(30)],
            "tag": list(range(30)),
        }
    )
    preparer = RowPreparer(SPEC, resolve_columns(source.schema, SPEC.input), BytesEncoder(), 1000)
    prepared = preparer.prepare(source, 0)
    cut = split(facts_of(prepared), SPEC.shards)
    plan = Plan(
        spec_sha256=SPEC.digest(),
        files=(),
        shards=cut.shards,
        num_rows=30,
        num_invalid_rows=len(EMPTY),
        num_input_tokens=1,
        max_input_tokens=1,
        max_model_len=1000,
    )
    staged = prepared.drop_columns([field.name for field in FACTS_FIELDS])
    order = np.argsort(cut.position)
    return plan, [staged.take(order[cut.shard_of[order] == shard.index]) for shard in plan.shards]


def answers(staged: pa.Table) -> dict[int, Output | RowFailure]:
    engine = FakeEngine(SPEC.engine, BytesEncoder())
    fault = RowFailure(code=RowError.ENGINE_ERROR, message="no")

    async def answer() -> dict[int, Output | RowFailure]:
        return {
            row.row_id: fault if row.row_id in FAILED else await engine.generate("r", row.prompt, row.sampling)
            for row in valid_rows(staged, SPEC)
        }

    return asyncio.run(answer())


PLAN, STAGED = whole_dataset()


def encode(shard: int, staged: pa.Table, results: dict[int, Output | RowFailure] | None = None) -> pa.Table:
    data, stats = encode_results(
        SPEC, PLAN, shard, staged, answers(staged) if results is None else results, BytesEncoder()
    )
    table = read_parquet(data)
    assert stats.num_rows == len(table)
    assert stats.num_error_rows == table["status"].to_pylist().count("error")
    assert stats.num_input_tokens == sum(table["num_input_tokens"].to_pylist())
    assert stats.num_generated_tokens == sum(table["num_generated_tokens"].to_pylist())
    return table


def test_all_shards_together_hold_every_row_once_with_its_own_columns() -> None:
    assert len(STAGED) >= 3
    tables = [encode(shard, staged) for shard, staged in enumerate(STAGED)]
    for shard, table in zip(PLAN.shards, tables, strict=True):
        assert table["row_id"].to_pylist() == sorted(table["row_id"].to_pylist())
        assert row_ids_digest(table["row_id"].to_numpy()) == shard.row_ids_sha256
    rows = pa.concat_tables(tables).sort_by("row_id").to_pylist()
    assert [row["row_id"] for row in rows] == list(range(30))
    assert [row["custom_id"] for row in rows] == [f"id-{n}" for n in range(30)]
    assert [row["tag"] for row in rows] == list(range(30))
    expected = dict.fromkeys(EMPTY, "EMPTY_PROMPT") | dict.fromkeys(FAILED, "ENGINE_ERROR")
    assert {row["row_id"]: row["error_code"] for row in rows if row["status"] != "ok"} == expected
    assert [row["attempts"] for row in rows] == [0 if n in EMPTY else 1 for n in range(30)]
    # The answer of each row is that of its own prompt, and of no neighbour's.
    texts = {row["row_id"]: row["generated_text"] for row in rows if row["status"] == "ok"}
    everything = {row_id: output for staged in STAGED for row_id, output in answers(staged).items()}
    assert texts == {n: o.completions[0].text for n, o in everything.items() if isinstance(o, Output)}
    assert len(set(texts.values())) == len(texts)


def test_the_order_in_which_rows_end_does_not_show() -> None:
    for shard, staged in enumerate(STAGED):
        results = answers(staged)
        shuffled = list(results.items())
        Random(shard).shuffle(shuffled)
        reversed_rows = staged.take(list(reversed(range(len(staged)))))
        one = encode_results(SPEC, PLAN, shard, staged, results, BytesEncoder())
        other = encode_results(SPEC, PLAN, shard, reversed_rows, dict(shuffled), BytesEncoder())
        assert one == other


def without_one(staged: pa.Table) -> pa.Table:
    return staged.slice(1)


def one_twice(staged: pa.Table) -> pa.Table:
    return pa.concat_tables([staged, staged.slice(0, 1)])


def one_for_another(staged: pa.Table) -> pa.Table:
    return pa.concat_tables([staged.slice(1), staged.slice(1, 1)])


def of_another_shard(staged: pa.Table) -> pa.Table:
    return STAGED[0].slice(0, len(staged))


@pytest.mark.parametrize("damage", [without_one, one_twice, one_for_another, of_another_shard])
def test_staged_rows_that_are_not_the_plans_are_never_encoded(damage: Callable[[pa.Table], pa.Table]) -> None:
    assert len(STAGED[0]) >= len(STAGED[1]) >= 2
    with pytest.raises(ShardMismatch, match="not those of the plan"):
        encode(1, damage(STAGED[1]), results={n: o for s in STAGED for n, o in answers(s).items()})


def test_a_valid_row_without_a_result_is_never_encoded() -> None:
    results = answers(STAGED[0])
    results.popitem()
    with pytest.raises(ShardMismatch, match="without a result"):
        encode(0, STAGED[0], results)


def test_a_flipped_byte_in_staged_rows_is_noticed() -> None:
    data = bytearray(write_parquet(STAGED[0]))
    assert read_parquet(bytes(data)).equals(STAGED[0])
    # In the pages of the first column: they begin after the magic number.
    data[60] ^= 1
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        read_parquet(bytes(data))


def test_stats_count_what_the_gates_judge() -> None:
    texts = ['{"a": 1}', "  ", "", "cut her", "[1, 2", "true"]

    def counted(spec: JobSpec) -> tuple[int, int, int]:
        staged = STAGED[0]
        results = dict(answers(staged))
        answered = [row_id for row_id, result in sorted(results.items()) if isinstance(result, Output)]
        assert len(answered) >= len(texts)
        for row_id, text in zip(answered, texts, strict=False):
            completion = Completion(
                text=text, token_ids=[1], finish_reason="length" if "cut" in text else "stop", cumulative_logprob=0.0
            )
            results[row_id] = Output(completions=[completion])
        _, stats = encode_results(spec, PLAN, 0, staged, results, BytesEncoder())
        return stats.num_length_rows, stats.num_empty_rows, stats.num_valid_json_rows

    assert counted(SPEC) == (1, 2, 0)
    assert counted(SPEC.evolve(min_valid_json_rate=0.5)) == (1, 2, 2)


def test_stats_count_which_answers_are_the_json_asked_for() -> None:
    """Cut or invalid: an answer that had to be JSON and is not counts; one that had not does not."""
    spec = SPEC.evolve(sampling=SPEC.sampling.evolve(structured_outputs={"json_schema": {"type": "object"}}))
    endings = [("{}", "stop"), ('{"a": 1', "length"), ("nonsense", "stop"), ("{}", "length")]
    staged, results = STAGED[0], dict(answers(STAGED[0]))
    answered = [row_id for row_id, result in sorted(results.items()) if isinstance(result, Output)]
    for row_id, (text, reason) in zip(answered, endings + [("{}", "stop")] * len(answered), strict=False):
        completion = Completion(text=text, token_ids=[1], finish_reason=reason, cumulative_logprob=0.0)
        results[row_id] = Output(completions=[completion])
    _, stats = encode_results(spec, PLAN, 0, staged, results, BytesEncoder())
    assert (stats.num_json_rows, stats.num_not_json_rows) == (len(answered), 2), (
        "the last one was cut right behind its form"
    )
    assert (stats.num_length_rows, stats.error_codes["INVALID_FORM"]) == (2, 1)
    read = commit_of(0, stats.to_metadata("attempt"), size_bytes=1)
    assert (read.num_json_rows, read.num_not_json_rows) == (len(answered), 2)
    _, stats = encode_results(SPEC, PLAN, 0, staged, results, BytesEncoder())
    assert (stats.num_json_rows, stats.num_not_json_rows) == (0, 0)


def test_answers_without_their_form_are_error_rows() -> None:
    spec = SPEC.evolve(
        engine=SPEC.engine.evolve(fake={"formless_marker": "prompt 2 "}),
        sampling=SPEC.sampling.evolve(structured_outputs={"regex": "[a-f]{4}[0-9]{2}"}),
    )
    for shard, staged in enumerate(STAGED):
        results: dict[int, Output | RowFailure] = {}
        engine = FakeEngine(spec.engine, BytesEncoder())
        for row in valid_rows(staged, spec):
            results[row.row_id] = asyncio.run(engine.generate("r", row.prompt, row.sampling))
        data, stats = encode_results(spec, PLAN, shard, staged, results, BytesEncoder())
        for row in read_parquet(data).to_pylist():
            if row["row_id"] in EMPTY:
                continue
            if row["row_id"] == 2:
                assert (row["status"], row["error_code"], row["attempts"]) == ("error", "INVALID_FORM", 1)
                assert (row["generated_text"], row["finish_reason"]) == (None, "error")
                assert stats.error_codes["INVALID_FORM"] == 1
            else:
                assert re.fullmatch("[a-f]{4}[0-9]{2}", row["generated_text"])


def test_several_greedy_answers_are_equal() -> None:
    sampling = SPEC.sampling.evolve(n=3)
    output = asyncio.run(FakeEngine(SPEC.engine, BytesEncoder()).generate("r", [65], sampling))
    assert len({completion.text for completion in output.completions}) == 1
    warm = asyncio.run(FakeEngine(SPEC.engine, BytesEncoder()).generate("r", [65], sampling.evolve(temperature=1.0)))
    assert len({completion.text for completion in warm.completions}) == 3


@pytest.mark.parametrize("task", ["generate", "score"])
def test_staging_commits_refused_rows_with_the_bytes_of_a_replica(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """A replica reads the rows from the store, in the order of work; staging has them at hand, from many blocks."""
    monkeypatch.setattr(results, "ROW_GROUP_ROWS", 64)
    kept = pa.concat_tables([pa.table(kept_columns(0, 100))] * 3)
    count, names = len(kept), kept.schema.names
    spec = SPEC.evolve(
        task=task,
        input=SPEC.input.evolve(keep=tuple(names)),
        min_valid_json_rate=None if task == "score" else 0.5,
    )
    choices = {"choices": [["a", "b"]] * count} if task == "score" else {}
    source = pa.table({"prompt": [""] * count, **choices, **dict(zip(names, kept.columns, strict=True))})
    columns = resolve_columns(source.schema, spec.input, choices=task == "score")
    preparer = RowPreparer(spec, columns, BytesEncoder(), 1000)
    blocks = [preparer.prepare(source.slice(start, 90), start) for start in range(0, count, 90)]
    prepared = pa.concat_tables(blocks[::-1])
    facts = facts_of(prepared)
    assert facts.invalid.all()
    cut = split(facts, spec.shards.evolve(max_rows=count))
    plan = PLAN.evolve(shards=cut.shards, num_rows=count, num_invalid_rows=count)
    staged = with_kept_types(prepared.drop_columns([field.name for field in FACTS_FIELDS]), columns.kept)
    read = by_row_id(read_parquet(write_parquet(staged, np.argsort(cut.position)[::-1])))
    data, stats = encode_refused(spec, plan, 0, staged)
    assert (data, stats) == encode_results(spec, plan, 0, read, {}, BytesEncoder())
    assert stats.error_codes == {"EMPTY_PROMPT": count}
    assert read_parquet(data)["double"].to_pylist() == kept["double"].to_pylist()


def test_rows_that_an_engine_can_run_are_not_committed_as_refused() -> None:
    with pytest.raises(ShardMismatch, match="has valid rows"):
        encode_refused(SPEC, PLAN, 0, STAGED[0])
