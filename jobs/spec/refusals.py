"""Options that a spec refuses, in words for the caller: pydantic's speak of input and of types."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.spec.options import spec_of
from jobs.text import quoted
from schemas.spec import JobSpec

_WORDS = {
    "missing": "is missing",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "finite_number": "must be a finite number",
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "True or False", "string": "text", "tuple": "a list"}
_SHOWN = (str, bool, int, float)


def checked_spec(dataset: str | None, options: Mapping[str, Any], settings: Settings) -> JobSpec:
    """Build the spec of a job like `spec_of`, with every refusal as a `UsageError`."""
    try:
        return spec_of(dataset, options, settings)
    except ValidationError as error:
        refusal = explained(error)
    # Outside of the handler, so that no traceback shows pydantic's error, which quotes values.
    raise refusal


def explained(error: ValidationError) -> UsageError:
    """Return the first refusal of a spec in our words."""
    first = error.errors(include_url=False)[0]
    field, kind = ".".join(str(part) for part in first["loc"]), first["type"]
    if kind == "value_error":
        reason = first["msg"].removeprefix("Value error, ")
        return UsageError(f"{field}: {reason}." if field else f"{reason[:1].upper()}{reason[1:]}.")
    if kind == "extra_forbidden":
        return UsageError(f"There is no field {quoted(field)}.", _near(first["loc"]))
    limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in first.get("ctx", {}).items()}
    wanted = _KINDS.get(kind.partition("_")[0])
    words = _WORDS[kind].format(**limits) if kind in _WORDS else f"must be {wanted}" if wanted else "is not valid"
    value = first["input"]
    given = quoted(value) if isinstance(value, _SHOWN) else f"a value of type {type(value).__name__}"
    share = ""
    if isinstance(value, int | float) and field.endswith("_rate") and 1 < value <= 100:
        share = f"It is a share from 0 to 1; for {value:g} % write {value / 100:g}."
    return UsageError(f"{field} is {given}, but {words}.", share)


def _near(place: tuple[int | str, ...]) -> str:
    model: Any = JobSpec
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        model = getattr(field, "annotation", None)
        if not hasattr(model, "model_fields"):
            return ""
    names = list(model.model_fields)
    near = difflib.get_close_matches(str(place[-1]), names, n=1)
    return f"Did you mean {near[0]}?" if near else f"Fields are: {', '.join(names)}."
