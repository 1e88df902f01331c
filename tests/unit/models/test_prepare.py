"""`jobs model prepare`: from a download as it lies on a disk to a snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jobs.errors import InvalidModel, UsageError
from jobs.models.config import check_length, max_supported_len
from jobs.models.prepare import is_chat_model, prepare
from jobs.models.prompt_encoder import PromptEncoder
from jobs.models.snapshot import verify
from tests.support.samples import needs_real_tokenizer
from workers.demo.checkpoint import random_weights, small_config

PUBLIC_ROPE = {"rope_theta": 50000000, "rope_scaling": {"type": "dynamic", "factor": 2.5}}


@pytest.fixture
def download(tmp_path: Path, sentencepiece_model: bytes) -> Path:
    """The chat model's directory as it is downloaded, with very small layers."""
    source = tmp_path / "internlm2_5-chat"
    source.mkdir()
    config = small_config(vocab_size=92544, hidden_size=8, num_heads=1, num_kv_heads=1, max_position_embeddings=32768)
    config |= {"auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"}, "_name_or_path": "x"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 92542], "pad_token_id": 2}')
    (source / "tokenizer.model").write_bytes(sentencepiece_model)
    (source / "modeling_internlm2.py").write_text("raise SystemExit('remote code ran')")
    weights = random_weights(config, seed=0)
    index: dict[str, str] = {}
    for number, names in enumerate(np.array_split(sorted(weights), 2), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({str(name): weights[str(name)] for name in names}, source / shard, metadata={"format": "pt"})
        index |= {str(name): shard for name in names}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return source


@needs_real_tokenizer
def test_a_chat_model(download: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "snapshot"
    told: list[str] = []
    snapshot = prepare(download, target, report=told.append)
    assert {file.name for file in snapshot.files} == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
    }
    assert verify(target) == snapshot
    config = json.loads((target / "config.json").read_text())
    original = json.loads((download / "config.json").read_text())
    assert config == {key: value for key, value in original.items() if key not in ("auto_map", "_name_or_path")}
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [2, 92542]
    name = "model-00001-of-00002.safetensors"
    assert (target / name).stat().st_ino == (download / name).stat().st_ino, "linked, not copied"
    assert PromptEncoder.load(target).encode_chat([{"role": "user", "content": "hello"}])[:5] == [
        1,
        92543,
        1008,
        364,
        15115,
    ]
    assert any("SentencePiece" in line for line in told)


def test_a_base_model_from_a_cache_of_symlinks(download: Path, tmp_path: Path) -> None:
    (download / "generation_config.json").unlink()
    shard = download / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    prepare(download, tmp_path / "t", copy=True)
    verify(tmp_path / "t")
    copied = tmp_path / "t" / shard.name
    assert not copied.is_symlink()
    assert copied.stat().st_ino != shard.stat().st_ino
    assert load_file(copied).keys() == load_file(shard).keys()
    assert PromptEncoder.load(tmp_path / "t").eos_ids == (2,)


def test_chat_models_are_recognised(download: Path) -> None:
    assert is_chat_model(download)
    (download / "generation_config.json").unlink()
    assert not is_chat_model(download)
    (download / "tokenizer_config.json").write_text('{"chat_template": "{{ bos_token }}"}')
    assert is_chat_model(download)


def test_a_target_in_use_is_refused(download: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        prepare(download, tmp_path / "t")


def check_refused(source: Path, target: Path, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        prepare(source, target)
    assert not target.exists()
    assert not list(target.parent.glob(".*partial"))


def test_a_missing_shard_is_refused(download: Path, tmp_path: Path) -> None:
    (download / "model-00002-of-00002.safetensors").unlink()
    check_refused(download, tmp_path / "t", "1 of 2 weight files")


def test_pickles_are_refused(download: Path, tmp_path: Path) -> None:
    for path in download.glob("*.safetensors*"):
        path.unlink()
    (download / "pytorch_model-00001-of-00002.bin").touch()
    check_refused(download, tmp_path / "t", "pickle")


def test_another_architecture_is_told_to_go_on(download: Path, tmp_path: Path) -> None:
    config = json.loads((download / "config.json").read_text())
    (download / "config.json").write_text(
        json.dumps(config | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
    )
    check_refused(download, tmp_path / "t", "Only InternLM2")


def test_a_tokenizer_of_another_model_is_refused(download: Path, tmp_path: Path) -> None:
    config = json.loads((download / "config.json").read_text())
    (download / "config.json").write_text(json.dumps(config | {"vocab_size": 92543}))
    check_refused(download, tmp_path / "t", "92544 pieces")


def test_no_tokenizer_model(download: Path, tmp_path: Path) -> None:
    (download / "tokenizer.model").unlink()
    check_refused(download, tmp_path / "t", "no tokenizer.model")


def test_lengths_beyond_the_trained_positions_are_refused() -> None:
    config = {"max_position_embeddings": 32768, **PUBLIC_ROPE}
    assert max_supported_len(config) == 32768
    check_length(config, 32768)
    with pytest.raises(InvalidModel, match="32769 is longer than the 32768 positions") as caught:
        check_length(config, 32769)
    assert "32768 or less" in caught.value.hint
