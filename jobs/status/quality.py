"""How well the rows of a job were answered, with warnings where it went wrong in silence. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.text import percent
from schemas.codes import RowError
from schemas.commits import ShardStats
from schemas.records import Cancelled, Failed, Manifest, Progress, Quality, ShardCommit, Succeeded
from schemas.spec import JobSpec

MAX_CUT_SHARE = 0.05
"""A larger share of answers that were cut by their length is worth a warning, unless the job has a gate for it."""

MAX_EMPTY_SHARE = 0.05
"""Likewise of empty answers."""

MAX_REPETITION_SHARE = 0.01
"""Likewise of answers that were ended in a loop."""

MAX_NOT_JSON_SHARE = 0.01
"""Likewise of answers that are not the JSON asked for."""


def quality_of(
    spec: JobSpec, terminal: Succeeded | Failed | Cancelled | None, progress: Progress | None
) -> Quality | None:
    """Return the quality of the answers in committed shards; None if there are none or an older version did not count.

    Counts come from the manifest, or before there is one from the latest driver's progress.
    """
    if spec.scores:
        return None
    if isinstance(terminal, Succeeded):
        found = _of_manifest(terminal.manifest)
    else:
        found = progress.quality if progress else None
    if found is None or not sum(found.finish_reasons.values()):
        return None
    return found.evolve(warnings=tuple(_warnings(spec, found)))


def add_shard(quality: Quality, shard: ShardCommit | ShardStats) -> Quality:
    """Add the counts of a committed shard."""
    reasons = {
        "stop": shard.num_rows - shard.num_error_rows - shard.num_length_rows - shard.num_repetition_rows,
        "length": shard.num_length_rows,
        "repetition": shard.num_repetition_rows,
        "error": shard.num_error_rows,
    }
    invalid_form = shard.error_codes.get(RowError.INVALID_FORM, 0)
    counts = {reason: quality.finish_reasons.get(reason, 0) + count for reason, count in reasons.items()}
    return Quality(
        # Loops are rare, and older versions knew none.
        finish_reasons={reason: count for reason, count in counts.items() if count or reason != "repetition"},
        num_empty_rows=quality.num_empty_rows + shard.num_empty_rows,
        num_json_rows=quality.num_json_rows + shard.num_json_rows,
        num_not_json_rows=quality.num_not_json_rows + shard.num_not_json_rows,
        num_invalid_form_rows=quality.num_invalid_form_rows + invalid_form,
    )


def describe_json(quality: Quality) -> str:
    """Format how many answers are the JSON asked for; "" if none was asked for."""
    if not quality.num_json_rows:
        return ""
    valid = quality.num_json_rows - quality.num_not_json_rows
    return f"{valid:,} of {quality.num_json_rows:,} answers valid ({percent(valid / quality.num_json_rows)})"


def describe_finish_reasons(quality: Quality) -> str:
    """Format the finish reasons, most frequent first: `230 stop, 70 length`."""
    ranked = sorted(quality.finish_reasons.items(), key=lambda each: -each[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in ranked if count)


def _of_manifest(manifest: Manifest) -> Quality | None:
    if "num_length_rows" not in manifest.model_fields_set:
        return None  # A version from before the quality gates wrote it.
    found = Quality()
    for shard in manifest.shards:
        found = add_shard(found, shard)
    return found


def _warnings(spec: JobSpec, found: Quality) -> Iterator[str]:
    cut = found.finish_reasons.get("length", 0)
    loops = found.finish_reasons.get("repetition", 0)
    answers = cut + loops + found.finish_reasons.get("stop", 0)
    mend = f"Raise it with --max-tokens (now {spec.sampling.max_tokens:,}; what rows set themselves comes first)."
    most_cut = MAX_CUT_SHARE if spec.max_length_finish_rate is None else spec.max_length_finish_rate
    if cut > most_cut * answers:
        yield f"{_share(cut, answers)} were cut at their token limit. {mend}"
    most_loops = MAX_REPETITION_SHARE if spec.max_repetition_rate is None else spec.max_repetition_rate
    if loops > most_loops * answers:
        mend_loops = "Try --repetition-penalty 1.1, for these rows by `jobs retry`."
        yield f"{_share(loops, answers)} were ended in a loop. {mend_loops}"
    most_empty = MAX_EMPTY_SHARE if spec.max_empty_rate is None else spec.max_empty_rate
    if found.num_empty_rows > most_empty * answers:
        yield f"{_share(found.num_empty_rows, answers)} are empty. Check the prompt's template and --stop."
    most_not_json = MAX_NOT_JSON_SHARE if spec.min_valid_json_rate is None else 1 - spec.min_valid_json_rate
    if found.num_not_json_rows > most_not_json * found.num_json_rows:
        # An answer that ended by itself and is not JSON has become an error row.
        mostly_cut = found.num_not_json_rows > 2 * found.num_invalid_form_rows
        why = f"Most were cut at their token limit. {mend}" if mostly_cut else "Their rows have INVALID_FORM."
        yield f"{_share(found.num_not_json_rows, found.num_json_rows)} are not the JSON asked for. {why}"


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} answers ({percent(count / max(1, total))})"
