"""Job options under the names that `jobs submit` and `BatchClient.submit` share, and the spec built from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.spec.build import build_spec
from jobs.spec.fields import spec_options
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
    stop: Sequence[str]
    bad_word: Sequence[str]
    n: int
    logprobs: int
    json_schema: Mapping[str, Any]
    regex: str
    choice: Sequence[str]
    task: Literal["generate", "score"]
    name: str
    max_error_rate: float
    max_length_finish_rate: float
    max_empty_rate: float
    min_valid_json_rate: float
    output_tokens: bool
    keep_staged: bool
    reuse: Sequence[str]
    reuse_sampled: bool
    fields: Mapping[str, Any]


def field_names() -> dict[str, str]:
    """Return the dotted name of the spec's field for each option."""
    return {name: option.field for name, option in spec_options().items()}


def spec_of(
    dataset: str | None,
    options: Mapping[str, Any],
    settings: Settings,
    file_values: Mapping[str, Any] | None = None,
) -> JobSpec:
    """Build the spec of a job: options override a spec file's values, which override settings, then defaults.

    Args:
        options: as `SubmitOptions`; None means not given.

    Raises:
        UsageError: an unknown option, no dataset, no model, or a form or a tool that cannot be used.
        pydantic.ValidationError: a value is unknown or out of range.
    """
    file_values, names = file_values or {}, field_names()
    given = {name: value for name, value in options.items() if value is not None}
    fields = given.pop("fields", {})
    if unknown := sorted(given.keys() - names.keys()):
        raise UsageError(f"There is no option {unknown[0]!r}.", f"Options are: {', '.join(names)}, fields.")
    if not isinstance(given.get("json_schema", ""), str):
        given["json_schema"] = json.dumps(given["json_schema"], ensure_ascii=False)
    flags = {names[name]: value for name, value in given.items()} | dict(fields)
    # Settings fill in what neither an option nor the spec file sets.
    for name in ("model", "engine", "replicas"):
        if names[name] not in flags and not _says(file_values, names[name]):
            flags[names[name]] = getattr(settings, name)
    return build_spec(dataset, flags, file_values)


def _says(values: Mapping[str, Any], dotted: str) -> bool:
    """Return whether a spec file sets a field."""
    head, _, rest = dotted.partition(".")
    if head not in values:
        return False
    return not rest or not isinstance(values[head], dict) or rest in values[head]
