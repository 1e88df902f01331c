"""Compiled code beside a snapshot: only what is pinned is unpacked, and workers never write there."""

from __future__ import annotations

import ast
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import workers.demo
from jobs.cli import main
from jobs.ledger import Ledger
from jobs.models.compiled import InvalidCompiled, add_pack, folder_of, manifest_digest, restore
from jobs.models.encoding import BytesEncoder
from jobs.models.snapshot import fingerprint, verify
from jobs.store.local import LocalStore
from schemas.compiled import CompiledFor, CompiledManifest
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec
from workers.engines import compiled
from workers.engines.vllm import VllmEngine

MADE_FOR = CompiledFor(model="sha256:1", engine="vllm 0.32.0", torch="2.13", python="3.11", machine="x", device="H200")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = tmp_path / "models/demo"
    shutil.copytree(Path(workers.demo.__file__).parent / "model", model)
    return model


def cache_with(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def pinned(model: Path) -> str:
    digest = manifest_digest(model)
    assert digest is not None
    return digest


def test_what_one_node_has_compiled_another_unpacks(model: Path, tmp_path: Path) -> None:
    assert manifest_digest(model) is None
    made = cache_with(tmp_path / "cache", vllm__a="kernel", triton__b="code", vllm__locks__l="", vllm__half="x")
    (made / "vllm/half").rename(made / "vllm/half.tmp")
    (made / "vllm/link").symlink_to("/etc/passwd")
    pack = add_pack(model, MADE_FOR, made)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder_of(model).iterdir()}
    found = restore(model, pinned(model), MADE_FOR, tmp_path / "node")
    assert found is not None
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()) == ["triton/b", "vllm/a"]
    assert (found / "vllm/a").read_text() == "kernel"
    (found / "vllm/newer").write_text("an engine adds to it")
    assert restore(model, pinned(model), MADE_FOR, tmp_path / "node") == found
    assert (found / "vllm/newer").exists()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder_of(model).iterdir()} == before
    assert add_pack(model, MADE_FOR, made) == pack, "equal caches give equal archives"
    verify(model)  # the snapshot is as it was
    assert not list((tmp_path / "node").glob(".*"))


def test_each_gpu_and_version_has_its_own_and_options_add_up(model: Path, tmp_path: Path) -> None:
    add_pack(model, MADE_FOR, cache_with(tmp_path / "1", vllm__a="a"))
    add_pack(model, MADE_FOR, cache_with(tmp_path / "2", vllm__b="b"))
    for change in ({"device": "A100"}, {"engine": "vllm 0.33.0"}, {"model": "sha256:2"}, {"torch": "2.14"}):
        other = MADE_FOR.evolve(**change)
        assert restore(model, pinned(model), other, tmp_path / "node") is None
    found = restore(model, pinned(model), MADE_FOR, tmp_path / "node")
    assert found is not None
    assert {path.name for path in found.rglob("*") if path.is_file()} == {"a", "b"}


