"""What the pages say after a month of nights: somebody on call, at seven in the morning, with two clicks."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.ui.pages import FOLDER
from tests.support.nights import SECRET, touch_pool
from tests.unit.ui.parsed_page import Page

EVERY_PAGE = (
    "/ui/",
    "/ui/jobs",
    "/ui/jobs?q=claims&state=FAILED",
    "/ui/jobs/reviews-2026-11-29",
    "/ui/jobs/reviews-2026-11-20?samples=true",
    "/ui/jobs/claims-2026-11-29",
    "/ui/jobs/backfill-2025",
    "/ui/jobs/odd-name",
    "/ui/schedules",
    "/ui/schedules/reviews",
    "/ui/schedules/reviews?month=2026-10",
    "/ui/schedules/reviews?all=true",
    "/ui/schedules/tickets?day=2026-11-27",
    "/ui/pools",
    "/ui/compare",
    "/ui/compare?a=trial-20b-bf16&b=trial-20b-fp8&rows=true",
)


@pytest.fixture
def browser(browse: Callable[..., TestClient]) -> TestClient:
    return browse()


def open_page(browser: TestClient, path: str) -> Page:
    answer = browser.get(path)
    assert answer.status_code == 200, (path, answer.text[:500])
    return Page(answer.text)


def within(browser: TestClient, clicks: int, start: str = "/ui/") -> Iterator[tuple[str, Page]]:
    """All pages that so many clicks lead to, with the way there."""
    seen, level = {start}, [start]
    for click in range(clicks + 1):
        following: list[str] = []
        for path in level:
            answer = browser.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            page = Page(answer.text)
            yield path, page
            following += [link for link in page.links if click < clicks and link.startswith("/ui/")]
        level = [link for link in dict.fromkeys(following) if link not in seen and not link.endswith("/report")]
        seen |= set(level)


def test_every_question_is_answered_within_two_clicks(browser: TestClient) -> None:
    pages = {path: page.text for path, page in within(browser, 1)}
    first = pages["/ui/"]
    # What is late, what is missing from `latest`, what went wrong last night: on the first page.
    assert re.search(r"claims, night of 2026-11-29 late .*deadline has passed", first)
    assert re.search(r"claims, night of 2026-11-28 gate failed .*216 of 1,195 answers were cut", first)
    assert "claims: latest is 2 nights behind Readers get 2026-11-26" in first
    assert "latest is good" in first
    assert "backfill-2025 interrupted" in first
    # What it cost.
    assert re.search(r"last 24 hours 3\d\.\d\d", first)
    # What failed and why, what it cost, what to do: one click.
    job = pages["/ui/jobs/claims-2026-11-28"]
    assert "did not pass its gate" in job
    assert re.search(r"cost 18\.00", job)
    failed = pages["/ui/jobs/claims-2026-11-27"]
    assert "INVALID_INPUT: s3://in/claims/part-3.parquet has no column 'prompt'." in failed
    assert "logs claims-2026-11-27" in failed
    # The calendar of a month ago: one click; each of its nights: two.
    calendar = pages["/ui/schedules/reviews"]
    for word in ("1 failed", "1 missing", "1 gate failed", "1 late", "1 cancelled", "1 skipped", "23 good"):
        assert word in calendar
    assert "There was nothing at s3://in/reviews/date=2026-11-23/_SUCCESS after 3 h." in calendar
    assert "It was due, and no run was begun." in calendar
    assert "Readers get 2026-11-29, the newest night. 4 of 1,200 rows are errors." in calendar


def test_each_night_of_the_calendar_leads_to_its_job_or_says_why_there_is_none(browser: TestClient) -> None:
    page = open_page(browser, "/ui/schedules/reviews")
    cells = [e for e in page.all("a") if e.attributes.get("class", "").startswith("night ")]
    assert len(cells) == 29
    for cell in cells:
        path, _, fragment = cell.attributes["href"].partition("#")
        found = open_page(browser, path)
        if fragment:
            (row,) = [e for e in found.all("tr") if e.attributes.get("id") == fragment]
            assert re.search(r"Late|Missing|Skipped", row.text)
    words = " ".join(" ".join(cell.text.split()) for cell in cells)
    assert "17 ✓ Good , late" in words
    assert "25 ✕ Failed" in words
    assert "13 ? Missing" in words


def test_a_good_second_round_makes_the_night_good(browser: TestClient) -> None:
    page = open_page(browser, "/ui/schedules/reviews?all=true")
    (row,) = [e.text for e in page.all("tr") if "2026-11-11" in e.text]
    assert "round 2" in row
    assert "Good" in row
    assert "/ui/jobs/reviews-2026-11-11-r2" in page.links


def test_a_running_job_that_is_late_says_so_and_how_long_it_has_left(browser: TestClient) -> None:
    text = open_page(browser, "/ui/jobs/claims-2026-11-29").text
    assert "Running" in text
    assert "Late: the deadline of this night has passed, and the job is not done." in text
    assert "640 of 1,200 rows are done. About 22 min left, 19 min to 27 min." in text
    assert "cost 32.00 12 h 48 min of GPU time" in text


def test_an_interrupted_job_says_why_and_what_to_do(browser: TestClient) -> None:
    text = open_page(browser, "/ui/jobs/backfill-2025").text
    assert "No node has had a free GPU for 30 minutes." in text
    assert re.search(r"Next \S*jobs resume backfill-2025", text)


def test_filters_and_search_show_what_they_say(browser: TestClient) -> None:
    found = open_page(browser, "/ui/jobs?state=FAILED&state=GATE_FAILED")
    rows = [e.text.split()[0] for e in found.all("tr")[1:]]
    assert set(rows) == {
        "claims-2026-11-28",
        "claims-2026-11-27",
        "tickets-2026-11-27t1115z",
        "reviews-2026-11-25",
        "reviews-2026-11-20",
        "reviews-2026-11-11",
    }
    assert len(open_page(browser, "/ui/jobs?q=trial+20B").all("tr")) == 3
    assert "No job is like that." in open_page(browser, "/ui/jobs?q=nothing-is-called-so").text
    assert "There are no jobs" not in open_page(browser, "/ui/jobs?q=nothing").text
    assert len(open_page(browser, "/ui/jobs?show=20").all("tr")) == 21


def test_pools_show_who_is_up_and_who_is_gone(browser: TestClient, nights_root: Path) -> None:
    touch_pool(nights_root)
    text = open_page(browser, "/ui/pools").text
    assert "chat ✓ Up" in text
    assert "trial-20b-fp8 bulk, weight 2 91,000 rows left 38 % of the tokens" in text
    assert "Taken down by ben." in text
    assert "lost ? Lost" in text
    assert "pool up lost --model /models/internlm2_5-20b-chat" in text


def test_two_nights_are_compared_by_numbers_and_the_same_rows_by_answers(browser: TestClient) -> None:
    nights = open_page(browser, "/ui/compare?a=reviews-2026-11-28&b=reviews-2026-11-20").text
    assert re.search(r"error rows 0\s%? .*11\.6 % \+11\.6 points", nights)
    assert "dataset s3://in/reviews/date=2026-11-28/ s3://in/reviews/date=2026-11-20/ differs" in nights
    trials = open_page(browser, "/ui/compare?a=trial-20b-bf16&b=trial-20b-fp8&rows=true").text
    assert re.search(r"changed rows \d+ of 1,200", trials)
    assert "ok → error" in trials


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_no_page_shows_the_text_of_a_row_or_takes_text_for_markup(browser: TestClient, path: str) -> None:
    html = browser.get(path).text
    assert SECRET not in html
    assert "<script>alert" not in html
    page = Page(html)
    assert not page.broken
    assert [e.attributes.get("src") for e in page.all("script")] == ["/ui/static/live.js"]


def test_text_of_rows_is_shown_only_when_it_is_asked_for(browser: TestClient) -> None:
    page = open_page(browser, "/ui/jobs/reviews-2026-11-20?samples=true&code=EMPTY_PROMPT")
    assert "The prompt is empty." in page.text
    assert "CONTEXT_LENGTH_EXCEEDED The prompt" not in page.text
    shown = next(link for link in page.links if "text=true" in link)
    assert SECRET in browser.get(shown).text
    assert SECRET not in browser.get("/ui/jobs/reviews-2026-11-20/report").text
    assert SECRET in browser.get("/ui/jobs/reviews-2026-11-20/report?rows=true").text


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_landmarks_labels_and_one_heading(browser: TestClient, path: str) -> None:
    page = open_page(browser, path)
    tags = [e.tag for e in page.elements]
    assert (tags.count("h1"), tags.count("main"), tags.count("header"), tags.count("footer")) == (1, 1, 1, 1)
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("a")[0].attributes["href"] == "#main", "a keyboard skips the navigation"
    labelled = {e.attributes.get("for") for e in page.all("label")}
    for field in page.all("input"):
        named = field.attributes.get("type") in ("hidden", "checkbox") or field.attributes.get("id") in labelled
        assert named or "aria-label" in field.attributes, field
    for each in page.all("progress"):
        assert each.attributes["aria-label"]
    for nav in page.all("nav"):
        assert nav.attributes["aria-label"]
    for link in (*page.all("a"), *page.all("button")):
        assert link.text.strip(), link
    # Signs are for eyes only; beside each stands its word.
    for cell in (e for e in page.all("a") if "cell" in e.attributes.get("class", "").split()):
        assert re.search(r"\d{4}-\d\d-\d\dS*", cell.text), cell
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def test_what_is_not_there_says_so(browser: TestClient) -> None:
    for path in ("/ui/jobs/nope", "/ui/jobs/UPPER", "/ui/schedules/nope", "/ui/compare?a=nope&b=nope", "/ui/nowhere"):
        answer = browser.get(path)
        assert answer.status_code == 404, path
        assert "Not found" in answer.text
    invalid = browser.get("/ui/jobs?show=0")
    assert invalid.status_code == 422
    assert "The value of &#39;show&#39; in the address is not valid." in invalid.text
    assert browser.get("/").headers["location"] == "/ui/"


def test_an_empty_root_says_how_to_begin(browse: Callable[..., TestClient], tmp_path: Path) -> None:
    browser = browse(root=tmp_path / "empty")
    assert "Nothing needs attention" in open_page(browser, "/ui/").text
    assert "There are no schedules." in open_page(browser, "/ui/schedules").text
    assert "Submit one:" in open_page(browser, "/ui/jobs").text
    assert "There are no pools." in open_page(browser, "/ui/pools").text


def test_damaged_documents_are_named_and_hide_nothing_else(
    browse: Callable[..., TestClient], nights_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(nights_root, root)
    (root / "trial-20b-fp8" / "_job" / "terminal.json").write_bytes(b"{")
    (root / "_schedules" / "tickets" / "schedule.json").write_bytes(b"{")
    shutil.rmtree(root / "_index", ignore_errors=True)
    browser = browse(root=root)
    assert "schedules that cannot be read: tickets" in open_page(browser, "/ui/").text
    assert "Left out: trial-20b-fp8" in open_page(browser, "/ui/jobs").text
    answer = browser.get("/ui/jobs/trial-20b-fp8")
    assert answer.status_code == 500
    assert "is damaged" in answer.text


def test_colours_have_enough_contrast_in_light_and_dark() -> None:
    css = (FOLDER / "static" / "page.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    for sheet in (light, dark.split("\n}\n")[0]):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", sheet))
        pairs = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "card")]
        pairs += [("accent", "paper"), ("accent-ink", "accent"), ("top-ink", "top"), ("top-soft", "top")]
        tones = ("good", "bad", "warn", "busy", "calm")
        pairs += [(tone, ground) for tone in tones for ground in (f"{tone}-bg", "card", "paper")]
        pairs += [("soft", f"{tone}-bg") for tone in ("good", "bad", "warn", "busy", "calm")]
        low = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
        assert not {pair: round(value, 2) for pair, value in low.items() if value < 4.5}


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, as WCAG defines it."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("month", ["0001-01", "9999-12", "1000-06", "2026-13", "-1", "x"])
def test_a_month_that_no_calendar_has_is_this_month(browse: Callable[..., TestClient], month: str) -> None:
    answer = browse().get(f"/ui/schedules/reviews?month={month}")
    assert (answer.status_code, "November 2026" in answer.text) == (200, True)


def test_many_reports_at_once_leave_the_other_pages_quick(
    browse: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, let_go = browse(), Event()
    monkeypatch.setattr("jobs.ui.routes_pages._WAIT_S", 0.2)
    monkeypatch.setattr("jobs.ui.routes_pages.report", lambda *_, **__: let_go.wait(60) and "<p>done</p>")
    path = "/ui/jobs/reviews-2026-11-29/report"
    with ThreadPoolExecutor(60) as threads:
        answers = [threads.submit(browser.get, path) for _ in range(60)]
        busy = [answer.result() for answer in as_completed(answers) if not let_go.is_set() and _enough(answers, let_go)]
        assert busy
    statuses = Counter(answer.result().status_code for answer in answers)
    assert statuses == {200: 2, 503: 58}
    assert browser.get(path).status_code == 200, "a turn is given back"


def _enough(answers: list[Future[Any]], let_go: Event) -> bool:
    """Once all but those at work have an answer, let these go."""
    if sum(answer.done() for answer in answers) >= len(answers) - 2:
        let_go.set()
    return True
