"""Sampling values: how the engine turns logits into tokens."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from schemas.base import Document


class Sampling(Document):
    """Sampling values of a job; a row may override all of them except `n`.

    Names and ranges are those of vLLM's `SamplingParams`. The default is greedy decoding, so that a
    job that is run twice gives the same text twice.
    """

    max_tokens: int = Field(256, ge=1, le=1_000_000, description="Most tokens to generate per completion.")
    min_tokens: int = Field(0, ge=0, description="Tokens to generate before a stop is honoured.")
    temperature: float = Field(0.0, ge=0.0, le=10.0, description="0 is greedy decoding.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus sampling mass.")
    top_k: int = Field(0, ge=0, description="Sample from the k likeliest tokens; 0 means all.")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Least probability relative to the likeliest token.")
    repetition_penalty: float = Field(1.0, gt=0.0, le=10.0, description="Above 1 discourages repeats.")
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Penalty on tokens that appeared.")
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0, description="Penalty by how often a token appeared.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of each row's own random generator.")
    stop: tuple[str, ...] = Field((), max_length=16, description="Strings that end the text; not part of it.")
    ignore_eos: bool = Field(False, description="Go on after the end-of-sequence token (benchmarks).")
    logprobs: int | None = Field(None, ge=0, le=20, description="Report this many likeliest tokens per position.")
    n: int = Field(1, ge=1, le=128, description="Completions per row.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens})")
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError("n > 1 with temperature 0 would give the same text n times; set a temperature")
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")
        return self

    @property
    def deterministic(self) -> bool:
        """Whether the same tokens in give the same tokens out."""
        return self.temperature == 0.0

    def override(self, values: dict[str, Any]) -> Sampling:
        """These values with a row's own on top.

        Raises:
            ValueError: an unknown name, a value out of range, or a change of `n`.
        """
        if "n" in values and values["n"] != self.n:
            raise ValueError("n is set per job, not per row")
        return self.evolve(**values)
