"""Which model directories are used as they are, refused, or told to be prepared; and their fingerprints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import Exit, InvalidModel
from jobs.models.snapshot import check_model, fingerprint, verify


@pytest.fixture
def model(random_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_dir, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def test_a_good_model(model: Path) -> None:
    info = check_model(model)
    assert (info.architecture, info.num_layers, info.num_heads, info.num_kv_heads) == ("InternLM2ForCausalLM", 2, 4, 2)
    assert (info.hidden_size, info.head_dim, info.vocab_size, info.max_model_len) == (128, 32, 512, 4096)
    assert (info.bos_id, info.eos_ids[0], len(info.eos_ids), info.dtype) == (1, 2, 2, "float32")


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda path: shutil.rmtree(path), "no model directory", "path"),
    "no config": (lambda path: (path / "config.json").unlink(), "no config.json", "Hugging Face"),
    "damaged config": (lambda path: (path / "config.json").write_text("{"), "cannot be read", "again"),
    "config is a list": (lambda path: (path / "config.json").write_text("[]"), "not hold a JSON object", "again"),
    "no architecture": (lambda path: edit(path / "config.json", architectures=...), "not named", "causal"),
    "classifier": (
        lambda path: edit(path / "config.json", model_type="bert", architectures=["BertForMaskedLM"]),
        "BertForMaskedLM does not generate",
        "causal",
    ),
    "reward model": (
        lambda path: edit(path / "config.json", architectures=["InternLM2ForRewardModel"]),
        "does not generate",
        "causal",
    ),
    "bias": (lambda path: edit(path / "config.json", bias=True), "bias", "unmodified"),
    "activation": (lambda path: edit(path / "config.json", hidden_act="gelu"), "hidden_act", "unmodified"),
    "yarn": (
        lambda path: edit(path / "config.json", rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_scaling",
        "unmodified",
    ),
    "no heads": (lambda path: edit(path / "config.json", num_attention_heads=0), "incomplete", "again"),
    "no layers": (lambda path: edit(path / "config.json", num_hidden_layers=...), "num_hidden_layers", "again"),
    "no length": (lambda path: edit(path / "config.json", max_position_embeddings=...), "positions", "config.json"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer.json", "native"),
    "remote tokenizer": (
        lambda path: (path / "tokenizer.json").rename(path / "tokenization_internlm2.py"),
        "code of its own",
        "jobs model prepare",
    ),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights", "download"),
    "pickle": (
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
        "pickle",
        "safetensors",
    ),
    "missing shard": (
        lambda path: (path / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
        ),
        "1 of 2 weight files",
        "Finish",
    ),
    "empty index": (lambda path: (path / "model.safetensors.index.json").write_text("{}"), "names no weight", "Finish"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(model: Path, case: str) -> None:
    change, message, hint = REFUSED[case]
    change(model)
    for use in (check_model, fingerprint):
        with pytest.raises(InvalidModel, match=message) as caught:
            use(model)
        assert hint in caught.value.hint
        assert caught.value.exit_code is Exit.USAGE


def test_weights_are_not_needed_by_engines_that_make_them_up(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert check_model(model, weights=False).num_layers == 2
    assert fingerprint(model, weights=False).startswith("sha256:")


def test_fingerprint_of_a_snapshot_is_its_list_of_hashes(model: Path) -> None:
    before = fingerprint(model)
    assert before == fingerprint(model)
    edit(model / "snapshot.json", model_type="other")
    assert fingerprint(model) != before


def test_fingerprint_sees_a_snapshot_that_was_copied_in_part(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidModel, match=r"model\.safetensors .another size"):
        fingerprint(model)
    assert fingerprint(model, weights=False)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_fingerprint_of_other_models_covers_the_small_files(model: Path, name: str) -> None:
    (model / "snapshot.json").unlink()
    before = fingerprint(model)
    (model / name).write_text((model / name).read_text() + "\n")
    assert fingerprint(model) != before


def test_fingerprint_of_other_models_covers_the_weights_by_size(model: Path) -> None:
    (model / "snapshot.json").unlink()
    before = fingerprint(model)
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert fingerprint(model) != before


def test_verify(model: Path) -> None:
    assert {file.name for file in verify(model).files} == {one.name for one in model.iterdir()} - {"snapshot.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json .missing"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json .another size"),
        (lambda path: (path / "extra.py").write_text(""), "extra.py .not part"),
        (lambda path: (path / "snapshot.json").unlink(), "no snapshot.json"),
        (lambda path: (path / "snapshot.json").write_text("{}"), "damaged"),
    ],
)
def test_verify_finds(model: Path, change: Callable[[Path], object], message: str) -> None:
    change(model)
    with pytest.raises(InvalidModel, match=message):
        verify(model)


def test_verify_finds_one_changed_byte(model: Path) -> None:
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InvalidModel, match=r"model\.safetensors .another hash"):
        verify(model)
