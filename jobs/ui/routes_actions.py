"""The pages that change something: each asks first on a page of its own, and acts on a signed form alone."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from jobs.ui import actions
from jobs.ui.actions import Action
from jobs.ui.forms import read_form
from jobs.ui.routes_pages import PREFIX, page
from jobs.ui.session import COOKIE, is_form_mark
from jobs.ui.site import Site


def action_routes(site: Site) -> APIRouter:
    """Build the routes of one site."""
    router = APIRouter()

    async def signed(request: Request) -> dict[str, str]:
        form = await read_form(request)
        if not is_form_mark(form.get("mark", ""), site.secret, request.cookies.get(COOKIE, "")):
            raise HTTPException(403, "This form is not one of yours, or too old. Load the page again.")
        return form

    Signed = Depends(signed)  # noqa: N806

    def ask(request: Request, action: Action, about: str, section: str, back: str, **fields: str) -> Response:
        return page(site, request, "confirm", section, action=action, about=about, back=back, fields=fields)

    async def act(step: Callable[[], object], path: str, did: str) -> Response:
        await run_in_threadpool(step)
        return RedirectResponse(f"{PREFIX}/{path}?did={did}", 303)

    @router.get("/jobs/{job_id}/cancel")
    def ask_cancel(request: Request, job_id: str) -> Response:
        return ask(request, actions.CANCEL, job_id, "jobs", f"jobs/{job_id}")

    @router.post("/jobs/{job_id}/cancel", dependencies=[Signed])
    async def cancel(job_id: str) -> Response:
        return await act(lambda: actions.cancel(site, job_id), f"jobs/{job_id}", "cancel")

    @router.get("/jobs/{job_id}/resume")
    def ask_resume(request: Request, job_id: str) -> Response:
        return ask(request, actions.RESUME, job_id, "jobs", f"jobs/{job_id}")

    @router.post("/jobs/{job_id}/resume", dependencies=[Signed])
    async def resume(job_id: str) -> Response:
        return await act(lambda: actions.resume(site, job_id), f"jobs/{job_id}", "resume")

    @router.get("/schedules/{name}/run")
    def ask_run(request: Request, name: str, date: str) -> Response:
        return ask(
            request, actions.RUN_AGAIN, f"{name}, {date}", "schedules", f"schedules/{name}?date={date}", date=date
        )

    @router.post("/schedules/{name}/run")
    async def run(name: str, form: dict[str, str] = Signed) -> Response:
        date = form.get("date", "")
        path = f"schedules/{name}"
        return await act(lambda: actions.run_date(site, name, date), path, "run")

    return router
