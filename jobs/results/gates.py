"""Quality gates: limits in the spec that decide whether results are good enough to use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import get_args

from jobs.text import percent
from schemas.codes import RowError
from schemas.records import CrossedGate, Gate, Manifest
from schemas.spec import JobSpec

_COUNTED: dict[Gate, str] = {
    "max_error_rate": "rows are errors",
    "max_length_finish_rate": "answers were cut at their token limit",
    "max_repetition_rate": "answers were ended in a loop",
    "max_empty_rate": "answers are empty",
    "min_valid_json_rate": "answers are valid JSON",
}


_SHORT: dict[Gate, str] = {
    "max_error_rate": "errors",
    "max_length_finish_rate": "cut",
    "max_repetition_rate": "loops",
    "max_empty_rate": "empty",
    "min_valid_json_rate": "valid JSON",
}


def judged(spec: JobSpec, manifest: Manifest) -> Manifest:
    """Return the manifest with those of the spec's gates that its counts have crossed."""
    return manifest.evolve(crossed_gates=tuple(_crossed(spec, manifest)))


def describe(gates: Iterable[CrossedGate]) -> str:
    """Format crossed gates with their numbers, for people; empty if there are none."""
    return "; ".join(_describe(gate) for gate in gates)


def short(gates: Iterable[CrossedGate]) -> str:
    """Format crossed gates for a table: `errors 15 %`; empty if there are none."""
    return ", ".join(f"{_SHORT[gate.gate]} {percent(gate.rate)}" for gate in gates)


def _crossed(spec: JobSpec, manifest: Manifest) -> Iterator[CrossedGate]:
    answers = manifest.num_rows - manifest.num_error_rows
    # An answer that violates its required form is an error row; it counts as invalid JSON, too.
    formless = sum(shard.error_codes.get(RowError.INVALID_FORM, 0) for shard in manifest.shards)
    counts = {
        "max_error_rate": (manifest.num_error_rows, manifest.num_rows),
        "max_length_finish_rate": (manifest.num_length_rows, answers),
        "max_repetition_rate": (manifest.num_repetition_rows, answers),
        "max_empty_rate": (manifest.num_empty_rows, answers),
        "min_valid_json_rate": (manifest.num_valid_json_rows, answers + formless),
    }
    for gate in get_args(Gate):
        limit, (count, total) = getattr(spec, gate), counts[gate]
        # Without answers there is nothing to judge; max_error_rate catches a job without answers.
        if limit is None or total == 0:
            continue
        rate = count / total
        crossed = rate < limit if gate.startswith("min_") else rate > limit
        if crossed:
            yield CrossedGate(gate=gate, limit=limit, rate=rate, num_rows=count, of_rows=total)


def _describe(crossed: CrossedGate) -> str:
    bound = "at least" if crossed.gate.startswith("min_") else "at most"
    return (
        f"{crossed.num_rows:,} of {crossed.of_rows:,} {_COUNTED[crossed.gate]} ({_percent(crossed.rate)}; "
        f"{crossed.gate} allows {bound} {_percent(crossed.limit)})"
    )


def _percent(share: float) -> str:
    """Format a share as a percentage with enough digits: 0.01 % must not read as 0 %."""
    return f"{100 * share:.4g} %"
