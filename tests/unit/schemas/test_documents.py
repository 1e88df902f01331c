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
        ({"stop": ("",)}, "empty"),
        ({"top_p": 0.0}, "greater than 0"),
        ({"temperature": float("nan")}, "finite"),
    ],
)
def test_sampling_values_that_cannot_work_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Sampling.model_validate(values)


def test_a_row_overrides_what_the_results_have_columns_for() -> None:
    assert Sampling().override({"temperature": 0.5}).temperature == 0.5
    with pytest.raises(ValueError, match="per job"):
        Sampling().override({"n": 4})
    with pytest.raises(ValueError, match="logprobs of the job"):
        Sampling().override({"logprobs": 4})
    assert Sampling().override({"n": 4}, may_count=True).n == 4
    assert Sampling(n=2).override({"n": 1}).n == 1
    assert Sampling().override({"logprobs": 0}, may_ask_logprobs=True).logprobs == 0


@pytest.mark.parametrize("name", sorted(Sampling.model_fields))
def test_no_value_is_coerced(name: str) -> None:
    """Each JSON value is taken for what it is: another type that reads like a good value is refused."""
    default = Sampling(seed=3, logprobs=2, n=2, max_tokens=7, temperature=1.0).model_dump(mode="json")[name]
    good = {"stop": ["a"], "bad_words": ["a"], "logit_bias": {"5": 1}, "structured_outputs": {"choice": ["a"]}}
    good |= {"repetition_detection": {"max_pattern_size": 1, "min_count": 2}}
    value = good.get(name, default)
    assert Sampling().evolve(**{name: value}).model_dump(mode="json")[name] is not None
    for other in (str(value), True, False, b"1", [value], {"value": value}):
        if type(other) is not type(value):
            with pytest.raises(ValidationError):
                Sampling().evolve(**{name: other})


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert Sampling().evolve(max_tokens=5.0, seed=1.0).max_tokens == 5
    assert type(Sampling().evolve(max_tokens=5.0).max_tokens) is int
    for wrong in (5.5, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Sampling().evolve(max_tokens=wrong)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"logit_bias": {"05": 1}}, "not a token id"),
        ({"logit_bias": {" 5": 1}}, "not a token id"),
        ({"logit_bias": {"1_0": 1}}, "not a token id"),
        ({"logit_bias": {"5": True}}, "true or false"),
        ({"logit_bias": {"5": "1"}}, "text"),
        ({"logit_bias": [(5, 1), (5, 2)]}, "twice"),
        ({"logit_bias": {str(n): 1 for n in range(2000)}}, "2,000 biases are given; at most 1,024"),
        ({"stop": [str(n) for n in range(17)]}, "17 stop strings are given; at most 16"),
        ({"stop": ["x" * 5000]}, "over 4,096 characters"),
        ({"bad_words": [str(n) for n in range(200)]}, "200 bad words are given; at most 128"),
        (
            {"structured_outputs": {"choice": [str(n) for n in range(100_000)]}},
            "100,000 choices are given; at most 1,024",
        ),
        ({"structured_outputs": {"json_object": "false"}}, "true or false"),
        ({"structured_outputs": {"json_object": True, "json": {}}}, "one form"),
    ],
)
def test_what_is_no_sampling_value_is_said_in_plain_words(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Sampling().evolve(**values)


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
