"""Sampling values: how the engine turns logits into tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sized
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator, model_validator

from schemas.base import Document
from schemas.options import Option, Panel

ANY_OBJECT = '{"type": "object"}'
"""JSON schema of OpenAI's `{"type": "json_object"}`."""

_FORMS = ("json_schema", "regex", "choice")

MAX_CHOICES, MAX_STOPS, MAX_BAD_WORDS, MAX_BIASES = 1024, 16, 128, 1024
MAX_WORD_CHARS = 4096
"""Most characters of one stop string or bad word: an engine looks for each of them at every token."""

_TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")


def _number(value: Any) -> Any:
    """Refuse text and truth values, which would be read as numbers; 5.0 stays a whole number, as writers spell it."""
    if isinstance(value, str | bytes | bool):
        raise ValueError(f"a number is wanted, not {'text' if isinstance(value, str | bytes) else 'true or false'}")
    return value


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_number)]
Flag = Annotated[bool, Strict()]


def _at_most(value: Any, limit: int, what: str) -> Any:
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > limit:
        raise ValueError(f"{len(value):,} {what} are given; at most {limit:,} are possible")
    return value


class StructuredOutputs(Document):
    """What the generated text must look like: exactly one of three forms.

    Whether a schema or an expression compiles is not known here; see `jobs.rows.structured`.
    """

    json_schema: Annotated[
        str | None, Option(panel=Panel.FORM, form="json_file", help="File with the answer's JSON schema.")
    ] = Field(None, min_length=1, description="JSON schema, as text: the order of keys counts.")
    regex: Annotated[str | None, Option(panel=Panel.FORM)] = Field(
        None, min_length=1, description="Regular expression that the whole answer matches."
    )
    choice: Annotated[
        tuple[str, ...] | None, Option(panel=Panel.FORM, help="An answer to choose from; repeat it for each.")
    ] = Field(None, min_length=1, max_length=MAX_CHOICES, description="The texts to choose from.")

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, values: Any) -> Any:
        """Takes vLLM's name `json` too, and null for absent: columns of structs fill up with it."""
        if not isinstance(values, Mapping):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        if "json" in given and "json_schema" not in given:
            given["json_schema"] = given.pop("json")
        wants_object = given.pop("json_object", False)
        if not isinstance(wants_object, bool):
            raise ValueError("json_object is true or false")
        if wants_object and "json_schema" in given:
            raise ValueError("structured outputs take one form; given: json_schema and json_object")
        return {**given, "json_schema": ANY_OBJECT} if wants_object else given

    @field_validator("choice", mode="before")
    @classmethod
    def _countable(cls, choice: Any) -> Any:
        return _at_most(choice, MAX_CHOICES, "choices")

    @field_validator("json_schema", mode="before")
    @classmethod
    def _as_text(cls, schema: Any) -> Any:
        return json.dumps(schema, ensure_ascii=False) if isinstance(schema, Mapping | bool) else schema

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [name for name in _FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"structured outputs take one of json_schema, regex and choice; given: {found}")
        if self.choice is not None and not all(self.choice):
            raise ValueError("a choice is empty")
        return self

    @property
    def kind(self) -> str:
        """Name of the field that is given."""
        return next(name for name in _FORMS if getattr(self, name) is not None)


class RepetitionDetection(Document):
    """When an answer counts as caught in a loop: its last tokens are one pattern, repeated. Names are vLLM's.

    The engine then ends it, with the finish reason `repetition`.
    """

    max_pattern_size: Whole = Field(ge=1, le=1024, description="Most tokens of the pattern.")
    min_pattern_size: Whole = Field(1, ge=0, le=1024, description="Fewest tokens of the pattern; 0 means 1.")
    min_count: Whole = Field(ge=2, le=100_000, description="Times that the pattern comes, one after the other.")

    @field_validator("min_pattern_size")
    @classmethod
    def _at_least_one(cls, size: int) -> int:
        return max(1, size)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError(
                f"min_pattern_size ({self.min_pattern_size}) is larger than max_pattern_size ({self.max_pattern_size})"
            )
        return self

    @property
    def least_tokens(self) -> int:
        """Fewest tokens of an answer that can be ended by it."""
        return self.min_pattern_size * self.min_count

    def __str__(self) -> str:
        return f"{self.min_pattern_size}-{self.max_pattern_size}x{self.min_count}"


USUAL_DETECTION = RepetitionDetection(max_pattern_size=1, min_count=256)
"""What new jobs get unless they say otherwise: one token 256 times in a row, which no sane answer has. A wider pattern
costs the engine's scheduler a comparison per size, row and step."""


