"""Options of the command line and of the client, as the fields of the spec declare them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Panel(StrEnum):
    """Headings of the options in `--help`, in the order in which they are shown."""

    INPUT = "Input"
    ENGINE = "Engine"
    SAMPLING = "Sampling"
    FORM = "Form of the answer"
    JOB = "Job"
    EXPORT = "Exports, once the job has succeeded"
    LIMITS = "Limits on time and cost, over all of the job's drivers"
    GATES = "Quality gates: shares from 0 to 1; exit 3 and no _SUCCESS if one is crossed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """Metadata of a field that users set by an option: `--max-tokens`, and `max_tokens` in Python.

    The option's type and default are the field's, and so is its help text: the field's description.

    Attributes:
        name: name of the option with `_` for `-`; default: the field's name.
        help: help text of the flag, if it takes something else than the field: a file, say.
        form: what the flag takes. `value`: what the field takes. `text`: text, which `jobs.spec.build` reads. `names`:
            names with commas between them. `json_file`: the path of a JSON file. `json_or_off`: JSON, or
            `off` for null. `negated`: nothing; `--no-chat` sets `chat` to false.
    """

    panel: Panel
    name: str | None = None
    help: str | None = None
    form: Literal["value", "text", "names", "json_file", "json_or_off", "negated"] = "value"
