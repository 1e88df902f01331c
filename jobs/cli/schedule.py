"""`jobs schedule`: jobs that run by the calendar."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from jobs import signals
from jobs.cli.options import Request, add_spec_command
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Root, ScheduleName
from jobs.cli.schedule_runs import outcome_word, render_schedule, run_schedule, serve_schedules
from jobs.cli.schedule_settings import settings_of
from jobs.errors import Damaged, UsageError

if TYPE_CHECKING:
    from jobs.schedules.book import Book, StoredRun
    from schemas.schedules import Schedule

app = typer.Typer(
    help="Jobs that run by the calendar, unattended. All state is in the object store.", no_args_is_help=True
)
app.command("run")(run_schedule)
app.command("serve")(serve_schedules)
app.command("render")(render_schedule)

NewName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False)]
_WHEN, _LATE, _NEWS = "When", "Late and interrupted runs", "Notifications"
_KEEP = "How long its jobs stay"


def create(
    output: Output,
    schedule_name: NewName,
    *,
    request: Request,
    cron: Annotated[
        str, typer.Option("--cron", help="Minute, hour, day, month, weekday: '0 2 * * *'.", rich_help_panel=_WHEN)
    ],
    tz: Annotated[str, typer.Option("--tz", help="Time zone: Europe/Berlin.", rich_help_panel=_WHEN)] = "UTC",
    wait_for: Annotated[
        str | None,
        typer.Option(
            "--wait-for", help="Also wait until this is there: a file, or new rows in a table.", rich_help_panel=_WHEN
        ),
    ] = None,
    input_deadline: Annotated[
        str,
        typer.Option("--input-deadline", help="Give up waiting for input after: 6h.", rich_help_panel=_LATE),
    ] = "6h",
    overlap: Annotated[
        str, typer.Option("--overlap", help="If a run is not done when the next is due: skip, queue, cancel-previous.")
    ] = "skip",
    catch_up: Annotated[str, typer.Option("--catch-up", help="Missed runs to catch up: none, latest, all.")] = (
        "latest"
    ),
    max_catch_up: Annotated[int, typer.Option("--max-catch-up", help="With `all`: at most this many, the newest.")] = 7,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="A run counts as late after: 30m, 6h, 1d.", rich_help_panel=_LATE)
    ] = None,
    cancel_late: Annotated[
        bool, typer.Option("--cancel-late", help="Cancel a late run; else it goes on.", rich_help_panel=_LATE)
    ] = False,
    retries: Annotated[
        int, typer.Option("--retries", help="How often an interrupted job is resumed.", rich_help_panel=_LATE)
    ] = 3,
    retry_backoff: Annotated[
        str, typer.Option("--retry-backoff", help="Pause before the first retry; it doubles.", rich_help_panel=_LATE)
    ] = "1m",
    webhook: Annotated[
        list[str] | None, typer.Option("--webhook", help="Address to POST events to.", rich_help_panel=_NEWS)
    ] = None,
    webhook_secret_env: Annotated[
        str | None,
        typer.Option("--webhook-secret-env", help="The scheduler's variable with the secret.", rich_help_panel=_NEWS),
    ] = None,
    webhook_secret_file: Annotated[
        str | None,
        typer.Option("--webhook-secret-file", help="Or a file on its machine.", rich_help_panel=_NEWS),
    ] = None,
    notify_on: Annotated[
        str,
        typer.Option(
            "--notify-on", help="Of: succeeded, gate, failed, late, limit, cancelled, skipped.", rich_help_panel=_NEWS
        ),
    ] = "succeeded,gate,failed,late,limit",
    keep_for: Annotated[
        str | None,
        typer.Option("--keep-for", help="Delete its jobs so long after their end: 30d.", rich_help_panel=_KEEP),
    ] = None,
    keep_newest: Annotated[
        int | None,
        typer.Option(
            "--keep-newest", min=1, help="But keep the newest so many; alone: delete all others.", rich_help_panel=_KEEP
        ),
    ] = None,
    keep_results: Annotated[
        bool,
        typer.Option("--keep-results", help="Delete only logs, attempts and staged rows.", rich_help_panel=_KEEP),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Change a schedule that exists.")] = False,
) -> None:
    """Create a schedule. `jobs schedule serve` must run somewhere to start its runs, or what `render` prints.

    DATASET, --wait-for and --export may hold {{ date }}, {{ yesterday }}, {{ year }}, {{ month }}, {{ day }},
    {{ hour }}, {{ minute }} and {{ logical_date }}, by the schedule's own clock.

    Examples:

      jobs schedule create nightly --cron '0 2 * * *' --tz Europe/Berlin --spec nightly.toml

      jobs schedule create reviews 's3://in/{{ date }}/' --cron '0 2 * * *' --wait-for 's3://in/{{ date }}/_SUCCESS'
      --deadline 6h --max-empty-rate 0.01 --webhook https://example.com/hook --webhook-secret-env HOOK_SECRET
    """
    from jobs.durations import seconds
    from jobs.job_ids import resolve_jobs
    from jobs.results.sinks.addresses import absolute
    from jobs.schedules.checks import check_schedule
    from jobs.store.probe import check_write_once
    from jobs.validation import validated
    from schemas.schedules import CatchUp, Notified, Overlap, Schedule

    book, now = _book(request.settings.root), datetime.now(UTC).replace(microsecond=0)
    if (webhook_secret_env or webhook_secret_file) and not webhook:
        raise UsageError("A webhook's secret is given, but no webhook.", "Add --webhook URL.")
    values = {
        "name": schedule_name,
        "cron": cron,
        "tz": tz,
        "spec": resolve_jobs(book.store, request.spec, of_schedule=True),
        "wait_for": absolute(wait_for) if wait_for else None,
        "placement": request.placement,
        "overlap": _one_of("--overlap", overlap, Overlap),
        "catch_up": _one_of("--catch-up", catch_up, CatchUp),
        "max_catch_up": max_catch_up,
        "deadline_s": seconds(deadline, "--deadline") if deadline else None,
        "cancel_late": cancel_late,
        "input_deadline_s": seconds(input_deadline, "--input-deadline"),
        "retries": retries,
        "retry_backoff_s": seconds(retry_backoff, "--retry-backoff"),
        "webhooks": tuple(
            {"url": url, "secret_env": webhook_secret_env, "secret_path": webhook_secret_file} for url in webhook or ()
        ),
        "notify_on": tuple(
            _one_of("--notify-on", each.strip(), Notified) for each in notify_on.split(",") if each.strip()
        ),
        "retention": _retention(keep_for, keep_newest, keep_results=keep_results),
        "since": now,
        "created_at": now,
    }
    schedule = validated(Schedule, values, _flag)
    check_schedule(schedule, request.settings.allowed_buckets, now)
    check_write_once(book.store)
    signals.stands(f"The schedule may have been written: jobs schedule show {schedule_name}")
    standing = book.find(schedule_name)
    if replace and standing is not None:
        book.write(schedule.evolve(created_at=standing.created_at, suspended=standing.suspended))
    elif not book.create(schedule):
        output.note("This schedule existed with the same settings.")
    output.record(_described(book, book.schedule(schedule_name), now))
    output.hint("jobs schedule serve")
    output.hint(f"jobs schedule run {schedule_name}")


add_spec_command(app, "create", create)


@app.command("list")
@with_output
def list_schedules(output: Output, root: Root = None) -> None:
    """List the schedules, with their next run and how the last one ended.

    Example:

      jobs schedule list
    """
    book, now = _book(root), datetime.now(UTC)
    rows, unreadable = [], False
    for name in book.names():
        try:
            if (schedule := book.find(name)) is not None:
                rows.append(_described(book, schedule, now))
        except (UsageError, Damaged) as error:
            unreadable = True
            output.warn(f"Schedule {name} is left out: {error}")
    if not rows and output.format is Format.TABLE:
        if not unreadable:
            output.note(f"No schedules under {book.store.uri}.")
            output.hint("jobs schedule create nightly --cron '0 2 * * *' --tz Europe/Berlin --spec nightly.toml")
        return
    columns = ("name", "state", "cron", "tz", "next", "last", "outcome", "published")
    output.table(rows, dict(zip(columns, columns, strict=True)))


@app.command("show")
@with_output
def show(
    output: Output,
    name: ScheduleName,
    root: Root = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many runs.")] = 14,
) -> None:
    """Show a schedule and its newest runs.

    Example:

      jobs schedule show nightly-reviews
    """
    book = _book(root)
    schedule = book.schedule(name)
    runs = [_run(book, entry) for entry in book.recent(name, limit)]
    about = _described(book, schedule, datetime.now(UTC))
    if output.format is Format.JSON:
        output.record(about | {"schedule": schedule.model_dump(mode="json"), "runs": runs})
        return
    if output.format is Format.TABLE:
        output.record(about | settings_of(schedule))
    output.table(runs, ["logical_date", "round", "outcome", "job_id", "rows", "reason"])


@app.command("latest")
@with_output
def latest(output: Output, name: ScheduleName, root: Root = None) -> None:
    """Show the newest published results; -q prints the job id alone. Exit code 1 before the first success.

    Example:

      batchjobs results $(batchjobs schedule latest nightly -q) out.parquet
    """
    book = _book(root)
    pointer = book.latest(name)
    if pointer is None:
        book.schedule(name)
        output.note(f"Nothing of {name} has been published yet.")
        raise typer.Exit(1)
    shown = pointer.model_dump(mode="json", exclude={"format_version"})
    if output.format is not Format.JSON:
        shown["exports"] = ", ".join(shown["exports"]) or None
    output.record({"job_id": shown.pop("job_id"), **shown})


@app.command("suspend")
@with_output
def suspend(output: Output, name: ScheduleName, root: Root = None) -> None:
    """Stop starting new runs. Runs under way go on; missed runs are not caught up.

    Example:

      jobs schedule suspend nightly-reviews
    """
    _set_suspended(output, name, root, True)


@app.command("resume")
@with_output
def resume(output: Output, name: ScheduleName, root: Root = None) -> None:
    """Let a suspended schedule start runs again, from its next due time on.

    Example:

      jobs schedule resume nightly-reviews
    """
    _set_suspended(output, name, root, False)


@app.command("delete")
@with_output
def delete(output: Output, name: ScheduleName, root: Root = None) -> None:
    """Delete a schedule. Its jobs, its results and latest.json stay; running jobs go on.

    Example:

      jobs schedule delete nightly-reviews
    """
    book = _book(root)
    book.schedule(name)
    signals.stands(f"The schedule may have been deleted: jobs schedule show {name}")
    book.delete(name)
    output.record({"name": name, "state": "deleted"})


def _flag(field: str) -> str:
    """Return the option that sets a field of a schedule."""
    name = field.partition(".")[0].removesuffix("_s")
    return "NAME" if name == "name" else f"--{name.removesuffix('s') if name == 'webhooks' else name}".replace("_", "-")


def _set_suspended(output: Output, name: str, root: str | None, suspended: bool) -> None:
    book, now = _book(root), datetime.now(UTC).replace(microsecond=0)
    schedule = book.schedule(name)
    if schedule.suspended != suspended:
        # Runs missed while it was suspended are not caught up.
        schedule = schedule.evolve(suspended=suspended, since=schedule.since if suspended else now)
        signals.stands(f"The schedule may have been changed: jobs schedule show {name}")
        book.write(schedule)
    output.record(_described(book, schedule, now))


def _described(book: Book, schedule: Schedule, now: datetime) -> dict[str, Any]:
    from jobs.schedules.calendar import Calendar

    calendar = Calendar(schedule.cron, schedule.tz)
    last = next(book.recent(schedule.name, 1), None)
    pointer = book.latest(schedule.name)
    following = None if schedule.suspended else calendar.local(next(calendar.after(max(now, schedule.since))))
    return {
        "name": schedule.name,
        "state": "suspended" if schedule.suspended else "active",
        "cron": schedule.cron,
        "tz": schedule.tz,
        "dataset": schedule.spec.input.shown,
        "next": following.isoformat(timespec="minutes") if following else None,
        "last": last.run.logical_date if last else None,
        "outcome": _outcome(last) if last else None,
        "published": pointer.logical_date if pointer else None,
    }


def _run(book: Book, entry: StoredRun) -> dict[str, Any]:
    from schemas.schedules import utc

    run, outcome = entry.run, entry.outcome
    return {
        "logical_date": run.logical_date,
        "round": run.round,
        "outcome": _outcome(entry),
        "job_id": run.job_id,
        "rows": outcome.num_rows if outcome else None,
        "due_at": utc(run.due_at),
        "opened_at": utc(run.opened_at),
        "ended_at": utc(outcome.at) if outcome else None,
        "by": run.by,
        "retries": len([retry for retry in entry.retries if retry.started_at]),
        "reason": _reason(book, entry),
    }


def _reason(book: Book, entry: StoredRun) -> str | None:
    """How the run ended; or why its results could not be exported yet, or its job was interrupted last."""
    from jobs.ledger import Ledger
    from jobs.schedules.exports import why_not_exported

    if entry.outcome is not None:
        return entry.outcome.reason or None
    if why := why_not_exported(Ledger(book.store, entry.run.job_id), entry.run):
        return why
    return (entry.retries[-1].reason or None) if entry.retries else None


def _outcome(entry: StoredRun) -> str:
    if entry.outcome is not None:
        return outcome_word(entry.outcome.kind)
    return "late, not done" if entry.late is not None else "not done"


def _retention(keep_for: str | None, keep_newest: int | None, *, keep_results: bool) -> dict[str, Any] | None:
    from jobs.durations import seconds

    if keep_for is None and keep_newest is None:
        if keep_results:
            raise UsageError("--keep-results says what stays, but not for how long.", "Add --keep-for 30d.")
        return None
    keep_for_s = None if keep_for is None else seconds(keep_for, "--keep-for")
    return {"keep_for_s": keep_for_s, "keep_newest": keep_newest, "keep_results": keep_results}


def _one_of(flag: str, value: str, choices: Any) -> Any:
    if value not in get_args(choices):
        raise UsageError(f"{flag} {value} is not known.", f"Give one of: {', '.join(get_args(choices))}.")
    return value


def _book(root: str | None) -> Book:
    from jobs import settings
    from jobs.client import BatchClient
    from jobs.schedules.book import Book

    return Book(BatchClient(settings.load({"root": root})).store)
