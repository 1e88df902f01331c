"""A schedule's settings as `jobs schedule show` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobs.text import duration

if TYPE_CHECKING:
    from schemas.schedules import Retention, Schedule, Webhook


def settings_of(schedule: Schedule) -> dict[str, str | None]:
    """Return everything that was set when the schedule was made, besides its calendar and dataset."""
    catch_up = f"all, at most {schedule.max_catch_up}" if schedule.catch_up == "all" else schedule.catch_up
    retries = (
        f"{schedule.retries}, the first after {duration(schedule.retry_backoff_s)}" if schedule.retries else "none"
    )
    return {
        "model": f"{schedule.spec.model.path} ({schedule.spec.engine.name})",
        "pool": str(schedule.placement) if schedule.placement else None,
        "inputs": ", ".join(schedule.spec.input.more_uris and schedule.spec.input.uris) or None,
        "rows since": ", ".join(schedule.spec.input.since) or None,
        "wait for": schedule.wait_for,
        "input deadline": f"{duration(schedule.input_deadline_s)} after the run begins",
        "deadline": _deadline(schedule),
        "retries": retries,
        "overlap": schedule.overlap,
        "catch up": catch_up,
        "export": ", ".join([*schedule.spec.export.targets, *([schedule.export] if schedule.export else [])]) or None,
        "webhooks": ", ".join(map(_webhook, schedule.webhooks)) or None,
        "notify on": ", ".join(schedule.notify_on) or None,
        "jobs stay": _retention(schedule.retention),
    }


def _deadline(schedule: Schedule) -> str | None:
    if schedule.deadline_s is None:
        return None
    then = "a late job is cancelled" if schedule.cancel_late else "a late job goes on"
    return f"{duration(schedule.deadline_s)} after the run begins; {then}"


def _retention(retention: Retention | None) -> str | None:
    if retention is None:
        return None
    parts = [f"for {duration(retention.keep_for_s)}"] if retention.keep_for_s is not None else []
    parts += [f"the newest {retention.keep_newest}"] if retention.keep_newest is not None else []
    return " and ".join([*parts, "the latest good one"]) + (
        "; of others their results" if retention.keep_results else ""
    )


def _webhook(webhook: Webhook) -> str:
    """Name a webhook by its host alone: the rest of its address may hold a token."""
    parts = urlsplit(webhook.url)
    source = f"${webhook.secret_env}" if webhook.secret_env else webhook.secret_path
    return f"{parts.scheme}://{parts.hostname}/… ({f'signed, secret in {source}' if source else 'not signed'})"
