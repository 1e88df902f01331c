"""The pages that change something: each asks first on a page of its own, and acts on a signed form alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from jobs.ui import actions, deleting, repairing
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

    def ask_of_job(request: Request, action: Action, job_id: str, template: str = "confirm", **values: Any) -> Response:
        site.job(job_id).ledger.spec()
        values = {"action": action, "about": job_id, "back": f"jobs/{job_id}", "fields": {}, **values}
        return page(site, request, template, "jobs", **values)

    async def act(step: Callable[[], object], path: str, did: str) -> Response:
        await run_in_threadpool(step)
        return RedirectResponse(f"{PREFIX}/{path}?did={did}", 303)

    @router.get("/jobs/{job_id}/cancel")
    def ask_cancel(request: Request, job_id: str) -> Response:
        return ask_of_job(request, actions.CANCEL, job_id)

    @router.post("/jobs/{job_id}/cancel", dependencies=[Signed])
    async def cancel(job_id: str) -> Response:
        return await act(lambda: actions.cancel(site, job_id), f"jobs/{job_id}", "cancel")

    @router.get("/jobs/{job_id}/resume")
    def ask_resume(request: Request, job_id: str) -> Response:
        return ask_of_job(request, actions.RESUME, job_id)

    @router.post("/jobs/{job_id}/resume", dependencies=[Signed])
    async def resume(job_id: str) -> Response:
        return await act(lambda: actions.resume(site, job_id), f"jobs/{job_id}", "resume")

    @router.get("/jobs/{job_id}/pause")
    def ask_pause(request: Request, job_id: str) -> Response:
        return ask_of_job(request, actions.PAUSE, job_id)

    @router.post("/jobs/{job_id}/pause", dependencies=[Signed])
    async def pause(job_id: str) -> Response:
        return await act(lambda: actions.pause(site, job_id), f"jobs/{job_id}", "pause")

    @router.get("/jobs/{job_id}/retry")
    def ask_retry(request: Request, job_id: str) -> Response:
        return ask_of_job(request, actions.RETRY, job_id, "retry", offer=repairing.offer_of(site, job_id))

    @router.post("/jobs/{job_id}/retry")
    async def retry(job_id: str, form: dict[str, str] = Signed) -> Response:
        new_id = await run_in_threadpool(repairing.repair, site, job_id, form)
        return RedirectResponse(f"{PREFIX}/jobs/{new_id}?did=retry", 303)

    @router.get("/jobs/{job_id}/delete")
    def ask_delete(request: Request, job_id: str) -> Response:
        refused, freed = deleting.protected(site, job_id), deleting.would_free(site, job_id)
        return ask_of_job(request, actions.DELETE, job_id, "delete", refused=refused, freed=freed)

    @router.post("/jobs/{job_id}/delete", dependencies=[Signed])
    async def delete(job_id: str) -> Response:
        return await act(lambda: deleting.delete(site, job_id), "jobs", "delete")

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
