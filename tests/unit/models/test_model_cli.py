"""`jobs model prepare` and `verify` as a person sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.model import app
from jobs.errors import InvalidModel


def test_verify_shows_what_would_run(random_dir: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(random_dir), "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["architecture"] == "InternLM2ForCausalLM"
    assert shown["max_model_len"] == 4096
    assert shown["fingerprint"].startswith("sha256:")


def test_verify_of_a_changed_snapshot(random_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(random_dir, tmp_path / "m")
    (model / "config.json").unlink()
    result = CliRunner().invoke(app, ["verify", str(model)])
    assert isinstance(result.exception, InvalidModel)
    assert "config.json" in str(result.exception)


def test_prepare_then_verify(random_dir: Path, tmp_path: Path, sentencepiece_model: bytes) -> None:
    source = tmp_path / "download"
    source.mkdir()
    config = json.loads((random_dir / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"vocab_size": 92544}))
    shutil.copy(random_dir / "model.safetensors", source)
    (source / "tokenizer.model").write_bytes(sentencepiece_model)
    target = tmp_path / "snapshot"
    result = CliRunner().invoke(app, ["prepare", str(source), str(target), "--chat", "-q"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(target)
    assert CliRunner().invoke(app, ["verify", str(target)]).exit_code == 0


@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_help_says_what_it_does(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "snapshot" in result.output
