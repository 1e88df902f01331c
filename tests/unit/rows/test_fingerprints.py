"""Equal fingerprints mean equal results: everything that a result depends on changes them, nothing else does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset.columns import resolve_columns
from jobs.models.encoding import BytesEncoder
from jobs.planning.facts import facts_of
from jobs.planning.shards import split
from jobs.rows.fingerprints import first_of_equal
from jobs.rows.prepare import RowPreparer
from schemas.sampling import USUAL_DETECTION, RepetitionDetection, Sampling
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec, ShardBudget
from schemas.tables import FINGERPRINT

SPEC = JobSpec(
    name="n",
    input=InputSpec(uri="/d", keep=("tag",)),
    model=ModelSpec(path="builtin:bytes", fingerprint="sha256:one"),
    engine=EngineSpec(name="fake"),
)


def prepared(
    spec: JobSpec = SPEC, prompts: tuple[str, ...] = ("one", "two", "one"), max_model_len: int = 1000
) -> pa.Table:
    source = pa.table({"prompt": list(prompts), "custom_id": [str(n) for n in range(len(prompts))], "tag": [*prompts]})
    return RowPreparer(spec, resolve_columns(source.schema, spec.input), BytesEncoder(), max_model_len).prepare(
        source, 0
    )


def fingerprints(spec: JobSpec = SPEC, **options: object) -> list[bytes | None]:
    return prepared(spec, **options)["fingerprint"].to_pylist()  # type: ignore[arg-type, no-any-return]


def test_equal_rows_have_equal_fingerprints_and_others_do_not() -> None:
    first, second, third = fingerprints()
    assert first == third != second
    assert fingerprints(prompts=("", "one"))[0] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ModelSpec(path="builtin:bytes", fingerprint="sha256:other")},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(max_tokens=255)},
        {"sampling": Sampling(stop=("x",))},
        {"sampling": Sampling(repetition_detection=RepetitionDetection(max_pattern_size=2, min_count=9))},
        {"retry_invalid": 1},
        {"input": InputSpec(uri="/d", system="Be brief.")},
        {"input": InputSpec(uri="/d", template="Say {{ prompt }}")},
        {"engine": EngineSpec(name="fake", dtype="float16")},
        {"engine": EngineSpec(name="vllm", quantization="fp8")},
        {"engine": EngineSpec(name="vllm", kv_cache_dtype="fp8")},
        {"output_tokens": True},
    ],
)
def test_what_changes_a_result_changes_the_fingerprint(changes: dict[str, object]) -> None:
    engine = changes.get("engine", SPEC.engine)
    assert isinstance(engine, EngineSpec)
    plain = SPEC.evolve(engine=EngineSpec(name=engine.name))
    assert fingerprints(plain)[0] not in fingerprints(SPEC.evolve(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"input": InputSpec(uri="/elsewhere")},
        {"engine": EngineSpec(name="fake", max_num_seqs=3, gpu_memory_utilization=0.5, start_timeout_s=5.0)},
        {"shards": ShardBudget(target_count=3)},
    ],
)
def test_what_does_not_change_a_result_leaves_it_alone(changes: dict[str, object]) -> None:
    assert fingerprints() == fingerprints(SPEC.evolve(**changes))


def test_fingerprints_are_those_of_earlier_versions_where_nothing_new_is_asked_for() -> None:
    usual = SPEC.evolve(sampling=Sampling(repetition_detection=USUAL_DETECTION))
    for spec in (SPEC, usual):  # within 256 tokens, 256 equal ones are the whole answer, which is cut and not ended
        assert (fingerprints(spec)[0] or b"").hex() == "29f092413e97f1e61c483eca25b00a3e"
    warm = SPEC.evolve(sampling=Sampling(temperature=0.5, repetition_detection=USUAL_DETECTION))
    assert (fingerprints(warm)[0] or b"").hex() == "18c2cec194ed8c26025745c3acdbd892"
    longer = Sampling(max_tokens=4000)
    assert (fingerprints(SPEC.evolve(sampling=longer))[0] or b"").hex() == "4fbe4a57bc11957d16612d41edf401e0"
    detecting = prepared(SPEC.evolve(sampling=longer.evolve(repetition_detection=USUAL_DETECTION)))
    assert detecting["former_fingerprint"][0].as_py().hex() == "4fbe4a57bc11957d16612d41edf401e0"
    assert detecting["fingerprint"][0] != detecting["former_fingerprint"][0]


def test_an_open_fingerprint_leaves_out_what_only_ends_an_answer() -> None:
    wide = RepetitionDetection(max_pattern_size=2, min_count=9)
    values = [Sampling(), Sampling(max_tokens=9), Sampling(repetition_detection=wide)]
    found = [prepared(SPEC.evolve(sampling=each)) for each in values]
    found.append(prepared(SPEC.evolve(retry_invalid=3)))
    assert len({table["open_fingerprint"][0].as_py() for table in found}) == 1
    assert found[2]["detection"].to_pylist() == ["1-2x9"] * 3
    assert prepared(SPEC.evolve(sampling=Sampling(temperature=0.5)))["open_fingerprint"].null_count == 3
    other = prepared(SPEC.evolve(sampling=Sampling(stop=("x",))))
    assert other["open_fingerprint"][0] != found[0]["open_fingerprint"][0]


def test_a_limit_that_no_answer_reaches_does_not_count_and_one_that_cuts_it_does() -> None:
    assert fingerprints(max_model_len=1000) == fingerprints(max_model_len=2000)
    assert fingerprints(max_model_len=1000) != fingerprints(max_model_len=200)


@given(st.lists(st.sampled_from([None, *(bytes([n]) * 16 for n in range(4))]), max_size=30))
def test_the_first_of_equal_rows(found: list[bytes | None]) -> None:
    expected = [n if value is None else found.index(value) for n, value in enumerate(found)]
    assert first_of_equal(pa.array(found, FINGERPRINT.type)).tolist() == expected


def test_repeated_rows_are_neighbours_and_cost_nothing() -> None:
    prompts = tuple(f"prompt {n % 7}" for n in range(70))
    facts = facts_of(prepared(prompts=prompts))
    assert facts.repeated.sum() == 63
    cut = split(facts, ShardBudget(target_count=1, min_tokens=1))
    assert [prompts[row] for row in np.argsort(cut.position)] == sorted(prompts)
    assert sum(shard.num_expected_tokens for shard in cut.shards) == int(facts.work_tokens[:7].sum())


def test_rows_that_are_sampled_at_random_are_not_taken_for_equal() -> None:
    spec = SPEC.evolve(sampling=Sampling(temperature=1.0))
    assert not facts_of(prepared(spec)).repeated.any()


def test_rows_with_a_source_have_shards_of_their_own_in_its_order() -> None:
    facts = facts_of(prepared(prompts=tuple(f"prompt {n}" for n in range(10))))
    sources = np.array([9, -1, 8, -1, 7, -1, 6, -1, 5, -1])
    cut = split(facts, ShardBudget(target_count=1, min_tokens=1, max_rows=3), sources)
    assert [shard.num_reused_rows for shard in cut.shards] == [0, 0, 3, 2]
    assert [shard.num_rows for shard in cut.shards] == [3, 2, 3, 2]
    assert [shard.num_expected_tokens > 0 for shard in cut.shards] == [True, True, False, False]
    assert np.argsort(cut.position).tolist() == [1, 3, 5, 7, 9, 8, 6, 4, 2, 0]


def test_guessing_tokens_ahead_changes_no_result() -> None:
    plain, guessing = (SPEC.evolve(engine=EngineSpec(speculative_ngram=guessed)) for guessed in (None, 4))
    assert fingerprints(plain) == fingerprints(guessing)
