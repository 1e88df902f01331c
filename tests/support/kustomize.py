"""The overlays of `deploy/kubernetes`: rendered by kubectl, or as they are kept in the tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deploy_commands import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
GOLDEN = Path(__file__).parents[1] / "unit/deploy/golden"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has Kustomize inside")


def documents(text: str) -> list[dict[str, Any]]:
    """Parse all documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def golden(overlay: str) -> list[dict[str, Any]]:
    """Return what an overlay renders to, as it is kept."""
    return documents((GOLDEN / f"{overlay}.yaml").read_text())


def render(overlay: str, tree: Path = KUBERNETES) -> str:
    """Return what an overlay, or a folder beside them, renders to now.

    Raises:
        AssertionError: kubectl refuses it.
    """
    folder = tree / "overlays" / overlay
    command = ["kubectl", "kustomize", str(folder if folder.exists() else tree / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def site(tmp_path: Path, values: Mapping[str, str]) -> Path:
    """Copy the tree and edit its one file of values, as an operator would; return the copy.

    Args:
        values: what stands there, and what to write in its place.
    """
    tree = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, tree)
    path = tree / "site/kustomization.yaml"
    text = path.read_text()
    for old, new in values.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return tree


def named(found: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one document of a kind, or of a kind and name."""
    (only,) = [each for each in found if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return only
