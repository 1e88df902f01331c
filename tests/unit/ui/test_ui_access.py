"""Who sees the pages, who may change something, and what other sites can do to either: nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from jobs.errors import ClusterError
from jobs.holds import Holds
from jobs.job import Job
from jobs.ledger import Ledger
from jobs.retention.deleting import to_be_freed
from jobs.store.local import LocalStore
from jobs.tombstones import find_tombstone
from jobs.ui import actions, session
from jobs.ui.app import mount_pages
from jobs.ui.session import COOKIE
from schemas import keys
from schemas.records import Cancelled
from tests.unit.ui.conftest import NOW, TOKEN
from tests.unit.ui.parsed_page import Page

ORIGIN = {"origin": "http://127.0.0.1:8341"}
Browse = Callable[..., TestClient]
ACTIONS = ("cancel", "resume", "pause", "retry", "delete")


def sign_in(browser: TestClient, token: str = TOKEN, **fields: str) -> Any:
    return browser.post("/ui/login", data={"token": token, **fields}, headers=ORIGIN)


def paths_of(app: FastAPI) -> list[str]:
    """Every path of the pages, with names of things that are there."""
    (pages,) = [route.app for route in app.routes if getattr(route, "name", "") == "ui"]
    names = {"{job_id}": "reviews-2026-11-29", "{name}": "reviews"}
    found = []
    for route in pages.routes:
        path = getattr(route, "path", "")
        for placeholder, name in names.items():
            path = path.replace(placeholder, name)
        found.append((f"/ui{path}", getattr(route, "methods", None) or {"GET"}))
    return [(path, method) for path, methods in found for method in methods]


def test_without_the_token_no_page_is_shown_and_no_form_is_taken(browse: Browse) -> None:
    browser = browse(token=TOKEN, allow_actions=True)
    paths = paths_of(browser.app)  # type: ignore[arg-type]
    assert len(paths) > 15
    for path, method in paths:
        if path.startswith(("/ui/login", "/ui/static")):
            continue
        answer = browser.request(method, path, headers=ORIGIN)
        if method == "GET":
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/ui/login?next="), path
        else:
            assert answer.status_code == 401, path
        assert "reviews-2026-11" not in answer.text
    assert browser.get("/ui/static/page.css").status_code == 200


def test_a_sign_in_leads_to_the_page_that_was_asked_for_and_its_cookie_holds_no_token(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    asked = browser.get("/ui/jobs?q=claims&state=FAILED").headers["location"]
    form = Page(browser.get(asked).text)
    (target,) = [e.attributes["value"] for e in form.all("input") if e.attributes.get("name") == "next"]
    assert target == "/jobs?q=claims&state=FAILED"
    answer = sign_in(browser, next=target)
    assert answer.headers["location"] == "/ui/jobs?q=claims&state=FAILED"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/ui" in cookie
    assert TOKEN.lower() not in cookie
    assert "claims-2026-11-27" in browser.get(answer.headers["location"]).text
    browser.post("/ui/logout", headers=ORIGIN)
    assert browser.get("/ui/").status_code == 303


def test_behind_https_the_cookie_is_never_sent_in_the_clear(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    browser.base_url = "https://127.0.0.1:8341"
    answer = browser.post("/ui/login", data={"token": TOKEN}, headers={"origin": "https://127.0.0.1:8341"})
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "ä", "?" * 900])
def test_a_wrong_token_is_refused(browse: Browse, token: str) -> None:
    browser = browse(token=TOKEN)
    answer = sign_in(browser, token)
    assert answer.status_code == 401
    assert "That is not the token." in answer.text
    assert browser.get("/ui/").status_code == 303


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_a_sign_in_leads_to_no_other_site(browse: Browse, target: str) -> None:
    assert sign_in(browse(token=TOKEN), next=target).headers["location"] == "/ui/"


def test_a_program_may_send_the_token_itself(browse: Browse) -> None:
    browser = browse(token=TOKEN)
    assert browser.get("/ui/jobs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert browser.get("/ui/jobs", headers={"authorization": "Bearer wrong"}).status_code == 303


def test_a_session_ends_after_twelve_hours_and_cannot_be_forged() -> None:
    secret = b"s" * 32
    value = session.new_session(secret, NOW)
    assert session.is_session(value, secret, NOW + timedelta(hours=11, minutes=59))
    assert not session.is_session(value, secret, NOW + timedelta(hours=12, seconds=1))
    assert not session.is_session(value, b"t" * 32, NOW)
    expires, nonce, signature = value.split(".")
    forged = [
        f"{int(expires) + 9}.{nonce}.{signature}",
        f"{expires}.{nonce}.",
        "",
        ".",
        "a.b",
        f".{signature}",
        "9" * 5000,
    ]
    assert not [each for each in forged if session.is_session(each, secret, NOW)]
    assert session.form_mark(secret, value) != session.form_mark(secret, value + "x")
    assert not session.is_session(session.form_mark(secret, ""), secret, NOW)


def test_headers_allow_own_style_and_script_only(browse: Browse) -> None:
    browser = browse()
    for path in ("/ui/", "/ui/nowhere", "/ui/static/page.css", "/ui/jobs/nope"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    report = browser.get("/ui/jobs/reviews-2026-11-29/report").headers["content-security-policy"]
    assert report.startswith("sandbox; default-src 'none'")
    assert "script" not in report


def test_pages_have_no_style_or_script_that_the_policy_would_stop(browse: Browse) -> None:
    browser = browse()
    for path in ("/ui/", "/ui/jobs/reviews-2026-11-29", "/ui/schedules/reviews", "/ui/pools"):
        for element in Page(browser.get(path).text).elements:
            assert "style" not in element.attributes, element
            assert not [name for name in element.attributes if name.startswith("on")], element
            source = element.attributes.get("src") or (
                element.attributes.get("href", "") if element.tag == "link" else ""
            )
            assert source.startswith("/ui/static/") or not source


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8341", "127.0.0.1.evil.example", "", "[::1"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(browse: Browse, host: str) -> None:
    browser = browse(token=TOKEN)
    answer = browser.get("/ui/login", headers={"host": host})
    assert answer.status_code == 403
    assert "localhost only" in answer.text
    assert browse(local=False, token=TOKEN).get("/ui/login", headers={"host": "jobs.example"}).status_code == 200
    for own in ("localhost:1", "127.0.0.1", "[::1]:8341"):
        assert browser.get("/ui/login", headers={"host": own}).status_code == 200


def test_actions_are_not_there_unless_they_were_allowed(browse: Browse, nights_root: Path) -> None:
    browser = browse()
    assert browser.get("/ui/jobs/backfill-2025/cancel").status_code == 404
    assert browser.post("/ui/jobs/backfill-2025/cancel", headers=ORIGIN).status_code in (404, 405)
    for job_id in ("backfill-2025", "claims-2026-11-28"):
        page = Page(browser.get(f"/ui/jobs/{job_id}").text)
        assert not [link for link in page.links if link.rsplit("/", 1)[-1] in ACTIONS]
        for action in ACTIONS:
            assert browser.get(f"/ui/jobs/{job_id}/{action}").status_code == 404
            assert browser.post(f"/ui/jobs/{job_id}/{action}", headers=ORIGIN).status_code in (404, 405)
    assert Ledger(LocalStore(nights_root), "claims-2026-11-28").terminal() is not None
    assert "read only" in browser.get("/ui/").text


@pytest.fixture
def root(nights_root: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(nights_root, copy)
    return copy


def test_a_job_is_cancelled_by_the_form_alone_after_the_page_has_asked(browse: Browse, root: Path) -> None:
    browser, ledger = browse(root=root, token=TOKEN, allow_actions=True), Ledger(LocalStore(root), "backfill-2025")
    sign_in(browser)
    path = "/ui/jobs/backfill-2025/cancel"
    assert path in Page(browser.get("/ui/jobs/backfill-2025").text).links
    page = Page(browser.get(path).text)
    assert "The job ends now, for good" in page.text
    assert ledger.terminal() is None, "a link changes nothing"
    answer = browser.post(path, data={"mark": page.mark}, headers=ORIGIN)
    assert answer.status_code == 303
    assert ledger.terminal() == Cancelled(by=actions.BY)
    done = Page(browser.get(answer.headers["location"]).text)
    assert "The job is cancelled." in done.text
    assert "Cancelled" in done.text
    assert "/ui/jobs/backfill-2025/cancel" not in done.links


def links_of(browser: TestClient, job_id: str) -> set[str]:
    """The actions that the page of a job offers."""
    return {link.rsplit("/", 1)[-1] for link in Page(browser.get(f"/ui/jobs/{job_id}").text).links} & {*ACTIONS}


def test_each_job_has_the_buttons_of_its_state(browse: Browse, root: Path) -> None:
    browser = browse(root=root, allow_actions=True)
    assert links_of(browser, "claims-2026-11-29") == {"pause", "cancel"}
    assert links_of(browser, "backfill-2025") == {"resume", "pause", "cancel"}
    assert links_of(browser, "claims-2026-11-28") == {"retry", "delete"}
    assert links_of(browser, "claims-2026-11-27") == {"delete"}, "it failed without a row"


def test_a_job_is_paused_and_offers_to_be_resumed(browse: Browse, root: Path) -> None:
    browser, ledger = browse(root=root, allow_actions=True), Ledger(LocalStore(root), "backfill-2025")
    path = "/ui/jobs/backfill-2025/pause"
    page = Page(browser.get(path).text)
    assert "nobody but a person resumes it" in page.text
    assert Holds(ledger).paused() is None
    answer = browser.post(path, data={"mark": page.mark}, headers=ORIGIN)
    paused = Holds(ledger).paused()
    assert (answer.headers["location"], paused and paused.by) == ("/ui/jobs/backfill-2025?did=pause", actions.BY)
    assert links_of(browser, "backfill-2025") == {"resume", "cancel"}
    ended = browser.post("/ui/jobs/claims-2026-11-28/pause", data={"mark": page.mark}, headers=ORIGIN)
    assert (ended.status_code, "There is nothing to pause." in ended.text) == (409, True)


def test_a_job_is_deleted_after_the_page_has_said_what_goes(browse: Browse, root: Path) -> None:
    browser, ledger = browse(root=root, allow_actions=True), Ledger(LocalStore(root), "claims-2026-11-28")
    path, freed = "/ui/jobs/claims-2026-11-28/delete", to_be_freed(ledger, keep_results=False)
    page = Page(browser.get(path).text)
    assert f"What goes: {freed.num_objects} objects, {freed.num_bytes / 2**20:.1f} MiB" in page.text
    assert find_tombstone(ledger.store, ledger.job_id) is None, "a link changes nothing"
    answer = browser.post(path, data={"mark": page.mark}, headers=ORIGIN)
    assert answer.headers["location"] == "/ui/jobs?did=delete"
    tombstone = find_tombstone(ledger.store, ledger.job_id)
    assert tombstone is not None
    assert (tombstone.by, [info.key for info in ledger.objects()]) == (actions.BY, [ledger.key(keys.TOMBSTONE)])
    after = Page(browser.get(answer.headers["location"]).text)
    assert "The job is deleted." in after.text
    assert "claims-2026-11-28" not in after.text
    gone = browser.get("/ui/jobs/claims-2026-11-28")
    assert (gone.status_code, "was deleted by a person on the web page" in gone.text) == (404, True)


@pytest.mark.parametrize(
    ("job_id", "why"),
    [("reviews-2026-11-29", "It is the latest good run of schedule reviews."), ("backfill-2025", "It has not ended")],
)
def test_a_job_that_something_leads_to_has_no_button_and_stays(
    browse: Browse, root: Path, job_id: str, why: str
) -> None:
    browser, ledger = browse(root=root, allow_actions=True), Ledger(LocalStore(root), job_id)
    page = Page(browser.get(f"/ui/jobs/{job_id}/delete").text)
    assert why in page.text
    assert not [button for button in page.all("button") if "Delete" in button.text]
    answer = browser.post(f"/ui/jobs/{job_id}/delete", data={"mark": page.mark}, headers=ORIGIN)
    assert (answer.status_code, why in Page(answer.text).text) == (409, True)
    assert ledger.spec()


def test_a_repair_is_asked_for_by_its_form(browse: Browse, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, asked = browse(root=root, allow_actions=True), list[Any]()

    def retry(job: Any, **wanted: Any) -> Any:
        asked.append((job.id, wanted))
        return Job(job.client, Ledger(job.client.store, "trial-20b-bf16"))

    monkeypatch.setattr("jobs.job.Job.retry", retry)
    path = "/ui/jobs/claims-2026-11-28/retry"
    page = Page(browser.get(path).text)
    assert "answers cut at their token limit" in page.text
    assert "next round of 2026-11-28 of schedule claims" in page.text
    form = {"mark": page.mark, "rows": "cut", "max_tokens": "4096", "new_id": ""}
    answer = browser.post(path, data=form, headers=ORIGIN)
    assert answer.headers["location"] == "/ui/jobs/trial-20b-bf16?did=retry"
    wanted = {"where": "finish_reason=length", "job_id": None, "max_tokens": 4096}
    assert asked == [("claims-2026-11-28", wanted)]
    trial = Page(browser.get("/ui/jobs/trial-20b-fp8/retry").text)
    (new_id,) = [e.attributes["value"] for e in trial.all("input") if e.attributes.get("name") == "new_id"]
    assert new_id.startswith("trial-of-20b-")
    for wrong in (
        {"rows": "status=ok"},
        {"rows": ""},
        {"max_tokens": "-1"},
        {"max_tokens": "9" * 5000},
        {"max_tokens": "\u0663"},
    ):
        refused = browser.post(path, data={**form, **wrong}, headers=ORIGIN)
        assert refused.status_code == 409, wrong
    assert browser.post(path, data={**form, "mark": "x"}, headers=ORIGIN).status_code == 403
    assert len(asked) == 1
    assert browser.get("/ui/jobs/claims-2026-11-27/retry").status_code == 409, "it has no rows"


def test_a_repair_that_is_refused_says_why(browse: Browse, root: Path) -> None:
    browser = browse(root=root, allow_actions=True)
    mark = Page(browser.get("/ui/jobs/trial-20b-fp8/retry").text).mark
    form = {"mark": mark, "rows": "loops", "new_id": "again"}
    answer = browser.post("/ui/jobs/trial-20b-fp8/retry", data=form, headers=ORIGIN)
    assert answer.status_code == 409
    assert "No row of job trial-20b-fp8 meets finish_reason=repetition." in Page(answer.text).text
    assert Ledger(LocalStore(root), "again").created_at() is None


@pytest.mark.parametrize("action", ACTIONS)
def test_forms_of_others_change_nothing(browse: Browse, root: Path, action: str) -> None:
    job_id = "trial-20b-fp8" if action in ("retry", "delete") else "backfill-2025"
    browser, store = browse(root=root, token=TOKEN, allow_actions=True), LocalStore(root)
    before = {info.key for info in store.list(f"{job_id}/")}
    sign_in(browser)
    path = f"/ui/jobs/{job_id}/{action}"
    mark = Page(browser.get(path).text).mark
    other = browse(root=root, token=TOKEN, allow_actions=True)
    sign_in(other)
    anothers = Page(other.get(path).text).mark
    attempts: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, ORIGIN),
        ({"mark": ""}, ORIGIN),
        ({"mark": anothers}, ORIGIN),
        ({"mark": mark}, {"origin": "http://evil.example"}),
        ({"mark": mark}, {"origin": "null"}),
        ({"mark": mark}, {**ORIGIN, "sec-fetch-site": "cross-site"}),
        ({"mark": mark}, {**ORIGIN, "sec-fetch-site": "same-site"}),
        ({"mark": mark}, {}),
        ({"mark": mark}, {**ORIGIN, "host": "evil.example"}),
    ]
    for form, headers in attempts:
        assert browser.post(path, data=form, headers=headers).status_code == 403, headers
    assert browser.get(f"{path}?mark={mark}").status_code == 200
    assert browser.request("PUT", path, headers=ORIGIN).status_code == 405
    browser.cookies.delete(COOKIE)
    assert browser.post(path, data={"mark": mark}, headers=ORIGIN).status_code == 401
    assert {info.key for info in store.list(f"{job_id}/")} == before


def test_a_form_that_is_too_long_or_none_is_refused(browse: Browse, root: Path) -> None:
    browser = browse(root=root, allow_actions=True)
    path = "/ui/jobs/backfill-2025/cancel"
    assert browser.post(path, content=b"mark=" + b"x" * 20_000, headers=ORIGIN).status_code == 413
    assert browser.post(path, content=b"\xff\xfe", headers=ORIGIN).status_code == 400
    assert (
        browser.post(
            "/ui/jobs/nope/cancel", data={"mark": Page(browser.get(path).text).mark}, headers=ORIGIN
        ).status_code
        == 404
    )


def test_resume_and_run_call_what_the_commands_call_and_say_what_went_wrong(
    browse: Browse, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, called = browse(root=root, allow_actions=True), list[Any]()
    mark = Page(browser.get("/ui/jobs/backfill-2025/resume").text).mark
    monkeypatch.setattr("jobs.job.Job.resume", lambda job: called.append(job.id) or True)
    answer = browser.post("/ui/jobs/backfill-2025/resume", data={"mark": mark}, headers=ORIGIN)
    assert (answer.status_code, called) == (303, ["backfill-2025"])
    page = Page(browser.get("/ui/schedules/reviews").text)
    path = next(link for link in page.links if "/run?date=2026-11-13" in link)
    assert "reviews, 2026-11-13" in browser.get(path).text

    def refuse(self: object, name: str, date: str) -> None:
        called.append((name, date))
        raise ClusterError("No cluster can be reached.", "Start one: jobs cluster up")

    monkeypatch.setattr("jobs.schedules.client.Schedules.run", refuse)
    answer = browser.post(path, data={"mark": mark, "date": "2026-11-13"}, headers=ORIGIN)
    assert (answer.status_code, called[-1]) == (503, ("reviews", "2026-11-13"))
    assert "No cluster can be reached." in answer.text
    assert "cluster up" in answer.text


def test_a_link_cannot_put_words_on_a_page(browse: Browse) -> None:
    browser = browse()
    assert "pay me" not in browser.get("/ui/jobs/backfill-2025?did=pay+me").text
    assert "The job is cancelled." in browser.get("/ui/jobs/backfill-2025?did=cancel").text


def test_the_pages_are_part_of_another_server_too(site_of: Callable[..., Any]) -> None:
    app = FastAPI()
    mount_pages(app, site_of(token=TOKEN), local=True)
    browser = TestClient(app, base_url="http://127.0.0.1:8341", follow_redirects=False)
    assert browser.get("/ui/").headers["location"] == "/ui/login?next=%2F"
    sign_in(browser)
    assert "Needs attention" in browser.get("/ui/").text
