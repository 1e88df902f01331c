"""`jobs model fetch` copies a snapshot whole, checked, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli.model import app
from jobs.errors import InvalidModel, StoreError, UsageError
from jobs.models.fetch import fetch
from jobs.models.snapshot import SNAPSHOT, fingerprint, verify
from tests.chaos.s3_proxy import ERROR, RESET, RESET_IN_ANSWER, SLOW_DOWN, Proxy, script
from tests.support.s3 import S3Server

Place = Callable[[Path], str]


@pytest.fixture(params=["s3", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where snapshots lie: a function that puts one there and returns its address."""
    if request.param == "disk":
        return lambda model: str(shutil.copytree(model, tmp_path / "there", dirs_exist_ok=True))
    bucket: str = request.getfixturevalue("s3_bucket")
    server: S3Server = request.getfixturevalue("s3_server")

    def upload(model: Path) -> str:
        for path in model.iterdir():
            server.client().put_object(Bucket=bucket, Key=f"models/m/{path.name}", Body=path.read_bytes())
        return f"s3://{bucket}/models/m"

    return upload


@pytest.fixture
def model(random_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_dir, tmp_path / "model"))


def test_a_copy_is_the_snapshot(place: Place, model: Path, tmp_path: Path) -> None:
    source, target = place(model), tmp_path / "node/m"
    result = CliRunner().invoke(app, ["fetch", source + "/", str(target), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["fingerprint"] == fingerprint(target) == fingerprint(model)
    verify(target)
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_again_copies_nothing_and_checks_every_hash(place: Place, model: Path, tmp_path: Path) -> None:
    source, target = place(model), tmp_path / "m"
    fetch(source, target)
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    fetch(source, target)
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(InvalidModel, match=r"model\.safetensors \(another hash\)"):
        fetch(source, target)


def truncate(model: Path) -> None:
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1])


def lead_elsewhere(model: Path) -> None:
    document = json.loads((model / SNAPSHOT).read_text())
    document["files"][0]["name"] = "../escaped"
    (model / SNAPSHOT).write_text(json.dumps(document))
    (model.parent / "escaped").write_text("x")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, r"model\.safetensors differs from its hash"),
        (lambda model: (model / "tokenizer.json").unlink(), r"lacks tokenizer\.json"),
        (lambda model: (model / SNAPSHOT).unlink(), r"is no snapshot"),
        (lambda model: (model / SNAPSHOT).write_text("{"), r"snapshot\.json is damaged"),
        (lead_elsewhere, r"outside of its directory"),
    ],
    ids=["changed", "missing", "no snapshot", "damaged", "leads elsewhere"],
)
def test_a_damaged_source_leaves_nothing(
    damage: Callable[[Path], Any], said: str, place: Place, model: Path, tmp_path: Path
) -> None:
    damage(model)
    target = tmp_path / "node/m"
    with pytest.raises(InvalidModel, match=said):
        fetch(place(model), target)
    assert not target.exists()
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_a_directory_in_use_stays_as_it_is(place: Place, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes").write_text("keep")
    with pytest.raises(UsageError, match="exists and is not the snapshot"):
        fetch(place(model), target)
    assert (target / "notes").read_text() == "keep"


def test_buckets_and_stores_that_are_not_there(s3_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bucket"):
        fetch("s3://other/models/m", tmp_path / "m", allowed_buckets=["mine"])
    with pytest.raises(StoreError):
        fetch("s3://no-such-bucket-here/m", tmp_path / "m")


def test_answers_that_break_are_asked_for_again(
    s3_proxy: Proxy, s3_bucket: str, s3_server: S3Server, model: Path, tmp_path: Path
) -> None:
    for path in model.iterdir():
        s3_server.client().put_object(Bucket=s3_bucket, Key=f"m/{path.name}", Body=path.read_bytes())
    s3_proxy.faults = script(ERROR, RESET_IN_ANSWER, RESET, SLOW_DOWN, RESET_IN_ANSWER, method="GET")
    fetch(f"s3://{s3_bucket}/m", tmp_path / "m")
    verify(tmp_path / "m")
