"""Documents are refused when they are not exactly what they claim to be, and keep their bytes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas import FORMAT_VERSION
from schemas.sampling import Sampling
from schemas.spec import InputSpec, JobSpec, ModelSpec, ReplicaRange

SPEC = JobSpec(name="n", input=InputSpec(uri="/data.parquet"), model=ModelSpec(path="/model"))


def test_a_document_survives_its_bytes_and_equal_documents_have_equal_bytes() -> None:
    assert JobSpec.from_json(SPEC.to_json()) == SPEC
    assert JobSpec.from_json(SPEC.to_json()).digest() == SPEC.digest()
    assert SPEC.evolve(name="m").digest() != SPEC.digest()


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="temprature"):
        Sampling.model_validate({"temprature": 0.5})


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ValidationError, match="newer than this program"):
        SPEC.evolve(format_version=FORMAT_VERSION + 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, "larger than max_tokens"),
        ({"n": 2}, "temperature 0"),
        ({"stop": ("",)}, "empty"),
        ({"top_p": 0.0}, "greater than 0"),
        ({"temperature": float("nan")}, "finite"),
    ],
)
def test_sampling_values_that_cannot_work_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Sampling.model_validate(values)


def test_a_row_overrides_sampling_but_not_n() -> None:
    assert Sampling().override({"temperature": 0.5}).temperature == 0.5
    with pytest.raises(ValueError, match="per job"):
        Sampling().override({"n": 4})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt_column": "a", "template": "{{ b }}"}, "exclude each other"),
        ({"keep": ("status",)}, "cannot keep"),
        ({"keep": ("a", "a")}, "twice"),
        ({"system": "s", "chat": False}, "chat format"),
    ],
)
def test_input_options_that_contradict_each_other_are_refused(columns: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        InputSpec.model_validate({"uri": "/x", **columns})


def test_replicas_are_a_number_or_a_range() -> None:
    assert ReplicaRange.parse("8") == ReplicaRange(min=8, max=8)
    assert ReplicaRange.parse(" 2..16 ") == ReplicaRange(min=2, max=16)
    for text in ("", "x", "1-2", "0", "4..2"):
        with pytest.raises(ValueError, match=r"\S"):
            ReplicaRange.parse(text)
