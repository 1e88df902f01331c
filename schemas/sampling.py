"""Sampling values: how the engine turns logits into tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Document

ANY_OBJECT = '{"type": "object"}'
"""JSON schema of OpenAI's `{"type": "json_object"}`."""


class StructuredOutputs(Document):
    """What the generated text must look like: exactly one of three forms.

    Whether a schema or an expression compiles is not known here; see `jobs.structured`.
    """

    json_schema: str | None = Field(None, min_length=1, description="JSON schema, as text: the order of keys counts.")
    regex: str | None = Field(None, min_length=1, description="Regular expression that the whole text matches.")
    choice: tuple[str, ...] | None = Field(None, min_length=1, max_length=1024, description="The texts to choose from.")

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, values: Any) -> Any:
        """Takes vLLM's name `json` too, and null for absent: columns of structs fill up with it."""
        if not isinstance(values, Mapping):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        if "json" in given and "json_schema" not in given:
            given["json_schema"] = given.pop("json")
        if given.pop("json_object", False):
            given.setdefault("json_schema", ANY_OBJECT)
        return given

    @field_validator("json_schema", mode="before")
    @classmethod
    def _as_text(cls, schema: Any) -> Any:
        return json.dumps(schema, ensure_ascii=False) if isinstance(schema, Mapping | bool) else schema

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in ("json_schema", "regex", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"structured outputs take one of json_schema, regex and choice; given: {found}")
        if self.choice is not None and not all(self.choice):
            raise ValueError("a choice is empty")
        return self


class Sampling(Document):
    """Sampling values of a job; a row may override all of them except `n`.

    Names and ranges are those of vLLM's `SamplingParams`. The default is greedy decoding, so that a
    job that is run twice gives the same text twice.
    """

    max_tokens: int = Field(256, ge=1, le=1_000_000, description="Most tokens to generate per completion.")
    min_tokens: int = Field(0, ge=0, description="Tokens to generate before a stop is honoured.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 is greedy decoding.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus sampling mass.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens; 0 means all.")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Least probability relative to the likeliest token.")
    repetition_penalty: float = Field(1.0, gt=0.0, le=10.0, description="Above 1 discourages repeats.")
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Penalty on tokens that appeared.")
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Penalty by how often a token appeared.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of each row's own random generator.")
    stop: tuple[str, ...] = Field((), max_length=16, description="Strings that end the text; not part of it.")
    bad_words: tuple[str, ...] = Field((), max_length=128, description="Words that are not generated.")
    logit_bias: dict[int, float] = Field({}, max_length=1024, description="Added to logits, by token id; -100 to 100.")
    structured_outputs: StructuredOutputs | None = Field(None, description="The form that the text must have.")
    ignore_eos: bool = Field(False, description="Go on after the end-of-sequence token (benchmarks).")
    logprobs: int | None = Field(None, ge=0, le=20, description="Report this many likeliest tokens per position.")
    n: int = Field(1, ge=1, le=128, description="Completions per row.")

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Arrow spells maps as lists of pairs, and fills up structs with null."""
        if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)
        return {key: bias for key, bias in value.items() if bias is not None} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError("n > 1 with temperature 0 would give the same text n times; set a temperature")
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")
        if any(not word.strip() for word in self.bad_words):
            raise ValueError("a bad word is empty")
        if any(token < 0 or not -100.0 <= bias <= 100.0 for token, bias in self.logit_bias.items()):
            raise ValueError("logit_bias maps token ids to values from -100 to 100")
        if self.structured_outputs is not None and (self.ignore_eos or self.min_tokens):
            raise ValueError("structured outputs end where their form ends; drop ignore_eos and min_tokens")
        return self

    @property
    def deterministic(self) -> bool:
        """Whether the same tokens in give the same tokens out."""
        return self.temperature == 0.0

    @property
    def not_with_speculation(self) -> str | None:
        """The value that vLLM refuses with speculative decoding, if any."""
        return "min_p" if self.min_p > 0 else "logit_bias" if self.logit_bias else None

    def override(self, values: dict[str, Any]) -> Sampling:
        """These values with a row's own on top.

        Raises:
            ValueError: an unknown name, a value out of range, a change of `n`, or `logprobs` in a job without.
        """
        if "n" in values and values["n"] != self.n:
            raise ValueError("n is set per job, not per row")
        if "logprobs" in values and self.logprobs is None:
            raise ValueError("logprobs of a row need logprobs of the job, which give the results their column")
        return self.evolve(**values)