@pytest.mark.parametrize("fault", ["archive", "longer", "missing", "manifest", "no manifest", "damaged manifest"])
def test_what_is_not_as_it_was_pinned_is_not_opened(
    model: Path, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = add_pack(model, MADE_FOR, cache_with(tmp_path / "1", vllm__a="a"))
    digest, archive, manifest = pinned(model), folder_of(model) / pack.file, folder_of(model) / "manifest.json"
    archive.chmod(0o644)
    match fault:
        case "archive":
            archive.write_bytes(archive.read_bytes().replace(b"a", b"b", 1))
        case "longer":
            archive.write_bytes(archive.read_bytes() + b"more")
        case "missing":
            archive.unlink()
        case "manifest":
            add_pack(model, MADE_FOR, cache_with(tmp_path / "2", vllm__evil="b"))
        case "no manifest":
            manifest.unlink()
        case _:
            manifest.write_bytes(b"{")
    with pytest.raises(InvalidCompiled, match=r"Run `jobs model warm-up DIR` again"):
        restore(model, digest, MADE_FOR, tmp_path / "node")
    assert not [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
    monkeypatch.setattr(compiled, "made_for", lambda *_, **__: MADE_FOR)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = dict(os.environ)
    assert not compiled.use(str(model), "sha256:1", digest, on_gpu=True)
    assert "compiled code is not loaded" in caplog.text
    assert dict(os.environ) == before, "the engine compiles by itself"


def test_an_archive_cannot_write_elsewhere(model: Path, tmp_path: Path) -> None:
    add_pack(model, MADE_FOR, cache_with(tmp_path / "1", vllm__a="a"))
    (pack,) = CompiledManifest.from_json((folder_of(model) / "manifest.json").read_bytes()).packs
    import hashlib

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    name = f"{hashlib.sha256(data.getvalue()).hexdigest()}.tar"
    (folder_of(model) / name).write_bytes(data.getvalue())
    forged = CompiledManifest(packs=(pack.model_copy(update={"file": name, "size_bytes": len(data.getvalue())}),))
    (folder_of(model) / "manifest.json").write_bytes(forged.to_json())
    with pytest.raises(InvalidCompiled, match="cannot be unpacked"):
        restore(model, pinned(model), MADE_FOR, tmp_path / "node")
    assert not list(tmp_path.rglob("escaped"))


def test_an_engine_finds_its_caches_there(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "made_for", lambda *_, **__: MADE_FOR)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"HOME": str(tmp_path / "home")})
    add_pack(model, MADE_FOR, cache_with(tmp_path / "1", vllm__a="a"))
    assert compiled.use(str(model), "sha256:1", pinned(model), on_gpu=True)
    assert (Path(os.environ["VLLM_CACHE_ROOT"]) / "a").read_text() == "a"
    assert (tmp_path / "home") in Path(os.environ["TRITON_CACHE_DIR"]).parents
    assert not compiled.use(str(model), "sha256:1", None, on_gpu=True)
    assert not compiled.use(str(model), None, pinned(model), on_gpu=True)


def test_paths_in_an_index_are_those_of_the_node(model: Path, tmp_path: Path) -> None:
    made = cache_with(tmp_path / "made")
    cache_with(made, vllm__h__vllm_compile_cache__py="", vllm__graph="g")
    index = made / "vllm/h/vllm_compile_cache.py"
    index.parent.mkdir(exist_ok=True)
    index.write_text(f"{{(1, 0): ('key', '{made}/vllm/graph')}}")
    add_pack(model, MADE_FOR, made)
    shutil.rmtree(made)
    found = restore(model, pinned(model), MADE_FOR, tmp_path / "node")
    assert found is not None
    ((_, path),) = ast.literal_eval((found / "vllm/h/vllm_compile_cache.py").read_text()).values()
    assert Path(path).read_text() == "g"


@pytest.mark.parametrize("fault", ["code", "engine"])
def test_code_with_which_no_engine_starts_costs_time_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(compiled, "made_for", lambda *_, **__: MADE_FOR)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"HOME": str(tmp_path / "home")})
    add_pack(model, MADE_FOR, cache_with(tmp_path / "1", vllm__a="a"))
    options: dict[str, Any] = {"on_gpu": True, "fingerprint": "sha256:1", "compiled": pinned(model)}
    engine = VllmEngine(EngineSpec(), str(model), BytesEncoder(), **options)
    opened: list[bool] = []

    def open_engine() -> None:
        opened.append("VLLM_CACHE_ROOT" in os.environ)
        if opened[-1] or fault == "engine":
            raise FileNotFoundError("an artefact")

    if fault == "engine":
        with pytest.raises(FileNotFoundError):
            engine._with_compiled_code(open_engine)
    else:
        engine._with_compiled_code(open_engine)
    assert opened == [True, False]
    # Only code that an engine does better without is not used again.
    used = compiled.use(str(model), "sha256:1", pinned(model), on_gpu=True)
    assert (used is None) == (fault == "code")


def test_compiled_code_makes_no_other_job(tmp_path: Path) -> None:
    spec = JobSpec(name="d", input=InputSpec(uri="d.parquet"), model=ModelSpec(path="m", fingerprint="sha256:1"))
    ledger = Ledger(LocalStore(tmp_path), "demo")
    assert ledger.create(spec, writer="a")
    warmed = spec.evolve(model=spec.model.evolve(compiled="sha256:2"))
    assert not ledger.create(warmed, writer="b"), "the same job"
    assert ledger.spec() == spec


def test_where_nothing_would_be_compiled_the_command_says_so(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["model", "warm-up", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert main(["model", "warm-up", str(model)]) == 2
    assert "There is no GPU here, so nothing would be compiled." in capsys.readouterr().err
    assert not folder_of(model).exists()
    assert fingerprint(model)
