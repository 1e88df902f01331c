"""How states of jobs, nights and pools look: a word, a symbol and a tone, so that colour says nothing alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """Appearance of a state.

    Attributes:
        tone: class of the style sheet: good, bad, warn, busy or calm.
        symbol: one character, which screen readers skip.
        word: what it is called.
    """

    tone: str
    symbol: str
    word: str


JOBS = {
    "QUEUED": Look("calm", "…", "Queued"),
    "PLANNING": Look("busy", "▸", "Planning"),
    "RUNNING": Look("busy", "▸", "Running"),
    "PAUSED": Look("warn", "‖", "Paused"),
    "INTERRUPTED": Look("warn", "!", "Interrupted"),
    "SUCCEEDED": Look("good", "✓", "Succeeded"),
    "GATE_FAILED": Look("bad", "⊘", "Gate failed"),
    "FAILED": Look("bad", "✕", "Failed"),
    "CANCELLED": Look("calm", "–", "Cancelled"),
    "DELETED": Look("calm", "∅", "Deleted"),
}

NIGHTS = {
    "good": Look("good", "✓", "Good"),
    "gate": Look("bad", "⊘", "Gate failed"),
    "failed": Look("bad", "✕", "Failed"),
    "late": Look("warn", "◷", "Late"),
    "missing": Look("bad", "?", "Missing"),
    "skipped": Look("calm", "–", "Skipped"),
    "cancelled": Look("calm", "–", "Cancelled"),
    "running": Look("busy", "▸", "Running"),
    "waiting": Look("busy", "…", "Waiting"),
    "due": Look("calm", "…", "Due"),
    "next": Look("calm", "·", "To come"),
}
"""By `Night.kind`."""

POOLS = {
    "STARTING": Look("busy", "…", "Starting"),
    "UP": Look("good", "✓", "Up"),
    "DRAINING": Look("warn", "▾", "Draining"),
    "DOWN": Look("calm", "–", "Down"),
    "FAILED": Look("bad", "✕", "Failed"),
    "LOST": Look("bad", "?", "Lost"),
}

_UNKNOWN = ("calm", "·")


def look_of(kind: str, states: dict[str, Look]) -> Look:
    """Return how a state looks; one that this table lacks is shown by its own word."""
    return states.get(kind) or Look(*_UNKNOWN, kind.replace("_", " ").capitalize())
