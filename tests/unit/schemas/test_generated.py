"""The committed JSON Schemas are those of the code."""

from __future__ import annotations

import pytest

from schemas.generate import DOCUMENTS, FOLDER, render


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generating_the_schema_again_changes_nothing(name: str) -> None:
    assert (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8") == render(DOCUMENTS[name])


def test_no_schema_is_left_over() -> None:
    assert {path.name.removesuffix(".schema.json") for path in FOLDER.iterdir()} == set(DOCUMENTS)
