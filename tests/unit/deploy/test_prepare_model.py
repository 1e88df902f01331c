"""The Job that fills the volume of models: its script makes a snapshot once, and afterwards only checks it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kustomize import golden, named
from tests.support.samples import tokenizer_model
from workers.demo.random_model import write_random_model

HUB = """#!/bin/sh
echo "$*" >> {root}/downloads
while [ "$1" != --local-dir ]; do shift; done
mkdir -p "$2" && cp {root}/hub/* "$2"
"""
"""Stands for the hub, which tests do not reach: copies a model to --local-dir and keeps what it was asked."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Make an empty volume, and a hub beside it with a small InternLM2 and its code."""
    hub = tmp_path / "hub"
    write_random_model(tmp_path / "random")
    hub.mkdir()
    config = json.loads((tmp_path / "random/config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, "vocab_size": 92544}))
    shutil.copy(tmp_path / "random/model.safetensors", hub)
    (hub / "tokenizer.model").write_bytes(tokenizer_model())
    program = tmp_path / "bin/hf"
    program.parent.mkdir()
    program.write_text(HUB.format(root=tmp_path))
    program.chmod(0o755)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def run(volume: Path) -> subprocess.CompletedProcess[str]:
    """Run the Job's command as its container would, with the volume elsewhere than at /models."""
    container = named(golden("prepare-model"), "Job")["spec"]["template"]["spec"]["containers"][0]
    script = container["args"][0].replace("/models/", f"{volume}/")
    paths = (volume.parent / "bin", Path(sys.executable).parent, os.environ["PATH"])
    environment = {each["name"]: each["value"] for each in container["env"]}
    environment |= {"JOBS_MODEL": str(volume / "internlm2_5-20b-chat"), "PATH": ":".join(map(str, paths))}
    command = [*container["command"], script]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_a_snapshot_is_made_once_and_then_checked(volume: Path) -> None:
    first = run(volume)
    assert first.returncode == 0, first.stderr
    assert [path.name for path in volume.iterdir()] == ["internlm2_5-20b-chat"], "the download is gone"
    again = run(volume)
    assert again.returncode == 0, again.stderr
    (asked,) = (volume.parent / "downloads").read_text().splitlines()
    assert asked.startswith("download internlm/internlm2_5-20b-chat --revision main --local-dir ")
    assert ".py" not in asked, "none of the model's code is downloaded"
    weights = volume / "internlm2_5-20b-chat/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    damaged = run(volume)
    assert (damaged.returncode, "another hash" in damaged.stderr) == (2, True)
