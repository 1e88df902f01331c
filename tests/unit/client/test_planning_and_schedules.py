"""Plans and schedules in the Python client, and what wrong arguments say."""

from __future__ import annotations

import asyncio
import json
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.cli import main
from jobs.client import BatchClient
from jobs.errors import Conflict, UsageError
from jobs.settings import Settings
from tests.unit.client.test_frames import NoCluster

SECRET = "CANARY-5b0d"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_ENGINE", "fake")
    found = BatchClient(Settings(root=str(tmp_path / "root"), engine="fake"))
    found._submitter = NoCluster()
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"prompt": "row {i}"}}\n' for i in range(20)) + '{"prompt": ""}\n')
    return path


def test_a_plan_is_that_of_the_command_line(client: BatchClient, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = client.plan(data, max_tokens=7, tokens_per_s=100.0, gpu_hour_price=2.0)
    command = ["plan", str(data), "--max-tokens", "7", "--tokens-per-s", "100", "--gpu-price", "2", "--json"]
    assert main(command) == 0
    told = json.loads(capfd.readouterr().out)
    assert (plan.rows, plan.invalid_rows, plan.input_tokens) == (21, {"EMPTY_PROMPT": 1}, told["input_tokens"])
    assert (plan.output_tokens, plan.eta_s, plan.cost) == (told["output_tokens"], told["eta_s"], told["cost"])
    framed = client.plan(pd.DataFrame({"prompt": [f"row {i}" for i in range(20)] + [""]}), max_tokens=7)
    assert (framed.rows, framed.input_tokens) == (plan.rows, plan.input_tokens)
    assert not [info.key for info in client.store.list() if not info.key.startswith("_probe")], "it starts nothing"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 9.5}, "`temperature` must be a number from 0 to 2."),
        ({"max_tokens": 0}, "`max_tokens` must be a whole number from 1 to 1,000,000."),
        (
            {"max_error_rate": 5},
            "`max_error_rate` is a share from 0 to 1; for 5 % write 0.05",
        ),
        ({"engine": "vlm"}, "`engine` must be vllm or fake; did you mean `vllm`?"),
        ({"keep": 3}, "`keep` must be a list."),
        ({"chat": SECRET * 9}, "`chat` must be true or false."),
        ({"name": {SECRET: 1}}, "`name` must be text."),
        ({"fields": {"sampling.max_token": 3}}, "Unknown field `sampling.max_token`; did you mean `max_tokens`?"),
        ({"fields": {"shards.zzz": 3}}, "Unknown field `shards.zzz`; the fields are target_count"),
        ({"nope": 3}, "There is no option 'nope'. Options are: "),
        ({"messages_column": "a", "prompt_column": "b"}, "exclude each other"),
    ],
)
def test_wrong_arguments_are_explained_in_our_words(
    client: BatchClient, data: Path, options: dict[str, Any], words: str
) -> None:
    for call in (client.submit, client.plan):
        with pytest.raises(UsageError) as caught:
            call(data, **options)
        said = "".join(traceback.format_exception(caught.value))
        assert words in str(caught.value)
        assert "pydantic" not in said
        assert "Input should" not in said
        assert SECRET * 9 not in said


def test_submitting_in_a_thread(client: BatchClient, data: Path) -> None:
    job = asyncio.run(client.submit_async(data, job_id="demo", max_tokens=3))
    assert job.ledger.spec().sampling.max_tokens == 3
    assert client.job("dem").id == "demo"


def test_schedules(client: BatchClient, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    schedules = client.schedules()
    assert schedules.list() == []
    made = schedules.create("nightly", data, cron="0 2 * * *", tz="Europe/Berlin", max_tokens=5, deadline_s=3600.0)
    assert (
        schedules.create("nightly", data, cron="0 2 * * *", tz="Europe/Berlin", max_tokens=5, deadline_s=3600.0) == made
    )
    with pytest.raises(Conflict):
        schedules.create("nightly", data, cron="0 3 * * *", max_tokens=5)
    missing = str(data.with_name("not there yet"))
    changed = schedules.create("nightly", data, cron="0 3 * * *", wait_for=missing, replace=True)
    assert (changed.cron, changed.created_at) == ("0 3 * * *", made.created_at)
    assert [each.name for each in schedules.list()] == ["nightly"]
    view = schedules.run("nightly")
    assert (view.outcome, view.run.by) == (None, "hand")
    assert (view.job, view.input_ready, view.run.spec.input.uri) == (None, False, str(data)), "it waits for its input"
    shown = schedules.show("nightly")
    assert (len(shown.runs), shown.latest) == (1, None)
    assert shown.next_at is not None
    assert schedules.run("nightly").run == view.run, "it attaches"
    assert main(["schedule", "show", "nightly", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["runs"][0]["job_id"] == view.run.job_id


def test_schedules_that_cannot_be(client: BatchClient, data: Path) -> None:
    schedules = client.schedules()
    for wrong, words in (
        ({"cron": "nope"}, "cron expression"),
        ({"cron": "0 2 * * *", "export": "missing/x.parquet"}, "missing"),
        ({"cron": "0 2 * * *", "retries": -1}, "`retries` must be a whole number from 0 to 100."),
        ({"cron": "0 2 * * *", "temperature": 9}, "`temperature` must be a number from 0 to 2."),
    ):
        with pytest.raises(UsageError, match=words):
            schedules.create("nightly", data, **wrong)  # type: ignore[arg-type]
    for call in (schedules.show, schedules.run):
        with pytest.raises(UsageError, match="no schedule 'nope'"):
            call("nope")
    assert schedules.list() == []
