"""From what a person typed to one spec: flags over file over defaults, nothing misspelt passes."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import resolve_columns
from jobs.errors import InvalidModel, UsageError
from jobs.models.encoding import BYTES_MODEL, BytesEncoder
from jobs.rows.prepare import RowPreparer
from jobs.spec.build import absolute_uri, build_spec, dataset_stem, new_job_id, read_spec_file
from schemas.sampling import USUAL_DETECTION, Sampling
from schemas.spec import JOB_ID, EngineSpec, InputSpec, ReplicaRange
from workers.driver import resources
from workers.failures import JobFailure

FAKE = {"engine.name": "fake"}


def test_defaults_fill_what_nobody_says() -> None:
    spec = build_spec("/d/reviews.parquet", FAKE)
    assert (spec.name, spec.input.uri, spec.model.path) == ("reviews", "/d/reviews.parquet", BYTES_MODEL)
    assert spec.sampling == Sampling(repetition_detection=USUAL_DETECTION)
    assert (spec.replicas.min, spec.replicas.max) == (1, 1)


def test_flags_win_over_the_file_and_the_file_over_defaults() -> None:
    file_values = {
        "name": "from the file",
        "input": {"uri": "/file.parquet", "keep": ["a"]},
        "sampling": {"max_tokens": 7, "temperature": 0.5},
        "engine": {"name": "fake", "max_num_seqs": 3},
    }
    flags = {"sampling.max_tokens": 9, "sampling.temperature": None, "engine.fake.token_s": 0.5}
    spec = build_spec("/flag.parquet", flags, file_values)
    assert (spec.input.uri, spec.input.keep, spec.name) == ("/flag.parquet", ("a",), "from the file")
    assert (spec.sampling.max_tokens, spec.sampling.temperature, spec.sampling.top_p) == (9, 0.5, 1.0)
    assert (spec.engine.name, spec.engine.max_num_seqs, spec.engine.fake.token_s) == ("fake", 3, 0.5)


def test_a_flag_of_zero_or_false_is_given() -> None:
    file_values = {"sampling": {"temperature": 0.5}, "input": {"chat": True}}
    spec = build_spec("/d.parquet", {**FAKE, "sampling.temperature": 0.0, "input.chat": False}, file_values)
    assert (spec.sampling.temperature, spec.input.chat) == (0.0, False)


@pytest.mark.parametrize("dataset", [None, "other.parquet"])
def test_the_files_values_are_not_changed(dataset: str | None) -> None:
    file_values = {"input": {"uri": "data.parquet"}, "engine": {"name": "fake"}, "model": "m", "replicas": 2}
    before = copy.deepcopy(file_values)
    build_spec(dataset, {"sampling.max_tokens": 9, "engine.max_num_seqs": 2}, file_values)
    assert file_values == before


@pytest.mark.parametrize(
    "values", [{"sampling": {"max_token": 5}}, {"colour": 1}, {"engine": {"name": "fake", "fake": {"speed": 1}}}]
)
def test_an_unknown_key_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Unknown field"):
        build_spec("/d.parquet", FAKE, values)
    with pytest.raises(UsageError, match=r"Unknown field `sampling\.max_token`; did you mean `max_tokens`\?$"):
        build_spec("/d.parquet", {**FAKE, "sampling.max_token": 5})


@pytest.mark.parametrize(
    ("values", "table"), [({"input": "x"}, "input"), ({"engine": "fake"}, "engine"), ({"model": 3}, "model")]
)
@pytest.mark.parametrize("dataset", [None, "/d.parquet"])
def test_a_value_where_a_table_belongs_is_a_usage_error(
    values: dict[str, Any], table: str, dataset: str | None
) -> None:
    with pytest.raises(UsageError, match=f"'{table}' in the spec file is not a table") as caught:
        build_spec(dataset, {}, {"input": {"uri": "/d.parquet"}, **values})
    assert f"[{table}]" in caught.value.hint


@pytest.mark.parametrize("values", [{}, {"input": {}}, {"input": {"uri": ""}}, {"input": {"uri": 3}}])
def test_no_dataset_is_a_usage_error_that_shows_how(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="No dataset") as caught:
        build_spec(None, FAKE, values)
    assert "jobs submit data.parquet" in caught.value.hint


def test_relative_paths_mean_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    spec = build_spec("data/*.parquet", {"model.path": "models/m"})
    assert spec.input.uri == f"{tmp_path}/data/*.parquet"
    assert spec.model.path == f"{tmp_path}/models/m"
    assert absolute_uri("~/d.parquet") == "/home/somebody/d.parquet"
    assert absolute_uri("s3://bucket/d.parquet") == "s3://bucket/d.parquet"


def test_the_model_is_needed_by_vllm_and_not_by_the_fake_engine() -> None:
    with pytest.raises(InvalidModel, match="No model") as caught:
        build_spec("/d.parquet", {})
    assert "--engine fake" in caught.value.hint
    assert build_spec("/d.parquet", {"engine.name": "fake"}).model.path == BYTES_MODEL
    assert build_spec("/d.parquet", {"engine.name": "fake", "model.path": BYTES_MODEL}).model.path == BYTES_MODEL


def test_the_model_may_be_a_string_or_a_table_in_the_file_and_a_flag_wins() -> None:
    assert build_spec("/d.parquet", {}, {"model": "/m"}).model.path == "/m"
    assert build_spec("/d.parquet", {"model.path": "/n"}, {"model": "/m"}).model.path == "/n"
    spec = build_spec("/d.parquet", {"model.path": "/n"}, {"model": {"path": "/m", "fingerprint": "f"}})
    assert (spec.model.path, spec.model.fingerprint) == ("/n", "f")


@pytest.mark.parametrize(("given", "low", "high"), [("8", 8, 8), ("2..16", 2, 16), (3, 3, 3), (" 1 .. 2 ", 1, 2)])
def test_replicas_are_a_number_or_a_range(given: str | int, low: int, high: int) -> None:
    assert build_spec("/d.parquet", {**FAKE, "replicas": given}).replicas == ReplicaRange(min=low, max=high)
    assert build_spec("/d.parquet", FAKE, {"replicas": {"min": low, "max": high}}).replicas.max == high


@pytest.mark.parametrize("given", ["0", "5..2", "many", "-1", "1...2", "", "1.5", True, "99999"])
def test_replicas_that_are_neither_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="`replicas`"):
        build_spec("/d.parquet", {**FAKE, "replicas": given})


def test_a_long_file_name_still_gives_a_name() -> None:
    assert len(build_spec(f"/{'x' * 240}.parquet", FAKE).name) == 200


def test_the_same_request_gives_the_same_bytes() -> None:
    flags = {**FAKE, "sampling.max_tokens": 9}
    file_values = {"engine": {"name": "fake"}, "sampling": {"max_tokens": 9}}
    assert build_spec("/d.parquet", flags).to_json() == build_spec("/d.parquet", {}, file_values).to_json()


def test_a_spec_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    with pytest.raises(UsageError, match=r"Cannot read the spec file .*job\.toml"):
        read_spec_file(path)
    for data in (b"name = ", b"\xff\xfe"):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="Cannot read the spec file"):
            read_spec_file(path)
    path.write_text('[input]\nuri = "a.parquet"\n')
    assert read_spec_file(path) == {"input": {"uri": "a.parquet"}}


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("/data/reviews.parquet", "reviews"),
        ("reviews", "reviews"),
        ("s3://bucket/reviews/", "reviews"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/a/*.parquet", "a"),
        ("reviews/*.parquet", "reviews"),
        ("*.parquet", "job"),
        ("/", "job"),
    ],
)
def test_a_dataset_gives_a_job_its_name(uri: str, stem: str) -> None:
    assert dataset_stem(uri) == stem


@pytest.mark.parametrize(
    "name", ["reviews", "My Reviews (final)", "日本語", "", "---", "a" * 300, "x.", ".hidden", "A_b"]
)
def test_new_job_ids_are_job_ids_that_tell_name_and_time(name: str) -> None:
    job_id = new_job_id(name)
    assert JOB_ID.fullmatch(job_id)
    assert re.search(r"-\d{8}-\d{6}-[0-9a-f]{4}$", job_id)


def test_new_job_ids_start_with_the_name_and_do_not_repeat() -> None:
    ids = [new_job_id("My Reviews") for _ in range(40)]
    assert all(job_id.startswith("my-reviews-2") for job_id in ids)
    # 40 of 65536: a collision here is a 1 % chance, two are 1 in 20,000.
    assert len(set(ids)) >= 39


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            {"engine.name": "fake", "engine.quantization": "fp8"},
            "The fake engine computes nothing; drop --quantization",
        ),
        ({"engine.name": "fake", "engine.kv_cache_dtype": "fp8"}, "drop --kv-cache-dtype fp8"),
        ({"engine.name": "fake", "engine.speculative_ngram": 4}, "drop --speculative-ngram"),
        ({"engine.device": "cpu", "engine.quantization": "fp8"}, "needs a GPU"),
        ({"engine.device": "cpu", "engine.kv_cache_dtype": "fp8"}, "needs a GPU"),
        ({"engine.quantization": "fp4"}, "fp8"),
        ({"engine.speculative_ngram": 0}, "a whole number from 1 to 16"),
        ({"engine.speculative_ngram": 4, "task": "score"}, "Scoring generates nothing"),
        ({"engine.speculative_ngram": 4, "sampling.min_p": 0.1, "sampling.temperature": 1.0}, "min_p does not work"),
        ({"engine.speculative_ngram": 4, "sampling.logit_bias": {"7": 1.0}}, "logit_bias does not work"),
    ],
)
def test_speed_that_cannot_be_had_is_refused(tmp_path: Path, flags: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build_spec("/d.parquet", {"model.path": str(tmp_path), **flags})


def test_a_row_cannot_ask_for_what_guessing_ahead_cannot_do() -> None:
    source = pa.table({"prompt": ["a", "b"], "sampling_params": ['{"min_p": 0.2, "temperature": 1.0}', None]})
    codes = []
    for engine in (EngineSpec(), EngineSpec(speculative_ngram=3)):
        spec = build_spec("/d.parquet", {"model.path": BYTES_MODEL, "engine": engine.model_dump()})
        columns = resolve_columns(source.schema, spec.input)
        codes.append(RowPreparer(spec, columns, BytesEncoder(), 100).prepare(source, 0)["error_code"].to_pylist())
    assert codes == [[None, None], ["INVALID_SAMPLING", None]]


def test_a_cluster_without_gpus_cannot_run_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0}))
    spec = build_spec("/d.parquet", {"model.path": "/m", "engine.quantization": "fp8", "engine.load_format": "dummy"})
    with pytest.raises(JobFailure, match=r"--quantization fp8 needs a GPU.*the cluster has no GPU"):
        resources.resolve_resources(spec)


@pytest.mark.parametrize(
    "keep",
    [
        *(["Status"], ["STATUS"], ["status "], ["Row_ID"], ["Custom_Id"], ["Generated_Text"], ["ｓｔａｔｕｓ"]),
        *(["Text", "text"], ["Straße", "STRASSE"], ["é", "e\N{COMBINING ACUTE ACCENT}"], ["custom_id", "Custom_ID"]),
    ],
)
def test_kept_columns_that_readers_do_not_tell_apart_are_refused(keep: list[str]) -> None:
    with pytest.raises(UsageError, match="Cannot keep column"):
        build_spec("/d.parquet", {"engine.name": "fake", "input.keep": keep})


def test_kept_columns_of_other_names_are_taken_and_old_specs_are_read() -> None:
    keep = ["custom_id", "state", "text", "Best_Choice"]
    assert build_spec("/d.parquet", {"engine.name": "fake", "input.keep": keep}).input.keep == tuple(keep)
    with pytest.raises(UsageError, match="best_choice"):
        build_spec("/d.parquet", {"engine.name": "fake", "task": "score", "input.keep": ["Best_Choice"]})
    assert InputSpec(uri="/d", keep=("Status",)).keep == ("Status",)
