"""Checks of dataset and model before a job is written: side by side, each once, and the dataset's word first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InvalidInput, InvalidModel
from jobs.models.prompt_encoder import PromptEncoder
from jobs.spec.build import build_spec
from jobs.spec.preflight import checked
from jobs.store import open_store
from tests.support.local_jobs import write_rows
from workers.demo.__main__ import MODEL


def test_the_tokenizer_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, load = list[str](), PromptEncoder.__init__

    def counted(encoder: Any, model_dir: str) -> None:
        read.append(model_dir)
        load(encoder, model_dir)

    monkeypatch.setattr(PromptEncoder, "__init__", counted)
    rows = write_rows(tmp_path / "rows.parquet", ["one", "two"])
    model = tmp_path / "model"  # which this process has not seen
    shutil.copytree(MODEL, model)
    spec = build_spec(str(rows), {"engine.name": "fake", "model.path": str(model)})
    first = checked(spec, open_store(str(tmp_path / "root")))
    assert first.model.fingerprint is not None
    assert read == [str(model)]


def test_what_is_wrong_with_the_dataset_is_said_before_what_is_wrong_with_the_model(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nothing like Parquet")
    (tmp_path / "model").mkdir()
    rows, store = write_rows(tmp_path / "rows.parquet", ["one"]), open_store(str(tmp_path / "root"))
    model = {"engine.name": "fake", "model.path": str(tmp_path / "model")}
    with pytest.raises(InvalidInput):
        checked(build_spec(str(tmp_path / "bad.parquet"), model), store)
    with pytest.raises(InvalidModel):
        checked(build_spec(str(rows), model), store)
