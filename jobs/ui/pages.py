"""Templates, and the words in them: numbers, durations, moments."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs import __version__
from jobs.shell import as_called
from jobs.text import duration, percent, printable
from jobs.ui.states import JOBS, NIGHTS, POOLS, look_of

FOLDER = Path(__file__).parent


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "duration": duration,
        "printable": printable,
        "called": called,
        "said": said,
        "moment": moment,
        "day": day,
        "mebibytes": lambda value: f"{value / 2**20:,.1f} MiB",
        "money": lambda value: f"{value:,.2f}",
    }
    environment.globals |= {
        "job_look": lambda state: look_of(str(state), JOBS),
        "night_look": lambda kind: look_of(kind, NIGHTS),
        "pool_look": lambda word: look_of(word, POOLS),
        "version": __version__,
    }
    return environment


def render(template: str, **values: Any) -> str:
    """Render one of the templates. Every value is escaped."""
    return _environment().get_template(f"{template}.html.j2").render(**values)


def called(text: str) -> str:
    """Return a command as it is typed where the page is read: the server's own path says nothing there."""
    return as_called(text, "batchjobs")


def said(text: str) -> str:
    """Return a sentence of the product as a page has it: commands as people type them, and no break before a %."""
    return printable(called(text)).replace(" %", "\N{NO-BREAK SPACE}%")


def moment(at: datetime | str | None) -> Markup | str:
    """Return a moment as people read it, in UTC, with its machine-readable form beside it."""
    if not at:
        return "–"
    try:
        utc = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    except ValueError:
        return printable(str(at))
    return Markup('<time datetime="{}">{}</time>').format(f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%d %b, %H:%M}")


def day(at: date) -> str:
    """Return a day as people read it."""
    return f"{at:%a} {at.day} {at:%b}"
