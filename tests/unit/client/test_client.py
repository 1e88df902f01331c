"""The Python client's own surface; whole jobs are in the integration tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest

import jobs
from jobs import BatchClient, JobsError
from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.spec.build import build_spec
from jobs.spec.fields import SpecOption, spec_options
from jobs.spec.options import SubmitOptions, spec_of
from jobs.store import open_store
from schemas.pools import Priority
from schemas.sampling import Sampling
from schemas.spec import EngineSpec
from tests.unit.cli.surface import commands, parameters
from tests.unit.results.ledgers import make_job, succeed
from tests.unit.results.ledgers import spec_of as some_spec


def test_importing_costs_nothing() -> None:
    code = "import sys, jobs; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split())
    assert not loaded & {"ray", "torch", "pyarrow", "boto3", "pydantic", "typer"}
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = jobs.nope


def test_it_is_typed() -> None:
    assert (Path(jobs.__file__).parent / "py.typed").exists()
    assert all(getattr(jobs, name) is not None for name in jobs.__all__)


def test_every_option_is_a_keyword_of_the_client_and_a_flag_of_the_commands_and_sets_its_field() -> None:
    options = spec_options()
    assert get_type_hints(SubmitOptions) == {
        **{option.name: client_type(option) for option in options.values()},
        "pool": str,
        "priority": Priority,
        "weight": float,
        "isolated": bool,
        "fields": Mapping[str, Any],
    }
    for words in (["submit"], ["plan"], ["schedule", "create"]):
        [command] = [command for path, command in commands() if path[1:] == words]
        shown = {each.name: each for each in parameters(command)}
        assert options.keys() <= shown.keys()
        for option in options.values():
            assert shown[option.name].opts == [option.flag]
            assert shown[option.name].help.startswith(option.help)


def client_type(option: SpecOption) -> Any:
    """The type that the client takes for an option."""
    of_form = {
        "replicas": int | str,
        "finish_within": float | str,
        "tools": Sequence[Mapping[str, Any]],
        "json_schema": Mapping[str, Any],
        "repetition_detection": Mapping[str, Any] | Literal["off"],
    }
    return of_form.get(option.name, Sequence[str] if option.type == tuple[str, ...] else option.type)


def test_help_is_the_fields_own_text_and_default() -> None:
    options = spec_options()
    assert options["max_tokens"].help == f"{Sampling.model_fields['max_tokens'].description} Default: 256."
    assert options["quantization"].help == EngineSpec.model_fields["quantization"].description
    assert options["temperature"].help.endswith("Default: 0.")
    assert (options["chat"].flag, options["bad_word"].field) == ("--no-chat", "sampling.bad_words")


def test_options_make_the_spec_that_fields_make(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path), engine="fake")
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    options = {
        "max_tokens": 7,
        "keep": ["a"],
        "replicas": "2..3",
        "json_schema": schema,
        "fields": {"shards.max_rows": 9},
    }
    spec = spec_of("data.parquet", options, settings)
    assert spec == build_spec(
        "data.parquet",
        {
            "engine.name": "fake",
            "sampling.max_tokens": 7,
            "input.keep": ["a"],
            "replicas": "2..3",
            "sampling.structured_outputs.json_schema": json.dumps(schema),
            "shards.max_rows": 9,
        },
    )
    assert spec_of("data.parquet", {"replicas": 4}, settings).replicas.max == 4
    with pytest.raises(UsageError, match="no option 'max_token'"):
        spec_of("data.parquet", {"max_token": 7}, settings)


def test_results_and_cancel_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    store = open_store(str(tmp_path / "root"))
    succeed(make_job(store, [[0, 2], [1, 3]]))
    make_job(store, [[0, 2], [1, 3]], commit=[0], job_id="half")
    client = BatchClient(root=tmp_path / "root")
    job = client.job("demo")
    ended = job.wait(timeout_s=30, raise_on_failure=False)
    assert ended.state == "GATE_FAILED"
    assert ended.reason == "1 of 4 rows are errors (25 %; max_error_rate allows at most 5 %)"
    assert job.results().complete
    assert job.results().to_table(columns=["row_id"])["row_id"].to_pylist() == [0, 1, 2, 3]
    assert [each.id for each in client.jobs()] == ["demo", "half"]
    half = client.job("half")
    assert (half.results().complete, half.results().num_rows) == (False, 2)
    assert half.cancel().state == "CANCELLED"
    with pytest.raises(JobsError, match="No job nobody"):
        client.job("nobody").results()


def test_arguments_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Settings are given"):
        BatchClient(Settings(root=str(tmp_path)), root="s3://bucket/jobs")
    with pytest.raises(UsageError, match="takes no options"):
        BatchClient(root=str(tmp_path)).submit(some_spec(), max_tokens=3)
