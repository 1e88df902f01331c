"""What is wrong with a value that somebody gave: one sentence in our words for the first error that pydantic found.

No sentence quotes the value: it may come from a row, or be a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from jobs.errors import UsageError
from jobs.field_types import choices_of, document_in, plain_types
from jobs.text import did_you_mean, listed

_D = TypeVar("_D", bound=BaseModel)

_NUMBER = ("int_", "float_", "finite_number", "greater_than", "less_than", "multiple_of")
_KINDS: Mapping[str, str] = {
    "bool_": "must be true or false",
    "string_too_long": "is too long: {max_length} characters are possible",
    "string_too_short": "is empty",
    "string_pattern": "does not have the form that is wanted",
    "string_": "must be text",
    "too_long": "has too many entries: {max_length} are possible",
    "too_short": "is empty",
    "tuple_": "must be a list",
    "list_": "must be a list",
    "dict_": "must be a table of names and values",
    "mapping_": "must be a table of names and values",
    "model_": "must be a table of fields and their values",
    "timezone_": "needs a time zone",
    "datetime_": "must be a date and a time",
    "missing": "is missing",
}
"""Predicates by the beginning of the type of pydantic's error; the first that fits counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The first thing that is wrong with a document's values.

    Attributes:
        field: dotted name of the field; empty if the values do not fit each other.
        what: predicate that follows the field's name ("must be text"), or a sentence of our own validators.
        own: `what` is such a sentence.
        unknown: there is no field of that name; `what` then says which one may be meant.
        inner: the field holds other fields, whose values do not fit each other.
    """

    field: str
    what: str
    own: bool = False
    unknown: bool = False
    inner: bool = False

    @property
    def after_colon(self) -> str:
        """The reason, as it stands after the field's name and a colon."""
        return f"unknown field{self.what}" if self.unknown else self.what


def validated(document: type[_D], values: Any, label: Callable[[str], str] = lambda field: f"`{field}`") -> _D:
    """Return the document with these values.

    Args:
        label: returns what people call the field of a dotted name: the option, or the file and the field in it.

    Raises:
        UsageError: a value is unknown or wrong; says which and what to do.
    """
    try:
        return document.model_validate(values)
    except ValidationError as error:
        refusal = UsageError(sentence(problem(error, document), label))
    # Outside of the handler, so that no traceback shows pydantic's error, which quotes values.
    raise refusal


def sentence(found: Problem, label: Callable[[str], str] = lambda field: f"`{field}`") -> str:
    """Return the problem as a sentence, its full stop or question mark included."""
    called, named = label(found.field), f"`{found.field}`"
    if found.unknown and called.endswith(named):
        prefix = called.removesuffix(named)
        text = f"{prefix}{'unknown' if prefix else 'Unknown'} field {named}{found.what}"
    elif found.unknown:
        text = f"{called}: unknown field{found.what}"
    elif not found.field or (found.inner and found.own):
        text = _capital(found.what)
    else:
        text = f"{called}{':' if found.own else ''} {found.what}"
    return text if text.endswith("?") else f"{text}."


def _capital(text: str) -> str:
    """Return the text with a capital first letter, unless it begins with the name of a field."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def problem(error: ValidationError | Sequence[Any], document: type[BaseModel] | None = None) -> Problem:
    """Describe the first of the errors.

    Args:
        document: the document that was validated; with it, a predicate says all limits of a field, and which one may be
            meant by an unknown name.
    """
    errors = error.errors(include_url=False) if isinstance(error, ValidationError) else error
    # A misspelt field explains another one that is missing.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    kind, field, model = first["type"], None, document
    names: list[str] = []
    for place, part in enumerate(first["loc"], 1):
        info = model.model_fields.get(part) if model is not None and isinstance(part, str) else None
        if info is not None:
            field, model = info, document_in(info.annotation)
        elif document is not None and not (kind == "extra_forbidden" and place == len(first["loc"])):
            continue  # an entry of a list, a key of a mapping, or pydantic's own mark
        names.append(str(part))
    name = ".".join(names)
    if kind == "extra_forbidden":
        return Problem(field=name, what=_instead(names[-1], model), unknown=True)
    if kind in ("value_error", "assertion_error"):
        return Problem(field=name, what=_own_words(first), own=True, inner=model is not None and field is not None)
    if kind == "literal_error":
        return Problem(field=name, what=_choice(first, field))
    if kind.startswith(_NUMBER):
        return Problem(field=name, what=_number(first, field))
    predicate = next((text for start, text in _KINDS.items() if kind.startswith(start)), None)
    if predicate is None:
        return Problem(field=name, what=str(first["msg"]).lower(), own=True)
    in_entry = "has an entry that " if isinstance(first["loc"][-1], int) else ""
    return Problem(field=name, what=in_entry + predicate.format_map({"max_length": "fewer", **first.get("ctx", {})}))


def _own_words(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _instead(name: str, model: type[BaseModel] | None) -> str:
    if model is None:
        return ""
    known = list(model.model_fields)
    near = did_you_mean(name, known)
    return f"; {near}" if near else f"; the fields are {listed(known)}"


def _choice(error: Mapping[str, Any], field: FieldInfo | None) -> str:
    choices = choices_of(field.annotation) if field is not None else ()
    if not choices:
        return f"must be {error['ctx']['expected']}"
    near = did_you_mean(error["input"], choices) if isinstance(error["input"], str) else ""
    return f"must be {listed(choices, 'or')}" + (f"; {near}" if near else "")


def _number(error: Mapping[str, Any], field: FieldInfo | None) -> str:
    of_error = {key: value for key, value in error.get("ctx", {}).items() if key in ("ge", "gt", "le", "lt")}
    limits: dict[str, Any] = dict(of_error)
    whole = error["type"].startswith("int_")
    for part in field.metadata if field is not None else ():
        limits |= {key: value for key in ("ge", "gt", "le", "lt") if (value := getattr(part, key, None)) is not None}
    if field is not None:
        whole = int in plain_types(field.annotation)
    above, below = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if field is not None and "share" in (field.description or "").lower() and (above, below) == (0, 1):
        given = error.get("input")
        percent = given if isinstance(given, int | float) and 1 < given <= 100 else 5
        return f"is a share from 0 to 1; for {percent:g} % write {percent / 100:g}"
    return f"must be {'a whole number' if whole else 'a number'}{_range(limits)}"


def _range(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f" from {_shown(limits['ge'])} to {_shown(limits['le'])}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    parts = [f"{words[key]} {_shown(limits[key])}" for key in ("ge", "gt", "le", "lt") if key in limits]
    return f" {' and '.join(parts)}" if parts else ""


def _shown(number: float) -> str:
    if isinstance(number, int):
        return f"{number:,}" if number < 2**40 else f"2^{number.bit_length() - 1}"
    return f"{number:g}"
