"""Types of a document's fields, read from their annotations."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def plain_types(annotation: Any) -> list[Any]:
    """Return the types that a value may have, without None and constraints: `[int]` for `Annotated[int, …] | None`."""
    if get_origin(annotation) is Annotated:
        return plain_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) if each is not NoneType for kind in plain_types(each)]
    return [annotation]


def document_in(annotation: Any) -> type[BaseModel] | None:
    """Return the document that a field, or an entry of its list, holds; None if it holds none."""
    for kind in plain_types(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        if get_origin(kind) in (tuple, list):
            return document_in(get_args(kind)[0])
    return None


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the texts that a field takes, if it takes only some."""
    return tuple(each for kind in plain_types(annotation) if get_origin(kind) is Literal for each in get_args(kind))
