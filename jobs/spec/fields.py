"""The options of a job, read from the fields of `JobSpec` that declare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.field_types import document_in, plain_types
from schemas.base import Document
from schemas.options import Option, Panel
from schemas.spec import JobSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecOption:
    """One option of a job.

    Attributes:
        name: keyword in Python; the flag has hyphens for its underscores.
        field: dotted name of the field of `JobSpec` that it sets.
        type: type of the field's value, None and constraints left out.
        declared: what the field declares.
        help: help text of the flag, with the default.
    """

    name: str
    field: str
    type: Any
    declared: Option
    help: str

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{'no-' if self.declared.form == 'negated' else ''}{self.name.replace('_', '-')}"


@cache
def spec_options() -> Mapping[str, SpecOption]:
    """Return the options by name, in the order in which help shows them."""
    panels = list(Panel)
    found = sorted(_options(JobSpec, ""), key=lambda option: panels.index(option.declared.panel))
    return MappingProxyType({option.name: option for option in found})


def _options(document: type[BaseModel], prefix: str) -> Iterator[SpecOption]:
    for name, field in document.model_fields.items():
        declared = next((each for each in field.metadata if isinstance(each, Option)), None)
        if declared is not None:
            [kind] = plain_types(field.annotation)
            yield SpecOption(
                name=declared.name or name,
                field=prefix + name,
                type=kind,
                declared=declared,
                help=_help(declared, field),
            )
        elif (inside := document_in(field.annotation)) is not None:
            yield from _options(inside, f"{prefix}{name}.")


def _help(declared: Option, field: FieldInfo) -> str:
    text = declared.help or field.description or ""
    if field.is_required() or isinstance(field.default, bool | Document) or field.default in (None, ()):
        return text
    shown = f"{field.default:g}" if isinstance(field.default, int | float) else field.default
    return f"{text} Default: {shown}."
