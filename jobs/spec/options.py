"""Job options under the names that `jobs submit` and `BatchClient.submit` share, and the spec built from them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from jobs.errors import UsageError
from jobs.pools.placing import PLACING, check_engine, engine_options
from jobs.settings import Settings
from jobs.spec.build import build_spec
from jobs.spec.fields import spec_options
from jobs.text import did_you_mean
from schemas.pools import PoolSpec
from schemas.spec import JobSpec


class SubmitOptions(TypedDict, total=False):
    """Options of a job besides its dataset: those of `jobs submit`, with `_` for `-`. Lengths and limits are in
    tokens; `fields` sets any field of the spec by its dotted name, as `--set` does.
    """

    prompt_column: str
    messages_column: str
    template: str
    choices_column: str
    system: str
    chat: bool
    tools: Sequence[Mapping[str, Any]]
    keep: Sequence[str]
    limit: int
    limit_seed: int
    at: str
    since: Sequence[str]
    where: Sequence[str]
    truncate: str
    csv_delimiter: str
    csv_encoding: str
    csv_escape: str
    model: str
    engine: Literal["vllm", "fake"]
    replicas: int | str
    tensor_parallel: int
    device: Literal["auto", "gpu", "cpu"]
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    max_model_len: int
    max_num_seqs: int
    quantization: Literal["fp8"]
    kv_cache_dtype: Literal["auto", "fp8"]
    speculative_ngram: int
    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    repetition_detection: Mapping[str, Any] | Literal["off"]
    stop: Sequence[str]
    bad_word: Sequence[str]
    n: int
    logprobs: int
    json_schema: Mapping[str, Any]
    regex: str
    choice: Sequence[str]
    task: Literal["generate", "score", "perplexity"]
    name: str
    export: Sequence[str]
    partition_by: Sequence[str]
    export_errors: Literal["keep", "drop", "apart"]
    export_new_columns: Literal["refuse", "add"]
    finish_within: float | str
    finish_by: str
    max_cost: float
    max_gpu_hours: float
    at_limit: Literal["interrupt", "finish"]
    max_error_rate: float
    max_length_finish_rate: float
    max_repetition_rate: float
    max_empty_rate: float
    min_valid_json_rate: float
    output_tokens: bool
    token_logprobs: bool
    keep_staged: bool
    reuse: Sequence[str]
    reuse_sampled: bool
    retry_invalid: int
    pool: str
    priority: Literal["urgent", "normal", "bulk"]
    weight: float
    isolated: bool
    fields: Mapping[str, Any]


def spec_of(
    dataset: str | Sequence[str] | None,
    options: Mapping[str, Any],
    settings: Settings,
    file_values: Mapping[str, Any] | None = None,
    *,
    file: str = "",
    as_flags: bool = False,
    pool: PoolSpec | None = None,
) -> JobSpec:
    """Build the spec of a job: options override a spec file's values, which override settings, then defaults.

    Args:
        options: as `SubmitOptions`; None means not given.
        pool: the pool that the job computes in; model and engine are the pool's.
        file: name of the spec file, for errors.
        as_flags: errors name options as the command line does.

    Raises:
        UsageError: an unknown option or field, a value out of range, no dataset, no model, or a form or a tool that
            cannot be used.
    """
    file_values, known = _without_placing(file_values or {}), spec_options()
    given = _without_placing({name: value for name, value in options.items() if value is not None})
    fields: Mapping[str, Any] = given.pop("fields", {})
    if unknown := sorted(given.keys() - known.keys()):
        near = did_you_mean(unknown[0], known)
        raise UsageError(
            f"There is no option {unknown[0]!r}{f'; {near}' if near else '.'}",
            f"Options are: {', '.join((*known, *PLACING))}, fields.",
        )
    if not isinstance(given.get("json_schema", ""), str):
        given["json_schema"] = json.dumps(given["json_schema"], ensure_ascii=False)
    labels = {known[name].field: known[name].flag if as_flags else f"`{name}`" for name in given}
    labels |= {field: f"--set {field}" if as_flags else f"`{field}`" for field in fields}
    flags = {known[name].field: value for name, value in given.items()} | dict(fields)
    # The pool, or else settings fill in what neither an option nor the spec file sets.
    fill = {
        known[name].field: (getattr(settings, name), f"setting `{name}`") for name in ("model", "engine", "replicas")
    }
    if pool is not None:
        fill = {field: (value, f"pool {pool.name}") for field, value in engine_options(pool).items()}
    for field, (value, source) in fill.items():
        if field not in flags and not _says(file_values, field):
            flags[field], labels[field] = value, source

    def label(field: str) -> str:
        if said := next((said for start, said in labels.items() if f"{field}.".startswith(f"{start}.")), None):
            return said
        return f"{file}: `{field}`" if file and _says(file_values, field) else f"`{field}`"

    spec = build_spec(dataset, flags, file_values, label, gpu_hour_price=settings.gpu_hour_price)
    if pool is not None:
        check_engine(spec, pool, label)
    return spec


def _without_placing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are the spec's own."""
    return {name: value for name, value in values.items() if name not in PLACING}


def addresses(given: Sequence[object]) -> list[str]:
    """Return several datasets as the spec takes them.

    Raises:
        UsageError: one is no address, or names no file here. It is not quoted: it may be a prompt.
    """
    for number, each in enumerate(given, 1):
        text = os.fspath(each) if isinstance(each, str | os.PathLike) else None
        if isinstance(text, str) and ("://" in text or glob.has_magic(text) or _exists(text)):
            continue
        raise UsageError(
            f"A dataset cannot be made of {type(given).__name__} unless it lists addresses: item {number} is none.",
            "List paths and URIs; make rows in memory a data frame or a pyarrow.Table.",
        )
    if not given:
        raise UsageError("The list of datasets is empty.", "Name at least one file, directory or URI.")
    return [str(each) for each in given]


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(os.path.expanduser(path))
    except ValueError:
        return False


def _says(values: Mapping[str, Any], dotted: str) -> bool:
    """Return whether a spec file sets a field."""
    head, _, rest = dotted.partition(".")
    if head not in values:
        return False
    inside = values[head]
    return not rest or not isinstance(inside, dict) or _says(inside, rest)
