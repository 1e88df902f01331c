"""`deploy/README.md` names every value of a site, and only files and overlays that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.deploy_commands import DEPLOY
from tests.support.kustomize import KUBERNETES, OVERLAYS

PAGE = (DEPLOY / "README.md").read_text()
SITE = yaml.safe_load((KUBERNETES / "site/kustomization.yaml").read_text())


def test_every_value_of_a_site_is_explained() -> None:
    table = PAGE[PAGE.index("| value |") : PAGE.index("### 1. Image")]
    values = {pair.partition("=")[0] for each in SITE["configMapGenerator"] for pair in each["literals"]}
    assert len(values) == 8
    explained = set(re.findall(r"`([A-Za-z_-]+)`", table))
    # MODEL_SNAPSHOT is read by models-on-node alone, and explained with it.
    assert values - explained == {"MODEL_SNAPSHOT"}
    assert {"images", "components"} <= explained
    assert "`MODEL_SNAPSHOT`" in PAGE


def test_every_overlay_and_component_that_an_operator_chooses_is_named() -> None:
    for overlay in OVERLAYS:
        assert f"overlays/{overlay}" in PAGE
    chosen = {path.name for path in (KUBERNETES / "components").iterdir()} - {"own-cluster"}
    assert [name for name in chosen if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", PAGE))))
def test_links_lead_somewhere(target: str) -> None:
    assert (DEPLOY / target).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?<![\w/])deploy/[\w./-]+[\w-]", PAGE))))
def test_paths_in_commands_exist(path: str) -> None:
    assert Path(DEPLOY.parent, path).exists() or path == "deploy/nightbatch-scheduler", "a Deployment, for kubectl"
