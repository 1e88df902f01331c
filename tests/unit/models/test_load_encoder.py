"""A model's encoder is loaded once for a directory that stays as it is, and again for one that has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.errors import InvalidModel
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.models.prompt_encoder import PromptEncoder
from schemas.spec import InputSpec, JobSpec, ModelSpec


@pytest.fixture
def model(tmp_path: Path, random_dir: Path) -> Path:
    return Path(shutil.copytree(random_dir, tmp_path / "model"))


def test_the_check_of_a_model_loads_the_encoder_that_staging_uses(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = PromptEncoder.load
    monkeypatch.setattr(PromptEncoder, "load", lambda path: (loads.append(path), load(path))[1])
    spec = JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path=str(model))).evolve(
        engine={"name": "fake"}
    )
    assert pin_model(spec) is not None
    assert load_encoder(str(model)).has_chat_format
    assert pin_model(spec) is not None
    assert loads == [str(model)]


def test_a_directory_that_has_changed_is_loaded_again(model: Path) -> None:
    before = load_encoder(str(model))
    assert load_encoder(str(model)) is before
    config = model / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 4096', '"max_position_embeddings": 2048'))
    assert load_encoder(str(model)).max_model_len == 2048
    assert before.max_model_len == 4096
    (model / "tokenizer.json").unlink()
    with pytest.raises(InvalidModel):
        load_encoder(str(model))
