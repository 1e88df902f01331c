"""Suites: which benchmarks, with which prompts, rules and averages. They are data (`data/*.toml`), pinned by a hash.

The hash covers everything that decides a score and that a person could change: templates, shots, the SHA-256 of worked
examples, rules of extraction, limits of tokens, averages, and the version of the code that applies them. It does not
cover titles, sources and the card's values.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jobs.errors import UsageError
from jobs.text import did_you_mean
from schemas.base import Document

CODE_VERSION = 1
"""Raised whenever rendering, extraction or averaging changes its outcome for the same data."""

_DATA = Path(__file__).parent / "data"
_KINDS = ("base", "chat")

RuleName = Literal["best-choice", "first-option", "first-capital", "bbh-choice", "bbh-free", "math", "code"]


class Message(Document):
    """One turn of a templated chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Benchmark(Document):
    """One benchmark as one table of a model card measures it."""

    name: str
    title: str
    source: str = Field(description="Where the wording and the rules come from.")
    metric: str = "accuracy"
    card: float = Field(description="The card's value, in percent.")
    rows: int = Field(gt=0, description="Rows behind the card's value.")
    data: str = Field(description="The reader of `jobs.evaluation.layouts`.")
    task: Literal["score", "generate"]
    rule: RuleName
    rule_of: Mapping[str, RuleName] = Field({}, description="Subjects with another rule.")
    average: Literal["subjects", "rows"] = Field(description="subjects: the mean of the subjects' scores.")
    shots: int = Field(0, ge=0, description="Solved questions in front: the first ones of the subject's dev split.")
    exemplars: Literal["bbh", "math"] | None = Field(None, description="Or texts with worked examples.")
    prompt: str | None = Field(None, description="Template of a plain prompt.")
    shot: str | None = Field(None, description="Template of a solved question in a plain prompt.")
    messages: tuple[Message, ...] = Field((), description="Templates of a chat's turns.")
    shot_messages: tuple[Message, ...] = Field((), description="Templates of a solved question's turns.")
    choices: tuple[str, ...] = Field((), description="Continuations to score, in the order of the letters.")
    max_tokens: int | None = Field(None, ge=1)
    stop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("a benchmark has a prompt or messages")
        if (self.task == "score") != bool(self.choices) or (self.task == "generate") != (self.max_tokens is not None):
            raise ValueError("scoring needs choices, generating needs max_tokens")
        return self

    @property
    def chat(self) -> bool:
        """Whether the prompt is a chat."""
        return bool(self.messages)

    def rule_for(self, subject: str) -> RuleName:
        """Return the rule that finds the answer in an output for a subject's question."""
        return self.rule_of.get(subject, self.rule)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all that decides this benchmark's score."""
        values = self.model_dump(mode="json", exclude={"title", "source", "card", "rows", "metric"})
        pinned = {
            "code_version": CODE_VERSION,
            "benchmark": values,
            "rules": rules(),
            "subjects": subject_names(self.data),
            "exemplars": exemplar_hashes(self.exemplars) if self.exemplars else {},
        }
        return _sha256(pinned)


class Suite(Document):
    """Benchmarks that are run together. `hash` identifies what is measured."""

    name: str
    title: str
    source: str
    benchmarks: tuple[Benchmark, ...]

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the names and hashes of the benchmarks."""
        return _sha256({benchmark.name: benchmark.hash for benchmark in self.benchmarks})

    def __getitem__(self, name: str) -> Benchmark:
        return next(benchmark for benchmark in self.benchmarks if benchmark.name == name)

    def only(self, tasks: Sequence[str]) -> Suite:
        """Return the suite with these benchmarks alone, in its own order.

        Raises:
            UsageError: it has no benchmark of such a name.
        """
        names = [benchmark.name for benchmark in self.benchmarks]
        for task in tasks:
            if task not in names:
                near = did_you_mean(task, names)
                raise UsageError(
                    f"The suite {self.name} has no benchmark {task!r}{f'; {near}' if near else '.'}",
                    f"Its benchmarks are: {', '.join(names)}.",
                )
        return self.evolve(benchmarks=tuple(each for each in self.benchmarks if each.name in tasks))


def suite_names() -> list[str]:
    """Return the names that `load_suite` knows: whole suites first, then single benchmarks."""
    whole = {kind: load_suite(f"card-{kind}") for kind in _KINDS}
    single = [f"{each.name}-{kind}" for kind, suite in whole.items() for each in suite.benchmarks]
    return [*(suite.name for suite in whole.values()), *single]


def load_suite(name: str, tasks: Sequence[str] = ()) -> Suite:
    """Read a suite: `card-base`, `card-chat`, or one benchmark of them, such as `mmlu-base`.

    Args:
        tasks: names of the benchmarks wanted; default: all.

    Raises:
        UsageError: there is no such suite or benchmark.
    """
    head, _, kind = name.rpartition("-")
    if kind not in _KINDS or not head:
        raise _unknown(name)
    suite = _read(f"card-{kind}")
    if head != "card":
        if head not in [benchmark.name for benchmark in suite.benchmarks]:
            raise _unknown(name)
        suite = suite.only([head]).evolve(name=name)
    return suite.only(tasks) if tasks else suite


def _unknown(name: str) -> UsageError:
    names = suite_names()
    near = did_you_mean(name, names)
    return UsageError(f"There is no suite {name!r}{f'; {near}' if near else '.'}", f"Suites are: {', '.join(names)}.")


@cache
def _read(name: str) -> Suite:
    values = _toml(name)
    benchmarks = [{"name": key, **each} for key, each in values.pop("benchmarks").items()]
    return Suite.model_validate({"name": name, **values, "benchmarks": benchmarks})


@cache
def rules() -> Mapping[str, Any]:
    """Return the rules of extraction that are data."""
    return _toml("rules")


def subject_names(data: str) -> Mapping[str, str]:
    """Return the subjects of a data set and the names that prompts use for them; empty if it has no subjects."""
    return dict(_subjects().get(data, {}))


def exemplar_hashes(kind: str) -> Mapping[str, str]:
    """Return the SHA-256 of the worked examples that a benchmark is pinned to, by subject."""
    return dict(_exemplars()[kind])


@cache
def _subjects() -> Mapping[str, Any]:
    return _toml("subjects")


@cache
def _exemplars() -> Mapping[str, Any]:
    return _toml("exemplars")


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((_DATA / f"{name}.toml").read_text(encoding="utf-8"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
