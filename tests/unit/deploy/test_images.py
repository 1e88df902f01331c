"""What the images install is complete and fits together; their build contexts build the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.deploy_commands import DEPLOY

ROOT = DEPLOY.parent
DOCUMENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = DOCUMENT["project"], DOCUMENT["build-system"]
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def locked(name: str) -> dict[str, Version]:
    """Return name → version of a lock file."""
    lines = (ROOT / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {each.lower().replace("_", "-").partition("[")[0]: Version(version) for each, version in pairs}


@pytest.mark.parametrize("name", ["requirements-cpu.lock", "requirements-gpu.lock"])
def test_locks_have_what_builds_the_project(name: str) -> None:
    """The images build it with --no-build-isolation."""
    assert {Requirement(text).name for text in BUILD["requires"]} <= locked(name).keys()


@pytest.mark.parametrize(
    ("name", "engine"), [("requirements-cpu.lock", "cpu"), ("requirements-gpu.lock", "gpu")], ids=["cpu", "gpu"]
)
def test_the_locks_have_what_the_project_asks_for(name: str, engine: str) -> None:
    """Drivers and schedulers run in the images, and read and write tables there."""
    versions = locked(name)
    extras = PROJECT["optional-dependencies"]
    wanted_extras = (engine, "serve", "delta", "iceberg", "cloud")
    for text in [*PROJECT["dependencies"], *(text for extra in wanted_extras for text in extras[extra])]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[wanted.name.lower().replace("_", "-")]), text


def test_locks_agree_on_ray_which_refuses_nodes_of_another_version() -> None:
    gpu, cpu = locked("requirements-gpu.lock"), locked("requirements-cpu.lock")
    assert gpu["ray"] == cpu["ray"]
    cluster = (DEPLOY / "kubernetes/base/raycluster.yaml").read_text()
    assert f"rayVersion: {gpu['ray']}\n" in cluster
    pinned = (ROOT / "requirements-gpu.in").read_text()
    assert f"vllm=={gpu['vllm']}\n" in pinned


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_build_context_builds_the_project(dockerfile: Path, tmp_path: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY (.*)$", dockerfile.read_text(), re.M) for name in line.split()[:-1]]
    assert set(copied) <= sent, "the build context lacks it"
    for name in copied:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, tmp_path)
    (lock,) = [name for name in copied if name.endswith(".lock")]
    assert f"pip install --no-deps -r {lock}" in re.sub(r" --extra-index-url \S+", "", dockerfile.read_text())
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "dist").glob("nightbatch-*.whl"))
