"""Settings: defaults that a person sets once, and where each value came from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.buckets import check_bucket, parse
from jobs.errors import UsageError
from jobs.text import did_you_mean
from jobs.validation import problem, sentence
from schemas.spec import ReplicaRange

PREFIX = "JOBS_"
"""`JOBS_ROOT=…` in the environment sets `root`, and so on for every field."""


def _default_root() -> str:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(base) / "nightbatch" / "jobs")


class Settings(BaseModel):
    """Defaults of the command line; flags override them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    root: str = Field(default_factory=_default_root, description="Where job directories live: s3://… or a directory.")
    address: str | None = Field(None, description="Dashboard of a Ray cluster to join; unset: the embedded one.")
    token_path: Path | None = Field(None, description="File with the token of the cluster at `address`.")
    model: str | None = Field(None, description="Model directory, as the cluster's nodes see it.")
    engine: Literal["vllm", "fake"] = Field("vllm", description="Engine that runs the model.")
    replicas: str = Field("1", description="Number of replicas, `8` or `2..16`.")
    pool: str | None = Field(None, description="Pool that jobs compute in; unset: engines of their own.")
    output: Literal["table", "json", "quiet"] = Field("table", description="How results of commands are printed.")
    gpu_hour_price: float | None = Field(None, ge=0.0, description="Price of one GPU for one hour, for costs.")
    allowed_buckets: tuple[str, ...] | None = Field(
        None, description="The only buckets that addresses may name; unset: all."
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        if not root.strip():
            raise ValueError("it is empty; give s3://bucket/prefix or a directory")
        return root.rstrip("/") if "://" in root else str(Path(root).expanduser().absolute())

    @field_validator("address")
    @classmethod
    def _dashboard(cls, address: str | None) -> str | None:
        if address is None:
            return None
        scheme, separator, rest = address.partition("://")
        if separator and scheme not in ("http", "https"):
            raise ValueError(f"{scheme}:// is not the dashboard; give http://HOST:8265")
        if not (rest if separator else scheme):
            raise ValueError("it is empty; give http://HOST:8265")
        return (address if separator else f"http://{address}").rstrip("/")

    @field_validator("allowed_buckets", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            names = ",".join(names)
        return parse(names) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _root_is_allowed(self) -> Self:
        check_bucket(self.root, self.allowed_buckets)
        return self

    @field_validator("token_path")
    @classmethod
    def _absolute_token_path(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @field_validator("replicas")
    @classmethod
    def _range(cls, replicas: Any) -> Any:
        ReplicaRange.parse(replicas)
        return replicas


class Explained(NamedTuple):
    """One setting, its value, and the value's source."""

    name: str
    value: Any
    source: str


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """Resolve the settings: flags over environment over `jobs.toml` over defaults.

    Args:
        flags: values by field name; None means that the flag was not given.

    Raises:
        UsageError: a value is wrong or a name is unknown; the message names the source.
    """
    return _resolve(flags or {})[0]


def explain(flags: Mapping[str, Any] | None = None) -> list[Explained]:
    """List every setting with its source, in the order of the fields. Raises like `load`."""
    settings, sources = _resolve(flags or {})
    return [
        Explained(name, value, sources.get(name, "default")) for name, value in settings.model_dump(mode="json").items()
    ]


def file() -> Path | None:
    """Find the `jobs.toml` in force: the working directory's, else the user's, else None."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    candidates = (Path("jobs.toml"), Path(base).expanduser() / "nightbatch" / "jobs.toml")
    return next((path.absolute() for path in candidates if path.is_file()), None)


def _resolve(flags: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, value, source in [*_from_file(), *_from_environment(), *_from_flags(flags)]:
        values[name], sources[name] = value, source
    try:
        return Settings.model_validate(values), sources
    except ValidationError as error:
        what = sentence(problem(error, Settings), lambda name: f"{name} ({sources.get(name, 'default')})")
        raise UsageError(what, hint="`jobs config` lists every setting and where its value comes from.") from error


def _from_flags(flags: Mapping[str, Any]) -> list[Explained]:
    return [
        Explained(name, value, f"flag --{name.replace('_', '-')}") for name, value in flags.items() if value is not None
    ]


def _from_environment() -> list[Explained]:
    variables = {name: PREFIX + name.upper() for name in Settings.model_fields}
    return [
        Explained(name, os.environ[variable], f"environment {variable}")
        for name, variable in variables.items()
        if os.environ.get(variable)
    ]


def _from_file() -> list[Explained]:
    path = file()
    if path is None:
        return []
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the settings in {path}: {error}.", hint="Correct the file.") from error
    for name in table:
        if name not in Settings.model_fields:
            near = did_you_mean(name, Settings.model_fields)
            raise UsageError(
                f"{path} sets {name!r}, which is not a setting{f'; {near}' if near else '.'}",
                hint=f"Settings are: {', '.join(Settings.model_fields)}.",
            )
    return [Explained(name, value, str(path)) for name, value in table.items()]
