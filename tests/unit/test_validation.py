"""Errors in the words of the person who gave the value, never in pydantic's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.spec.options import spec_of
from jobs.text import columns_there, did_you_mean
from jobs.validation import problem, sentence
from schemas.spec import JobSpec

SETTINGS = Settings(root="/tmp", engine="fake")


def said(options: dict[str, Any], file: dict[str, Any] | None = None, *, flags: bool = True) -> str:
    name = "nightly.toml" if file else ""
    with pytest.raises(UsageError) as caught:
        spec_of("/d.parquet", options, SETTINGS, file, file=name, as_flags=flags)
    return caught.value.message


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_error_rate": 5}, "--max-error-rate is a share from 0 to 1; for 5 % write 0.05."),
        ({"max_empty_rate": 12.5}, "--max-empty-rate is a share from 0 to 1; for 12.5 % write 0.125."),
        ({"max_error_rate": -1}, "--max-error-rate is a share from 0 to 1; for 5 % write 0.05."),
        ({"max_tokens": 0}, "--max-tokens must be a whole number from 1 to 1,000,000."),
        ({"top_p": 0}, "--top-p must be a number above 0 and of at most 1."),
        ({"seed": -1}, "--seed must be a whole number of at least 0 and below 2^63."),
        ({"dtype": "bfloat"}, "--dtype must be auto, bfloat16, float16 or float32; did you mean `bfloat16`?"),
        ({"engine": "cuda"}, "--engine must be vllm or fake."),
        ({"name": ""}, "--name is empty."),
        ({"chat": "perhaps"}, "--no-chat must be true or false."),
        ({"reuse": [3]}, "--reuse has an entry that must be text."),
        ({"replicas": "many"}, "--replicas must be a number of replicas, such as 8, or a range, such as 2..16."),
        ({"replicas": "0"}, "--replicas: the number of replicas must be a whole number from 1 to 10,000."),
        ({"replicas": "5..2"}, "--replicas: 5..2: the first number is larger than the second."),
        ({"chat": False, "system": "x"}, "A system message needs the chat format; drop --system or --no-chat."),
        ({"fields": {"sampling.max_token": 5}}, "--set sampling.max_token: unknown field; did you mean `max_tokens`?"),
        ({"fields": {"shards": 5}}, "--set shards must be a table of fields and their values."),
        (
            {"fields": {"sampling.temperature": True}},
            "--set sampling.temperature: a number is wanted, not true or false.",
        ),
    ],
)
def test_an_option_is_named_with_what_is_wrong_and_what_to_write(options: dict[str, Any], sentence: str) -> None:
    assert said(options) == sentence


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (
            {"sampling": {"max_token": 5}},
            "nightly.toml: unknown field `sampling.max_token`; did you mean `max_tokens`?",
        ),
        ({"replica": 3}, "nightly.toml: unknown field `replica`; did you mean `replicas`?"),
        ({"max_error_rate": 5}, "nightly.toml: `max_error_rate` is a share from 0 to 1; for 5 % write 0.05."),
        ({"sampling": {"max_tokens": "5"}}, "nightly.toml: `sampling.max_tokens`: a number is wanted, not text."),
        ({"shards": {"nothing": 1}}, "nightly.toml: unknown field `shards.nothing`; the fields are "),
    ],
)
def test_a_field_of_a_file_is_named_with_the_file(file: dict[str, Any], sentence: str) -> None:
    assert said({}, file).startswith(sentence)


def test_the_client_names_keywords_and_a_misspelt_one_is_found() -> None:
    assert said({"max_tokens": 0}, flags=False).startswith("`max_tokens` must be a whole number")
    assert said({"max_token": 7}, flags=False) == "There is no option 'max_token'; did you mean `max_tokens`?"


def test_no_sentence_quotes_a_value_or_speaks_as_pydantic_does() -> None:
    canary = "canary-of-a-row"
    values: dict[str, Any] = {
        "name": 3,
        "input": {"uri": "/d", "keep": canary},
        "model": {"path": "/m"},
        "task": canary,
    }
    for field, value in (("sampling", {"stop": canary}), ("sampling", {"seed": canary}), ("reuse", {canary: 1})):
        with pytest.raises(ValidationError) as caught:
            JobSpec.model_validate({**values, field: value})
        for each in caught.value.errors():
            text = sentence(problem([each], JobSpec))
            assert canary not in text
            assert "Input should" not in text


def test_names_that_are_nearly_right() -> None:
    assert did_you_mean("Txt", ["text", "label"]) == "did you mean `text`?"
    assert did_you_mean("zzz", ["text", "label"]) == ""
    assert columns_there("txt", ["text", "label"]) == "did you mean `text`? The columns are text, label."
    assert columns_there("zzz", []) == "there are no columns."


def test_settings_say_where_the_value_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import settings

    monkeypatch.setenv("JOBS_ENGINE", "vlm")
    with pytest.raises(UsageError) as caught:
        settings.load()
    assert caught.value.message == "engine (environment JOBS_ENGINE) must be vllm or fake; did you mean `vllm`?"
