"""The pages that read: overview, jobs, a job, schedules, a schedule, pools, comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import BoundedSemaphore
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from jobs.errors import JobsError, UsageError
from jobs.pools.book import PoolBook
from jobs.report.page import report
from jobs.status.entry import Entry
from jobs.status.listing import newest
from jobs.ui import calendar_page, overview
from jobs.ui.actions import DONE
from jobs.ui.compare_page import compared_rows, sides_of
from jobs.ui.guard import REPORT_POLICY
from jobs.ui.job_page import exports_of, job_view
from jobs.ui.pages import render
from jobs.ui.session import COOKIE, form_mark
from jobs.ui.site import Site
from jobs.ui.states import JOBS
from schemas.codes import State

PREFIX = "/ui"
PAGE_JOBS, MOST_JOBS = 50, 500

_REPORTS_AT_ONCE = 2
"""Reports and comparisons read all results of a job: a few at a time, so that the other pages stay quick."""

_WAIT_S = 5.0
"""How long one waits for its turn. It holds one of the server's threads meanwhile, which other pages need."""

_SAMPLES = 10

Text = Annotated[str | None, Query(max_length=200)]


def page_routes(site: Site) -> APIRouter:
    """Build the routes of one site."""
    router = APIRouter(default_response_class=HTMLResponse)
    turns = BoundedSemaphore(_REPORTS_AT_ONCE)

    @router.get("/")
    def show_overview(request: Request) -> Response:
        now = site.now()
        rows, unreadable = overview.schedule_rows(site, now)
        stopped = overview.stopped_jobs(site, now)
        return page(
            site,
            request,
            "overview",
            "overview",
            now=now,
            rows=rows,
            unreadable=unreadable,
            concerns=overview.concerns(site, rows, stopped, now),
            working=overview.at_work(site),
            spent=overview.spent(site, now),
        )

    @router.get("/jobs")
    def show_jobs(
        request: Request,
        q: Text = None,
        state: Annotated[list[str] | None, Query(max_length=20)] = None,
        show: Annotated[int, Query(ge=1, le=MOST_JOBS)] = PAGE_JOBS,
        did: Text = None,
    ) -> Response:
        words = (q or "").casefold().split()
        states = frozenset(State(each) for each in state or () if each in set(State))

        def fits(entry: Entry) -> bool:
            text = f"{entry.job_id} {entry.name} {entry.dataset} {entry.schedule or ''}".casefold()
            return all(word in text for word in words)

        listing = newest(site.store, None, states=states, limit=show, fits=fits, index=site.index)
        return page(
            site,
            request,
            "jobs",
            "jobs",
            listing=listing,
            q=q or "",
            states=states,
            all_states=[each for each in State if each in JOBS],
            show=show,
            did=DONE.get(did or "", ""),
            more=min(MOST_JOBS, show * 2) if listing.more and show < MOST_JOBS else None,
        )

    @router.get("/jobs/{job_id}")
    def show_job(
        request: Request,
        job_id: str,
        samples: bool = False,
        text: bool = False,
        code: Text = None,
        did: Text = None,
    ) -> Response:
        view = job_view(site, job_id, samples=samples or text, with_text=text, code=code, now=site.now())
        return page(
            site,
            request,
            "job",
            "jobs",
            view=view,
            job=view.summary,
            exports=exports_of(view.summary),
            samples=samples or text,
            with_text=text,
            code=code,
            did=DONE.get(did or "", ""),
        )

    @router.get("/jobs/{job_id}/report")
    def show_report(job_id: str, rows: bool = False) -> Response:
        price = site.settings.gpu_hour_price
        with _turn(turns):
            html = report(site.job(job_id), num_samples=_SAMPLES if rows else 0, gpu_hour_price=price)
        return HTMLResponse(html, headers={"content-security-policy": REPORT_POLICY})

    @router.get("/schedules")
    def show_schedules(request: Request) -> Response:
        rows, unreadable = overview.schedule_rows(site, site.now())
        return page(site, request, "schedules", "schedules", rows=rows, unreadable=unreadable)

    @router.get("/schedules/{name}")
    def show_schedule(
        request: Request,
        name: str,
        month: Text = None,
        date: Text = None,
        day: Text = None,
        everything: Annotated[bool, Query(alias="all")] = False,
        did: Text = None,
    ) -> Response:
        now = site.now()
        schedule = site.nights.book.schedule(name)
        today = now.astimezone(ZoneInfo(schedule.tz)).date()
        first = calendar_page.first_of(month or (date or day or "")[:7], today)
        after, until = calendar_page.span_of(schedule, first)
        nights = site.nights.between(schedule, after, until, now)
        shown = calendar_page.month_of(nights, first, today)
        recent = site.nights.last(schedule, overview.STRIP, now)
        return page(
            site,
            request,
            "schedule",
            "schedules",
            schedule=schedule,
            month=shown,
            listed=calendar_page.listed(shown, day=day, date=date, everything=everything),
            day=day,
            everything=everything,
            latest=overview.latest(site, schedule, recent),
            next_at=site.nights.upcoming(schedule, now),
            gpu_s=sum(night.gpu_s or 0.0 for night in nights),
            today=today,
            date=date,
            did=DONE.get(did or "", ""),
            is_first=(first - timedelta(days=1)) < schedule.since.date(),
            is_last=first.year == today.year and first.month == today.month,
        )

    @router.get("/schedules/{name}/latest")
    def show_latest(name: str) -> Response:
        pointer = site.nights.book.latest(name)
        if pointer is None:
            raise UsageError(f"The schedule {name} has no good night yet.", "Look at its calendar.")
        return RedirectResponse(f"{PREFIX}/jobs/{pointer.job_id}", 303)

    @router.get("/pools")
    def show_pools(request: Request) -> Response:
        found, unreadable = [], []
        pools = site.client.pools()
        for name in PoolBook(site.store).names():
            try:
                found.append(pools.standing(name))
            except JobsError as error:
                unreadable.append(f"{name}: {error.message}")
        return page(site, request, "pools", "pools", pools=found, unreadable=unreadable)

    @router.get("/compare")
    def show_comparison(request: Request, a: Text = None, b: Text = None, rows: bool = False) -> Response:
        recent = newest(site.store, None, limit=PAGE_JOBS, index=site.index).entries
        sides = sides_of(site, a, b) if a and b else None
        compared = None
        if sides is not None and rows:
            with _turn(turns):
                compared = compared_rows(site, sides.a.job_id, sides.b.job_id)
        return page(
            site, request, "compare", "compare", recent=recent, sides=sides, a=a or "", b=b or "", compared=compared
        )

    return router


@contextmanager
def _turn(turns: BoundedSemaphore) -> Iterator[None]:
    if not turns.acquire(timeout=_WAIT_S):
        raise JobsError("Other reports are being made, and only a few are at once.", "Load the page again in a moment.")
    try:
        yield
    finally:
        turns.release()


def page(site: Site, request: Request, template: str, section: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a page with what every page needs: navigation, the mark of its forms, when it was made."""
    values.setdefault("now", site.now())
    html = render(
        template,
        site=site,
        section=section,
        base=PREFIX,
        mark=form_mark(site.secret, request.cookies.get(COOKIE, "")),
        signed_in=site.token is not None,
        **values,
    )
    return HTMLResponse(html, status)
