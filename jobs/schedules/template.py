"""Addresses that depend on a run's date: `s3://in/{{ date }}/`."""

from __future__ import annotations

from datetime import datetime, timedelta

from jobs.errors import UsageError
from jobs.schedules.calendar import Calendar
from jobs.text import quoted
from schemas.exports import ExportSpec


def variables(calendar: Calendar, due: datetime) -> dict[str, str]:
    """Return a template's variables; dates and times are those that the expression names, in the schedule's zone."""
    local = calendar.nominal(due)
    return {
        "date": f"{local:%Y-%m-%d}",
        "yesterday": f"{local.date() - timedelta(days=1):%Y-%m-%d}",
        "year": f"{local:%Y}",
        "month": f"{local:%m}",
        "day": f"{local:%d}",
        "hour": f"{local:%H}",
        "minute": f"{local:%M}",
        "logical_date": calendar.logical_date(due),
    }


def render(text: str, values: dict[str, str]) -> str:
    """Fill in the variables of a text, in Jinja's sandbox.

    Raises:
        UsageError: the template is not valid, or uses unknown variables.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return SandboxedEnvironment(undefined=StrictUndefined).from_string(text).render(values)
    except TemplateError as error:
        raise UsageError(
            f"The template {quoted(text)} is not valid: {error}.", f"A schedule's addresses know: {', '.join(values)}."
        ) from error


def rendered_exports(exports: ExportSpec, values: dict[str, str]) -> ExportSpec:
    """Fill in the variables of every target.

    Raises:
        UsageError: a template is not valid, or uses unknown variables.
    """
    return exports.evolve(targets=tuple(render(target, values) for target in exports.targets))
