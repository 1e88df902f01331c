"""No secret of the environment and no prompt is anywhere but where it must be.

One job with rows of every outcome, on a cluster whose processes have secrets in their environment.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from jobs.cluster import embedded as cluster
from schemas import keys
from tests.integration.conftest import SECRETS
from tests.support.harness import User, new_id, write_prompts
from tests.support.invariants import examine_words
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.stored import Stored

PROMPT = "medlar-canary-of-a-prompt"
OTHER = "medlar-canary-of-another-column"


@pytest.mark.timeout(400)
def test_no_secret_and_no_prompt_is_where_it_should_not_be(
    s3_user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"{PROMPT} {n}" for n in range(12)]
    prompts[3], prompts[5], prompts[8] = f"{PROMPT} FAIL", f"{PROMPT} " + "long " * 2000, f"{PROMPT} EXIT"
    params = [json.dumps({"temperature": PROMPT}) if n == 10 else None for n in range(12)]
    dataset = write_prompts(tmp_path / "secret.parquet", prompts, sampling_params=params, note=[OTHER] * 12)
    job_id = s3_user.submit(
        *(str(dataset), "--id", new_id("secret"), "--engine", "fake", "--replicas", "2", "--max-error-rate", "1"),
        *("--max-model-len", "1000", "--set", "engine.fake.fail_marker=FAIL", "--set", "engine.fake.exit_marker=EXIT"),
        *("--set", "shards.min_tokens=1", "--set", "shards.target_count=3"),
    )
    s3_user.run("wait", job_id, "--timeout", "200")
    for command in ("status", "logs", "results"):
        s3_user.run(command, job_id)
    s3_user.run("logs", job_id, "--all")
    assert any(keys.LOGS in info.key for info in s3_user.ledger(job_id).objects())
    s3_user.run("doctor", code=None)
    ledger = s3_user.ledger(job_id)
    terminal = ledger.terminal()
    assert terminal is not None
    assert terminal.state == "SUCCEEDED"
    assert terminal.manifest.num_error_rows == 4, "every kind of error has had its chance to quote"

    monkeypatch.setenv("JOBS_STATE_DIR", s3_user.env["JOBS_STATE_DIR"])
    running = cluster.current()
    assert running is not None
    token = running.token_path.read_text().strip()
    canaries = {
        **SECRETS,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "a prompt": PROMPT,
        "an input column": OTHER,
        "the token": token,
    }
    logs = running.temp_dir / "ray" / "session_latest" / "logs"
    assert any(job_id in path.read_text(errors="replace") for path in logs.glob("job-driver-*.log"))
    findings = examine_words(Stored.of(ledger), canaries, s3_user.said, logs)
    assert findings.violations == ()
    assert any(keys.RESULTS in info.key for info in ledger.objects())

    # What the dashboard tells of jobs and their environments, actors and tasks, and what Prometheus reads.
    told = [
        _get(f"{running.dashboard_url}{path}", token)
        for path in ("/api/jobs/", "/api/v0/actors?detail=1", "/api/v0/tasks?detail=1", "/api/v0/workers?detail=1")
    ]
    assert "runtime_env" in told[0]
    assert job_id in told[0]
    targets = json.loads((running.temp_dir / "ray" / "prom_metrics_service_discovery.json").read_text())
    metrics = [_get(f"http://{address}/metrics", token) for each in targets for address in each["targets"]]
    assert any(job_id in text for text in metrics)
    for name, canary in canaries.items():
        assert not [text for text in (*told, *metrics) if canary in text], name

    # Where a column is asked for, it is in the results and nowhere else.
    kept = s3_user.submit(str(dataset), "--id", new_id("kept"), "--engine", "fake", "--keep", "note")
    s3_user.run("wait", kept, "--timeout", "100", code=None)
    wrong = examine_words(Stored.of(s3_user.ledger(kept)), {"an input column": OTHER}, s3_user.said, logs).violations
    assert wrong
    assert all(f" {keys.RESULTS}" in violation for violation in wrong)


def _get(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode(errors="replace"))
