"""Building a `JobSpec` from user input: flags override a spec file, which overrides defaults."""

from __future__ import annotations

import json
import re
import secrets
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from jobs.errors import InvalidModel, UsageError
from jobs.models.encoding import BYTES_MODEL
from jobs.models.errors import InvalidMessages
from jobs.models.tools import declare_tools
from jobs.results.sinks.addresses import absolute
from jobs.spec.limits import limit_values
from jobs.validation import problem, validated
from schemas.sampling import USUAL_DETECTION
from schemas.spec import OWN_COLUMNS, TRUNCATED, JobSpec, ReplicaRange

MAX_NAME_CHARS = 200
"""Most characters of `JobSpec.name`; a file's name may be longer."""


def read_spec_file(path: Path) -> dict[str, Any]:
    """Read the nested values of a TOML spec file; its tables and keys are those of `JobSpec`.

    Raises:
        UsageError: missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the spec file {path}: {error}.", "It is a TOML file; see the README.") from error


def build_spec(
    dataset: str | Sequence[str] | None,
    flags: Mapping[str, Any],
    file_values: Mapping[str, Any] | None = None,
    label: Callable[[str], str] = lambda field: f"`{field}`",
    *,
    gpu_hour_price: float | None = None,
) -> JobSpec:
    """Build one validated spec.

    Args:
        dataset: path or URI of the input, or several; overrides the spec file's inputs.
        flags: values by dotted field name (`sampling.max_tokens`); None means not given.
        file_values: values from `read_spec_file`.
        label: returns what errors call the field of a dotted name: the option, or the file and the field in it.
        gpu_hour_price: price of a GPU-hour as the settings have it, for a limit on the cost.

    Raises:
        UsageError: no dataset or no model, a value that is unknown or out of range, or a kept column, a form or a tool
            that cannot be used.
    """
    values: dict[str, Any] = {**(file_values or {})}
    if isinstance(model := values.get("model"), str):
        values["model"] = {"path": model}
    uris = [dataset] if isinstance(dataset, str) else list(dataset or ())
    inputs = {"input.uri": uris[0], "input.more_uris": uris[1:]} if uris else {}
    for name, value in {**inputs, **flags}.items():
        if value is not None:
            _set(values, name, value)
    uri = _get(values, "input.uri")
    if not isinstance(uri, str) or not uri:
        raise UsageError(
            "No dataset is given.", "Name a Parquet file, directory, glob or s3:// URI: jobs submit data.parquet"
        )
    _set(values, "input.uri", absolute_uri(uri))
    if isinstance(more := _get(values, "input.more_uris"), list | tuple):
        _set(values, "input.more_uris", [absolute_uri(each) if isinstance(each, str) else each for each in more])
    if isinstance(since := _get(values, "input.since"), list | tuple):
        _set(values, "input.since", [_absolute_since(each) if isinstance(each, str) else each for each in since])
    values.setdefault("name", dataset_stem(uri)[:MAX_NAME_CHARS])
    if isinstance(values.get("replicas"), str | int):
        values["replicas"] = _replicas(str(values["replicas"]), label("replicas"))
    _resolve_model(values)
    _resolve_exports(values)
    if isinstance(limits := values.get("limits"), Mapping):
        values["limits"] = limit_values(limits, gpu_hour_price, lambda name: label(f"limits.{name}"))
    spec = _with_usual_detection(validated(JobSpec, values, label), values)
    check_kept(spec)
    check_forms(spec)
    return spec


def _with_usual_detection(spec: JobSpec, values: Mapping[str, Any]) -> JobSpec:
    """Return the spec of a new job that ends loops, unless it says how itself, scores, or has a form."""
    said = "repetition_detection" in _table(values, "sampling")
    if said or spec.scores or spec.sampling.structured_outputs is not None:
        return spec
    return spec.evolve(sampling=spec.sampling.evolve(repetition_detection=USUAL_DETECTION))


def check_kept(spec: JobSpec) -> None:
    """Check that readers can tell the result columns apart: SQL compares names without case.

    Raises:
        UsageError: a kept column's name differs from another's or from a result column's only by case, spaces or
            Unicode form.
    """
    own = OWN_COLUMNS[spec.task] | ({TRUNCATED} if spec.input.truncate else frozenset())
    known = {_bare(name): name for name in own - {"custom_id"}}
    known |= {} if "custom_id" in spec.input.keep else {"custom_id": "custom_id"}
    for name in spec.input.keep:
        if (other := known.get(_bare(name))) is not None:
            whose = "which the results have already" if other in own else "which is kept, too"
            raise UsageError(
                f"Cannot keep column {name!r}: SQL and other readers take it for {other!r}, {whose}.",
                "Rename it in the dataset, or leave it out of --keep: row_id leads back to the row.",
            )
        known[_bare(name)] = name


def _bare(name: str) -> str:
    """Normalise a name as readers do that ignore case, outer spaces and Unicode form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def check_forms(spec: JobSpec) -> None:
    """Check the form of structured outputs and the tools with the code that will read them.

    Raises:
        UsageError: the form cannot be compiled, or a tool cannot be used.
    """
    form = spec.sampling.structured_outputs
    if form is not None:
        from jobs.rows.structured import compile_error

        if (why := compile_error(form)) is not None:
            raise UsageError(f"The {why}.", "Correct it: the engine would refuse every row.")
    try:
        declare_tools([json.loads(tool) for tool in spec.input.tools])
    except (ValueError, InvalidMessages) as error:
        why = str(error) if isinstance(error, InvalidMessages) else "a tool is not JSON"
        raise UsageError(f"The tools of the job cannot be used: {why}.", "Write a JSON list of functions.") from error


