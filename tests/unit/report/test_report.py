"""`jobs report`: the page's numbers against the results, its safety, and its look in a real browser."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.report.charts import nice_ticks
from jobs.report.page import _whole_options, _with_breaks
from jobs.report.past import Past
from jobs.report.rows import BINS, Tokens
from jobs.results.read import open_results
from jobs.store.local import LocalStore
from schemas.codes import State
from schemas.history import Activity
from schemas.records import Cancelled, Failed
from tests.unit.report.jobs_with_past import BEGAN_AT, HOSTILE, history, make_job_with_past
from tests.unit.results.ledgers import make_job, spec_of, succeed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The parts of a page that tests look at: tables by id, tiles by label, tags, all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tiles: dict[str, str] = {}
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._table = self._tile = ""
        self._in_value = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.attributes += given.items()
        if tag == "table":
            self._table = given.get("id", "")
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")
        elif "data-tile" in given:
            self._tile = given["data-tile"]
        self._in_value = tag == "b"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""
        self._in_value = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_value:
            self.tiles[self._tile] = data
        if self._table and self.tables[self._table] and self.tables[self._table][-1]:
            self.tables[self._table][-1][-1] += data


def page_of(ledger: Ledger, out: Path, *arguments: str) -> Page:
    assert main(["report", ledger.job_id, "--root", ledger.store.uri, str(out), *arguments]) == 0
    return Page(out.read_text())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = make_job_with_past(LocalStore(tmp_path / "root"), "reviews")
    succeed(ledger)
    return ledger


def test_its_numbers_are_those_of_the_results(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOBS_GPU_HOUR_PRICE", "2.5")
    page = page_of(ledger, tmp_path / "r.html")
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    table = open_results(ledger).to_table()
    ok = table.filter(pc.equal(table["status"], "ok"))
    assert (page.tiles["rows"], page.tiles["ok"]) == ("1,200", f"{ok.num_rows:,}")
    assert page.tiles["failed"] == f"{1200 - ok.num_rows:,}"
    assert f"{pc.sum(table['num_input_tokens']).as_py():,}" in page.text
    assert f"{pc.sum(ok['num_generated_tokens']).as_py():,}" in page.text
    reasons = Counter(ok["finish_reason"].to_pylist())
    assert {row[0]: row[1] for row in page.tables["finish-reasons"]} == {k: f"{n:,}" for k, n in reasons.items()}
    failed = table.filter(pc.not_equal(table["status"], "ok"))
    codes = Counter(failed["error_code"].to_pylist())
    errors = {row[0].strip(): row for row in page.tables["errors"][1:]}
    assert {code: int(row[1]) for code, row in errors.items()} == codes
    first = failed.filter(pc.equal(failed["error_code"], "EMPTY_PROMPT"))["row_id"].to_pylist()[:3]
    assert errors["EMPTY_PROMPT"][2].startswith(", ".join(map(str, first)))
    assert page.tiles["cost"] == f"{3560 / 3600 * 2.5:,.2f}"
    assert page.tiles["prefix cache"] == "33.3 %"
    assert page.tiles["GPU idle"] == "2.5 %"
    assert page.tiles["slowest 5 %"] == "9 s"
    assert page.tiles["predicted"] == "1 min 40 s"
    assert "took 1 min 52 s" in page.text
    fingerprint = {row[0]: row[1].strip() for row in page.tables["fingerprint"]}
    assert fingerprint["spec SHA-256"] == ledger.spec().digest()
    assert (fingerprint["engine: max_num_seqs"], fingerprint["version: vllm"]) == ("512", "0.26.0")
    assert fingerprint["dataset identity"] == "sha256:0"
    assert len(page.tables["samples"]) == 1 + 10


def test_its_head_says_what_went_wrong_in_silence(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = open_results(ledger).to_table(where="finish_reason=length").num_rows
    page = page_of(ledger, tmp_path / "r.html")
    assert page.tiles["cut at token limit"] == str(cut)
    assert "Raise it with" not in page.text
    monkeypatch.setattr("jobs.status.quality.MAX_CUT_SHARE", 0.0)
    page = page_of(ledger, tmp_path / "r.html")
    assert f"{cut} of 1,029 answers" in page.text
    assert "GATE_FAILED" in page.text
    assert "171 of 1,200 rows are errors" in page.text
    assert "<span>--max-tokens</span>" in (tmp_path / "r.html").read_text(), "a browser must not break it at its dashes"


def test_names_of_columns_are_text_and_may_break() -> None:
    assert _with_breaks("<b>_id") == "&lt;b&gt;_<wbr>id"
    assert _whole_options("<b> --max-tokens") == "&lt;b&gt; <span>--max-tokens</span>"


def test_markup_in_rows_and_reasons_is_text(ledger: Ledger, tmp_path: Path) -> None:
    page = page_of(ledger, tmp_path / "r.html")
    assert HOSTILE in page.text
    assert page.tags["script"] == page.tags["img"] == 0
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert not any(name in ("src", "href") and value != "data:," for name, value in page.attributes)


def test_private_data_stays_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    ledger = make_job(store, [range(10)])
    page = page_of(ledger, tmp_path / "r.html", "--no-samples")
    assert "answer 1" not in page.text
    assert "id-1" not in page.text
    private = Ledger(store, "private")
    secret = spec_of(input=spec_of().input.evolve(system="canary system"))
    private.create(secret, writer="test")
    assert "canary" in page_of(private, tmp_path / "p.html").text
    assert "canary" not in page_of(private, tmp_path / "p.html", "--no-samples").text


def test_every_kind_of_job_has_a_report(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    failed = make_job_with_past(store, "failed", commit=[1])
    failed.end(Failed(code="ENGINE_DIED", reason="It died of <b>this</b>."), writer="test")
    page = page_of(failed, tmp_path / "f.html")
    assert page.tiles["rows"] == "600"
    assert "It died of <b>this</b>." in page.text
    cancelled = make_job(store, [range(5)], commit=[], job_id="cancelled")
    cancelled.end(Cancelled(by="ada"), writer="test")
    page = page_of(cancelled, tmp_path / "c.html")
    assert "was cancelled by ada" in page.text
    assert page.tiles["rows"] == "0"
    assert State.INTERRUPTED in page_of(make_job_with_past(store, "part", commit=[0]), tmp_path / "i.html").text
    assert main(["report", "nobody", "--root", store.uri, str(tmp_path / "n.html")]) == 2
    assert not (tmp_path / "n.html").exists()


def test_several_drivers_are_one_past() -> None:
    first, second = history("a", BEGAN_AT, seconds=300), history("b", BEGAN_AT + 1000, seconds=300)
    past = Past([first, second])
    assert past.end_s == pytest.approx(1298)
    assert past.gpu_s == 2 * first.samples[-1].gpu_s
    line = past.rate("out", "out", lambda sample: sample.generated_tokens)
    assert len(line.pieces) == 2, "nothing is drawn where no driver was at work"
    total = sum(s.generated_tokens for s in (first.samples[-1], second.samples[-1]))
    points = [point for piece in line.pieces for point in piece]
    assert sum(rate for _, rate in points) * 600 / len(points) == pytest.approx(total, rel=0.05)
    spans = past.lanes()[1].spans
    assert [activity for _, _, activity in spans[:5]] == [
        *(Activity.WAITING, Activity.LOADING, Activity.BUSY, Activity.LOST, Activity.LOADING)
    ]
    assert all(end <= begin for (_, end, _), (begin, _, _) in pairwise(spans))
    assert [slot for _, slot, _, _ in past.losses] == [1, 1]
    assert sum(past.shares().values()) == pytest.approx(1)


def test_token_counts_quantiles_and_bins() -> None:
    tokens = Tokens()
    for chunk in ([5, 5, 7], [1000, None], [3]):
        tokens.add(pa.chunked_array([pa.array(chunk, pa.int32())]))
    assert (tokens.rows, tokens.total) == (5, 1020)
    assert (tokens.quantile(0.5), tokens.quantile(1.0)) == (5, 1000)
    bins = tokens.bins()
    assert len(bins) <= BINS
    assert sum(count for _, _, count in bins) == 5
    assert bins[0][0] <= 3
    assert bins[-1][1] >= 1000


@pytest.mark.parametrize("top", [0, 0.3, 1, 7, 99, 100, 101, 2500, 98_765, 3e9])
def test_axes_have_few_round_marks_that_hold_the_highest_value(top: float) -> None:
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top
    assert 2 <= len(ticks) <= 7


@contextmanager
def recording_proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers nothing and remembers what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_CONNECT = do_POST = do_GET  # noqa: N815 - names that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def browse(html: Path, profile: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Open a file headless; what it printed, and the hosts and URLs that it asked for."""
    return browse_url(html.as_uri(), profile, *more)


def browse_url(url: str, profile: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Open a page headless, likewise; this machine's own servers are asked directly."""
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    flags += ("--disable-component-update", "--disable-sync", "--disable-extensions", "--enable-logging=stderr")
    with recording_proxy() as (proxy, asked):
        done = subprocess.run(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", f"--proxy-server={proxy}", *more, url],
            text=True,
            capture_output=True,
            timeout=150,
            check=True,
        )
    return done, asked


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_shows_it_without_errors_and_asks_nobody(ledger: Ledger, tmp_path: Path) -> None:
    page_of(ledger, tmp_path / "r.html")
    done, asked = browse(tmp_path / "r.html", tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert not [url for url in asked if "google" not in url and "gvt1" not in url]
    dom = Page(done.stdout)
    assert dom.tags["svg"] == 7
    assert dom.tags["script"] == 0
    assert HOSTILE in dom.text
    assert len(re.findall(r'class="loss"', done.stdout)) == 1
