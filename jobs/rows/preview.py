"""The first rows of a job as the model will see them: rendered and tokenised, or the errors that they become."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from jobs.dataset import inspect, portions, read_portion, resolve_columns
from jobs.models.encoding import load_encoder
from jobs.rows.prepare import RowPreparer
from schemas.spec import InputSpec, JobSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewRow:
    """One row.

    Attributes:
        prompt: text of the input tokens, special tokens included; None for an error row.
        num_input_tokens: tokens that the engine reads: the prompt's, and those of all choices when they are scored.
        max_output_tokens: most tokens of its answers.
        sampling: the row's own sampling values with the job's; None if it has none of its own.
        choices: texts to score; None unless the job scores.
    """

    row_id: int
    custom_id: str | None
    prompt: str | None
    num_input_tokens: int
    max_output_tokens: int
    sampling: dict[str, Any] | None
    choices: list[str] | None
    error_code: str | None
    error_message: str | None


def preview(spec: JobSpec, num_rows: int, tell: Callable[[str], None] = lambda text: None) -> list[PreviewRow]:
    """Prepare the first rows that the job runs with the code that stages them; of the files, only these rows are read.

    Args:
        tell: called with a sentence on what lies beside the dataset's files and is not read.

    Raises:
        InvalidInput, InvalidModel, UsageError: the job could not be submitted either.
    """
    dataset = inspect(spec.input)
    if (beside := dataset.left_out.sentence()) is not None:
        tell(beside)
    columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
    encoder = load_encoder(spec.model.path)
    longest = min(spec.engine.max_model_len or encoder.max_model_len, encoder.max_model_len)
    preparer = RowPreparer(spec, columns, encoder, longest)

    def rows() -> Iterator[PreviewRow]:
        for portion in portions(dataset, _first(spec.input, num_rows), max_rows=max(num_rows, 64)):
            for batch, row_ids in read_portion(portion, list(columns.needed)):
                for row in preparer.prepare(batch, row_ids).to_pylist():
                    failed = row["error_code"] is not None
                    yield PreviewRow(
                        row_id=row["row_id"],
                        custom_id=row["custom_id"],
                        prompt=None if failed else encoder.decode(_read(row, spec), skip_special=False),
                        num_input_tokens=row["num_input_tokens"],
                        max_output_tokens=row["num_output_tokens"],
                        sampling=None if row["sampling"] is None else json.loads(row["sampling"]),
                        choices=row.get("choices") if spec.task == "score" else None,
                        error_code=row["error_code"],
                        error_message=row["error_message"],
                    )

    return list(islice(rows(), num_rows))


def _read(row: dict[str, Any], spec: JobSpec) -> list[int]:
    """Return the tokens of the prompt, which for a perplexity are scored themselves."""
    parts = row["choice_token_ids"] if spec.task == "perplexity" else ()
    return [*row["token_ids"], *chain.from_iterable(parts)]


def _first(spec: InputSpec, num_rows: int) -> InputSpec:
    """Limit the input to its first rows; rows that are drawn stay those of the job."""
    return spec if spec.limit_seed is not None else spec.evolve(limit=min(num_rows, spec.limit or num_rows))
