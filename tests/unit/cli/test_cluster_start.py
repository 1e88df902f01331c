"""What a command says before it starts the embedded cluster, which takes seconds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.cluster import embedded
from jobs.errors import ClusterError


def test_the_first_submit_says_that_it_starts_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def up() -> None:
        raise ClusterError("There is no room.")

    monkeypatch.setattr(embedded, "current", lambda: None)
    monkeypatch.setattr(embedded, "up", up)
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "rows.parquet")
    words = ["submit", str(tmp_path / "rows.parquet"), "--engine", "fake", "--root", str(tmp_path / "root")]
    done = CliRunner().invoke(app, words)
    assert str(done.exception) == "There is no room."
    assert done.stderr.splitlines() == [f"Checking {tmp_path}/rows.parquet …", "Starting a local Ray cluster …"]
