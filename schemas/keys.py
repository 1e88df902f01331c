"""Object keys of a job directory. Keys are relative to the job's root, with `/` between parts."""

from __future__ import annotations

SPEC = "_job/spec.json"
PLAN = "_job/plan.json"
PROGRESS = "_job/progress.json"
TERMINAL = "_job/terminal.json"
PLACEMENT = "_job/placement.json"
TOMBSTONE = "_job/tombstone.json"
SUCCESS = "_SUCCESS"
STAGED = "_job/staged/"
ATTEMPTS = "_job/attempts/"
QUARANTINE = "_job/quarantine/"
HISTORY = "_job/history/"
LOGS = "_job/logs/"
STARTS = "_job/starts/"
FINGERPRINTS = "_job/fingerprints/"
INTERRUPTIONS = "_job/interruptions/"
SALVAGE = "_job/salvage/"
EXPORTS = "_job/exports/"
LIMITS = "_job/limits/"
PAUSES = "_job/pauses/"
INPUTS = "_inputs/"
"""Beside the job directories, not in one: rows that were submitted as data frames."""
RESULTS = "results/"


def staged(shard: int) -> str:
    """The tokenised rows of a shard."""
    return f"{STAGED}part-{shard:05d}.parquet"


def fingerprints(shard: int) -> str:
    """The row fingerprints of a shard, by which later jobs find its results."""
    return f"{FINGERPRINTS}part-{shard:05d}.parquet"


def result(shard: int) -> str:
    """The result object of a shard: its existence is the commit."""
    return f"{RESULTS}part-{shard:05d}.parquet"


def attempt(shard: int, attempt_id: str) -> str:
    """The record of one attempt."""
    return f"{ATTEMPTS}{shard:05d}/{attempt_id}.json"


def quarantine(shard: int, place: int) -> str:
    """The record of a row that kills the engine."""
    return f"{QUARANTINE}{shard:05d}/{place:05d}.json"


def frame(digest: str) -> str:
    """The folder with the rows of one data frame. Relative to the root of all jobs: several jobs may read it."""
    return f"{INPUTS}{digest}/"


def history(driver: str) -> str:
    """What one driver saw over time."""
    return f"{HISTORY}{driver}.json"


def start(driver: str, process: str) -> str:
    """How one process came to its first work."""
    return f"{STARTS}{driver}/{process}.json"


def log(driver: str, segment: int) -> str:
    """A segment of what one driver and its replicas logged."""
    return f"{LOGS}{driver}/{segment:05d}.jsonl"


def log_of(key: str) -> tuple[str, int] | None:
    """Driver and segment in a key that `log` makes, or None for any other."""
    *_, driver, name = ("", *key.split("/"))
    if name.endswith(".jsonl") and name[:-6].isdecimal() and f"/{key}".endswith(f"/{log(driver, int(name[:-6]))}"):
        return driver, int(name[:-6])
    return None


def interruption(driver: str) -> str:
    """Why one driver ended before its job did."""
    return f"{INTERRUPTIONS}{driver}.json"


def raised_limits(number: int) -> str:
    """A change of the job's limits; the first one is number 1."""
    return f"{LIMITS}{number:05d}-raised.json"


def limit_notice(number: int, kind: str, stage: str) -> str:
    """A notice about a limit, as the change of this number has made it; number 0 are the spec's own limits."""
    return f"{LIMITS}{number:05d}-{kind}-{stage}.json"


def pause(number: int, *, ended: bool = False) -> str:
    """A pause, or its end; the first one is number 1."""
    return f"{PAUSES}{number:05d}{'-ended' if ended else ''}.json"


def export(export_id: str, document: str) -> str:
    """One of the records of an export: `outcome` or `failure`."""
    return f"{EXPORTS}{export_id}/{document}.json"


def salvage(shard: int, attempt_id: str) -> str:
    """Finished rows of an attempt that could not commit."""
    return f"{salvage_folder(shard)}{attempt_id}.parquet"


def salvage_folder(shard: int) -> str:
    """Where all attempts at a shard leave such rows."""
    return f"{SALVAGE}{shard:05d}/"


def salvage_of(key: str) -> tuple[int, str] | None:
    """Shard number and attempt id in a key that `salvage` makes, or None for any other."""
    *_, folder, name = ("", *key.split("/"))
    if folder.isdecimal() and name.endswith(".parquet") and f"/{key}".endswith(f"/{salvage(int(folder), name[:-8])}"):
        return int(folder), name.removesuffix(".parquet")
    return None


def shard_of(key: str) -> int | None:
    """The shard number in a `part-NNNNN.parquet` key, or None for any other name."""
    name = key.rsplit("/", 1)[-1]
    if name.startswith("part-") and name.endswith(".parquet") and name[5:-8].isdigit():
        return int(name[5:-8])
    return None