def changed_spec(
    spec: JobSpec, fields: Mapping[str, Any], label: Callable[[str], str], gpu_hour_price: float | None = None
) -> JobSpec:
    """Return a spec with some of its fields changed, by dotted name.

    Args:
        gpu_hour_price: as the settings have it, for a limit on the cost.

    Raises:
        UsageError: a field is unknown or its value is wrong, or a form or a tool cannot be used.
    """
    values = spec.model_dump()
    for name in fields:
        if name.startswith("sampling.structured_outputs."):
            _set(values, "sampling.structured_outputs", {})  # one form takes the place of another
    for name, value in fields.items():
        _set(values, name, value)
    if isinstance(values.get("replicas"), str | int):
        values["replicas"] = _replicas(str(values["replicas"]), label("replicas"))
    _resolve_exports(values)
    values["limits"] = limit_values(values["limits"], gpu_hour_price, lambda name: label(f"limits.{name}"))
    changed = validated(JobSpec, values, label)
    check_forms(changed)
    return changed


def read_json_file(path: Path, option: str) -> Any:
    """Read the value in a JSON file.

    Raises:
        UsageError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Cannot read {option} {path}: {error}.", "It is a JSON file.") from error


def absolute_uri(uri: str) -> str:
    """Return the address as an absolute one, which means the same on every machine of the cluster."""
    uri = uri.removeprefix("delta:")  # as targets of exports and `--wait-for` name a table
    return uri if "://" in uri or uri.startswith("iceberg:") else str(Path(uri).expanduser().absolute())


def _absolute_since(text: str) -> str:
    table, equals, version = text.rpartition("=")
    return f"{absolute_uri(table)}={version}" if equals and table else text


def dataset_stem(uri: str) -> str:
    """Return `reviews` for `/data/reviews.parquet`, `s3://bucket/reviews/` or `reviews/*.parquet`."""
    if uri.startswith("iceberg:"):
        return uri.rpartition(".")[2] or "job"
    parts = [part for part in PurePosixPath(uri.partition("://")[2] or uri).parts if part != "/" and "*" not in part]
    stem = PurePosixPath(parts[-1]).stem if parts else ""
    return stem or "job"


def new_job_id(name: str) -> str:
    """Return `<name>-<utc time>-<4 hex>`: sorts by time within a name; two submissions never collide by accident."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:60] or "job"
    return f"{slug}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one field; nested tables are copied, so that the caller's are not modified."""
    *tables, key = dotted.split(".")
    for table in tables:
        values[table] = values = dict(_table(values, table))
    values[key] = value


def _get(values: Mapping[str, Any], dotted: str) -> Any:
    *tables, key = dotted.split(".")
    for table in tables:
        values = _table(values, table)
    return values.get(key)


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    nested = values.get(name, {})
    if not isinstance(nested, Mapping):
        raise UsageError(f"{name!r} in the spec file is not a table.", f"Write [{name}] and its keys below.")
    return nested


def _replicas(text: str, label: str) -> ReplicaRange:
    try:
        return ReplicaRange.parse(text)
    except ValidationError as error:
        found = problem(error, ReplicaRange)
        which = "" if found.own else "the number of replicas "
        raise UsageError(f"{label}: {which}{found.what}.") from error
    except ValueError as error:
        raise UsageError(f"{label} must be a number of replicas, such as 8, or a range, such as 2..16.") from error


def _resolve_model(values: dict[str, Any]) -> None:
    """Make the model path absolute; the `fake` engine runs without a model."""
    path = _get(values, "model.path")
    if not path:
        if (_get(values, "engine.name") or "vllm") == "vllm":
            raise InvalidModel(
                "No model is given.",
                "Give its directory with --model DIR, set it once with JOBS_MODEL or in jobs.toml, "
                "or try the pipeline without a model: --engine fake",
            )
        path = BYTES_MODEL
    if isinstance(path, str) and path != BYTES_MODEL:
        path = str(Path(path).expanduser().absolute())
    _set(values, "model.path", path)


def _resolve_exports(values: dict[str, Any]) -> None:
    """Make the targets absolute: whoever exports may have another working directory."""
    targets = _get(values, "export.targets")
    given = (targets,) if isinstance(targets, str) else targets
    if isinstance(given, list | tuple) and all(isinstance(target, str) for target in given):
        _set(values, "export.targets", tuple(absolute(target) for target in given))