class Sampling(Document):
    """Sampling values of a job; a row may override all of them.

    Names and ranges are those of vLLM's `SamplingParams`. The default is greedy decoding, so that a
    job that is run twice gives the same text twice.
    """

    max_tokens: Annotated[Whole, Option(panel=Panel.SAMPLING)] = Field(
        256, ge=1, le=1_000_000, description="Most tokens to generate per completion."
    )
    min_tokens: Annotated[Whole, Option(panel=Panel.SAMPLING)] = Field(
        0, ge=0, description="Tokens to generate before a stop is honoured."
    )
    temperature: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        0.0, ge=0.0, le=2.0, description="0 is greedy decoding; at most 2."
    )
    top_p: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        1.0, gt=0.0, le=1.0, description="Nucleus sampling mass, 0 to 1."
    )
    top_k: Annotated[Whole, Option(panel=Panel.SAMPLING)] = Field(
        0, ge=0, description="Sample from the k likeliest tokens; 0 means all."
    )
    min_p: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        0.0, ge=0.0, le=1.0, description="Least probability relative to the likeliest token."
    )
    repetition_penalty: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        1.0, gt=0.0, le=10.0, description="Above 1 discourages repeats."
    )
    presence_penalty: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        0.0, ge=-2.0, le=2.0, description="Penalty on tokens that appeared, -2 to 2."
    )
    frequency_penalty: Annotated[Number, Option(panel=Panel.SAMPLING)] = Field(
        0.0, ge=-2.0, le=2.0, description="Penalty by how often a token appeared, -2 to 2."
    )
    seed: Annotated[Whole | None, Option(panel=Panel.SAMPLING)] = Field(
        None, ge=0, lt=2**63, description="Seed of each row's own random generator."
    )
    stop: Annotated[
        tuple[str, ...],
        Option(panel=Panel.SAMPLING, help="Text that ends the answer and is not part of it; may be repeated."),
    ] = Field((), max_length=MAX_STOPS, description="Strings that end the text; not part of it.")
    bad_words: Annotated[
        tuple[str, ...],
        Option(panel=Panel.SAMPLING, name="bad_word", help="Word that is not generated; may be repeated."),
    ] = Field((), max_length=MAX_BAD_WORDS, description="Words that are not generated.")
    logit_bias: dict[int, Number] = Field(
        {}, max_length=MAX_BIASES, description="Added to logits, by token id; -100 to 100."
    )
    structured_outputs: StructuredOutputs | None = Field(None, description="The form that the text must have.")
    repetition_detection: Annotated[
        RepetitionDetection | None,
        Option(
            panel=Panel.SAMPLING,
            form="json_or_off",
            help="End an answer whose last tokens are a repeated pattern: `off`, or vLLM's values as JSON, for example "
            '{"max_pattern_size": 32, "min_count": 8}. Default: one token 256 times in a row.',
        ),
    ] = Field(None, description="End an answer that is caught in a loop. Null: never, as in jobs of older versions.")
    ignore_eos: Flag = Field(False, description="Go on after the end-of-sequence token (benchmarks).")
    logprobs: Annotated[Whole | None, Option(panel=Panel.SAMPLING)] = Field(
        None, ge=0, le=20, description="Report this many likeliest tokens per position."
    )
    n: Annotated[Whole, Option(panel=Panel.SAMPLING)] = Field(1, ge=1, le=128, description="Completions per row.")

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Arrow spells maps as lists of pairs, and fills up structs with null."""
        if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            pairs, value = value, dict(value)
            if len(value) < len(pairs):
                raise ValueError("a token id comes twice")
        if not isinstance(value, Mapping):
            return value
        _at_most(value, MAX_BIASES, "biases")
        if not all(_is_token_id(key) for key in value):
            raise ValueError("a key is not a token id")
        return {key: bias for key, bias in value.items() if bias is not None}

    @field_validator("repetition_detection", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """Takes vLLM's spelling of `off`, a pattern of no token, and nulls for what a struct leaves out."""
        if isinstance(value, str) and value == "off":
            return None
        if isinstance(value, Mapping):
            given = {name: each for name, each in value.items() if each is not None}
            return None if given.get("max_pattern_size") == 0 or not given else given
        return value

    @field_validator("stop", "bad_words", mode="before")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        limit, what = (MAX_STOPS, "stop strings") if info.field_name == "stop" else (MAX_BAD_WORDS, "bad words")
        if isinstance(value, str | Mapping):
            raise ValueError("a list of texts is wanted")
        _at_most(value, limit, what)
        if isinstance(value, list | tuple) and any(isinstance(w, str) and len(w) > MAX_WORD_CHARS for w in value):
            raise ValueError(f"one of the {what} has over {MAX_WORD_CHARS:,} characters")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
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
    def wants_json(self) -> bool:
        """Whether the answer must be JSON."""
        return self.structured_outputs is not None and self.structured_outputs.json_schema is not None

    @property
    def not_with_speculation(self) -> str | None:
        """The value that vLLM refuses with speculative decoding, if any."""
        return "min_p" if self.min_p > 0 else "logit_bias" if self.logit_bias else None

    def override(
        self, values: Mapping[str, Any], *, may_count: bool = False, may_ask_logprobs: bool = False
    ) -> Sampling:
        """These values with a row's own on top.

        Args:
            may_count: the results have the column for several completions of a row, whatever these values are.
            may_ask_logprobs: likewise the column for log-probabilities.

        Raises:
            ValueError: an unknown name, a value out of range, or one whose result has no column.
        """
        if values.get("n", self.n) != self.n and self.n == 1 and not may_count:
            raise ValueError("n: n is set per job unless its results have the column `outputs`; give the job n above 1")
        if "logprobs" in values and self.logprobs is None and not may_ask_logprobs:
            raise ValueError("logprobs: of a row need logprobs of the job, which give the results their column")
        if values.get("structured_outputs") is not None and "repetition_detection" not in values:
            # What keeps to a form ends where the form ends, and may well repeat itself: a list of zeros.
            values = {**values, "repetition_detection": None}
        return self.evolve(**values)


UNSAID = (Sampling(), Sampling(repetition_detection=USUAL_DETECTION))
"""Sampling values of a spec for which nobody has set any."""


def _is_token_id(key: Any) -> bool:
    """Whether the key of a bias is a whole number, or one in JSON's only kind of key."""
    if isinstance(key, str):
        return _TOKEN_ID.fullmatch(key) is not None
    return isinstance(key, int) and not isinstance(key, bool)
