"""The page of an evaluation: its table, its subjects, and wrong rows to look at. It has no script, like a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from jobs import __version__
from jobs.evaluation.running import EvaluationRun, warnings_of
from jobs.evaluation.table import rows_of, subject_rows_of
from jobs.text import printable_lines
from schemas.evaluations import Scores, Task

if TYPE_CHECKING:
    from jobs.client import Job

CHARACTERS = 2000
"""Of a prompt's end and of an output's beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongRow:
    """A row whose answer is not the right one.

    Attributes:
        prompt: its end, where the question stands.
        output: what the model generated, or the log-likelihood of each choice; an error's code if there is none.
        verdict: why it counts as wrong.
    """

    name: str
    prompt: str
    output: str
    answer: str
    reference: str
    verdict: str


def render_page(run: EvaluationRun, scores: Scores, *, num_samples: int) -> str:
    """Return the page.

    Args:
        num_samples: wrong rows of each benchmark; with 0 the page has no text of a row.

    Raises:
        StoreError: the store cannot be reached, or a result is damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    wrong = _wrong_rows(run, num_samples) if num_samples else {}
    return environment.get_template("page.html.j2").render(
        scores=scores,
        evaluation=run.evaluation,
        rows=rows_of(scores),
        subjects=subject_rows_of(scores),
        titles={each.name: each.title for each in scores.benchmarks},
        warnings=warnings_of(scores),
        wrong=wrong,
        version=__version__,
    )


def _wrong_rows(run: EvaluationRun, count: int) -> Mapping[str, Sequence[WrongRow]]:
    verdicts = run.record.verdicts()
    if verdicts is None:
        return {}
    wrong = verdicts.filter(pc.invert(verdicts["right"]))
    found: dict[str, list[WrongRow]] = {}
    for task, job_id in run.evaluation.jobs.items():
        of_task = wrong.filter(pc.equal(wrong["task"], task))
        chosen = [
            row
            for name in dict.fromkeys(of_task["benchmark"].to_pylist())
            for row in _spread(of_task.filter(pc.equal(of_task["benchmark"], name)), count)
        ]
        for row, shown in _shown(run, task, run.client.exact_job(job_id), chosen):
            found.setdefault(row["benchmark"], []).append(shown)
    return {each.name: found[each.name] for each in run.suite.benchmarks if each.name in found}


def _spread(rows: pa.Table, count: int) -> list[dict[str, Any]]:
    """Return so many rows at even distances, so that all subjects have their turn."""
    step = max(1.0, rows.num_rows / count)
    return cast(
        "list[dict[str, Any]]", rows.take([int(place * step) for place in range(min(count, rows.num_rows))]).to_pylist()
    )


def _shown(
    run: EvaluationRun, task: Task, job: Job, chosen: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], WrongRow]]:
    column = "choices" if task == "score" else "generated_text"
    wanted = pa.array([row["row_id"] for row in chosen], pa.int64())
    outputs: dict[int, Any] = {}
    for table in job.results().tables(columns=["row_id", column]):
        picked = table.filter(pc.is_in(table["row_id"], value_set=wanted))
        outputs |= dict(zip(picked["row_id"].to_pylist(), picked[column].to_pylist(), strict=True))
    ended = _endings(run) if task == "generate" else {}
    inputs = run.prepared.tables[task]
    for row in chosen:
        asked = inputs.slice(row["row_id"], 1).to_pylist()[0]
        yield (
            row,
            WrongRow(
                name=row["custom_id"],
                prompt=printable_lines(_prompt(asked)[-CHARACTERS:]),
                output=printable_lines(_output(outputs.get(row["row_id"]), row)[:CHARACTERS]),
                answer=printable_lines((row["answer"] or "")[:200]),
                reference=printable_lines((row["reference"] or "none")[:200]),
                verdict=ended.get(row["row_id"]) or _verdict(row),
            ),
        )


def _endings(run: EvaluationRun) -> Mapping[int, str]:
    programs = run.record.programs()
    rows = [] if programs is None else programs.to_pylist()
    return {row["row_id"]: " ".join(filter(None, ("its program:", row["outcome"], row["detail"]))) for row in rows}


def _prompt(asked: Mapping[str, Any]) -> str:
    if (messages := asked.get("messages")) is not None:
        return "\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages)
    return str(asked["prompt"])


def _output(value: Any, row: Mapping[str, Any]) -> str:
    if row["error_code"] is not None:
        return str(row["error_code"])
    if isinstance(value, list):
        return "\n".join(f"{each['text'].strip()}  {each['sum_logprob']:.4f}" for each in value)
    return str(value)


def _verdict(row: Mapping[str, Any]) -> str:
    if row["error_code"] is not None:
        return "error row"
    return "another answer" if row["extracted"] else "no answer in a known form"
