"""The Python client from a data frame to its answers, on S3 and a real cluster."""

from __future__ import annotations

import pandas as pd
import pytest

from jobs import BatchClient, GateFailed, JobFailed
from tests.support.harness import User

FRAME = pd.DataFrame({"text": [f"row {i}" for i in range(200)], "number": range(200)})


@pytest.fixture
def client(s3_user: User, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    for name, value in s3_user.environment().items():
        monkeypatch.setenv(name, value)
    return BatchClient(root=s3_user.root)


def test_a_data_frame_is_planned_submitted_followed_and_read(client: BatchClient, s3_user: User) -> None:
    plan = client.plan(FRAME, engine="fake", template="Say: {{ text }}", max_tokens=8)
    job = client.submit(
        FRAME, engine="fake", template="Say: {{ text }}", max_tokens=8, keep=["number"], job_id="framed"
    )
    assert job.wait(timeout_s=120).terminal_manifest is not None
    results = job.results()
    assert len(results) == plan.rows == 200
    assert results.to_pandas(columns=["number"])["number"].to_list() == list(range(200))
    again = client.submit(
        FRAME, engine="fake", template="Say: {{ text }}", max_tokens=8, keep=["number"], job_id="framed"
    )
    assert again.wait(timeout_s=120).terminal == job.status().terminal

    bad = client.submit(pd.DataFrame({"prompt": ["fine", "", None]}), engine="fake", name="Bad rows")
    with pytest.raises(GateFailed, match="2 of 3 rows are errors"):
        bad.wait(timeout_s=120)
    assert s3_user.json("status", "latest")["job_id"] == client.job("Bad rows").id == bad.id
    assert s3_user.json("status", "fram")["rows_done"] == 200

    slow = client.submit(
        FRAME, engine="fake", prompt_column="text", max_num_seqs=1, fields={"engine.fake.token_s": 0.5}
    )
    slow.cancel(by="ada")
    with pytest.raises(JobFailed, match="was cancelled by ada"):
        slow.wait(timeout_s=60)
