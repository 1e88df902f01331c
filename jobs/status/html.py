"""A job as HTML for notebooks: one block without scripts, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from jobs.status.display import facts, one_line
from jobs.status.summary import Summary
from jobs.text import printable

_COLOURS = {"RUNNING": "#0891b2", "PLANNING": "#0891b2", "SUCCEEDED": "#16a34a", "FAILED": "#dc2626"}
_OTHER_COLOUR = "#b45309"
_LABEL = "padding:0 1em 0 0;text-align:left;vertical-align:top;opacity:.65;white-space:nowrap"
_VALUE = "padding:0;text-align:left"


class Picture:
    """A summary as a notebook shows it: HTML, or a line of text where HTML cannot be shown."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def __repr__(self) -> str:
        return one_line(self._summary)

    def _repr_html_(self) -> str:
        return summary_html(self._summary)


def summary_html(summary: Summary) -> str:
    """Return state, progress bar and facts of a job."""
    crossed = bool(summary.crossed_gates)
    colour = _COLOURS["FAILED"] if crossed else _COLOURS.get(summary.state, _OTHER_COLOUR)
    share = summary.rows_done / summary.rows_total if summary.rows_total else 0.0
    bar = (
        '<div style="margin:.4em 0;width:28em;max-width:100%;height:.5em;border-radius:.25em;'
        'background:rgba(128,128,128,.25)">'
        f'<div style="width:{share:.1%};height:100%;border-radius:.25em;background:{colour}"></div></div>'
    )
    shown = {"reason": printable(summary.reason or ""), "next": printable(summary.hint or ""), **facts(summary)}
    return block(summary.state, colour, summary.job_id, bar + table({k: v for k, v in shown.items() if v}))


def block(word: str, colour: str, title: str, inside: str) -> str:
    """Return a block with a coloured word, a title, and HTML below them."""
    return (
        f'<div style="line-height:1.5"><strong style="color:{colour}">{escape(word)}</strong> '
        f"<strong>{escape(title)}</strong>{inside}</div>"
    )


def table(values: Mapping[str, str]) -> str:
    """Return a table with a label and a text in each row."""
    rows = (
        f'<tr style="background:none"><td style="{_LABEL}">{escape(label)}</td>'
        f'<td style="{_VALUE}">{escape(text)}</td></tr>'
        for label, text in values.items()
    )
    return f'<table style="border:none;margin:0">{"".join(rows)}</table>'
