"""Rendering: from a question to the row of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.evaluation.questions import Question
from jobs.evaluation.suites import Benchmark, Message, subject_names

KEPT = ("benchmark", "subject", "reference")
"""Input columns that the results of both jobs carry."""

KEPT_OF_PROGRAMS = ("before", "after")
"""Further ones of the job that generates: what surrounds an answer that is a program."""

_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
_COMMON = [pa.field(name, pa.string()) for name in ("custom_id", *KEPT)]
SCORE_SCHEMA = pa.schema([*_COMMON, pa.field("prompt", pa.string()), pa.field("choices", pa.list_(pa.string()))])
_GENERATE = [*_COMMON, *(pa.field(name, pa.string()) for name in KEPT_OF_PROGRAMS)]
PROMPT_SCHEMA = pa.schema([*_GENERATE, pa.field("prompt", pa.string()), pa.field("sampling_params", pa.string())])
CHAT_SCHEMA = pa.schema([*_GENERATE, pa.field("messages", _MESSAGES), pa.field("sampling_params", pa.string())])


def render_prompt(benchmark: Benchmark, question: Question, shots: Sequence[Question], exemplars: str = "") -> str:
    """Return the plain prompt of a question.

    Fields are put in one after the other, and a field's text may hold the next field's place, as with OpenCompass: a
    prompt is the same to the byte.
    """
    assert benchmark.prompt is not None
    head = _fixed(benchmark, benchmark.prompt, question, exemplars)
    solved = ""
    if shots:
        template = _fixed(benchmark, benchmark.shot or "", question, exemplars)
        solved = "\n".join(_fill(template, shot.fields) for shot in shots) + "\n"
    return _fill(head.replace("{shots}", solved), _asked(benchmark, question))


def render_messages(
    benchmark: Benchmark, question: Question, shots: Sequence[Question], exemplars: str = ""
) -> list[dict[str, str]]:
    """Return the chat of a question: the turns of its shots, then its own. See `render_prompt`."""

    def turns(messages: Sequence[Message], fields: Mapping[str, str]) -> list[dict[str, str]]:
        return [
            {"role": each.role, "content": _fill(_fixed(benchmark, each.content, question, exemplars), fields)}
            for each in messages
        ]

    solved = [turn for shot in shots for turn in turns(benchmark.shot_messages, shot.fields)]
    asked = _asked(benchmark, question)
    # The places in a shot's own text are filled a second time, by the question's fields.
    again = [{**turn, "content": _fill(turn["content"], asked)} for turn in solved]
    return [*again, *turns(benchmark.messages, asked)]


def render_row(
    benchmark: Benchmark, question: Question, shots: Sequence[Question], exemplars: str = ""
) -> dict[str, Any]:
    """Return the row of a job as the schemas of this module have it."""
    row: dict[str, Any] = {
        "custom_id": f"{benchmark.name}/{question.subject}/{question.number}",
        "benchmark": benchmark.name,
        "subject": question.subject,
        "reference": question.reference,
    }
    if benchmark.chat:
        row["messages"] = render_messages(benchmark, question, shots, exemplars)
    else:
        row["prompt"] = render_prompt(benchmark, question, shots, exemplars)
    if benchmark.task == "score":
        return {**row, "choices": list(benchmark.choices)}
    sampling = {"max_tokens": benchmark.max_tokens} | ({"stop": list(benchmark.stop)} if benchmark.stop else {})
    return {**row, "before": question.before, "after": question.after, "sampling_params": json.dumps(sampling)}


def _fixed(benchmark: Benchmark, template: str, question: Question, exemplars: str) -> str:
    """Put in what does not come from the question itself."""
    name = subject_names(benchmark.data).get(question.subject, question.subject)
    return template.replace("{subject}", name).replace("{exemplars}", exemplars)


def _asked(benchmark: Benchmark, question: Question) -> dict[str, str]:
    """Return the fields of the question that is asked: where text is generated, the answer's place stays empty."""
    return dict(question.fields) | ({question.answer: ""} if benchmark.task == "generate" else {})


def _fill(template: str, fields: Mapping[str, str]) -> str:
    for name, value in fields.items():
        template = template.replace(f"{{{name}}}", value)
    return template
