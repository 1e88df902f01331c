"""`jobs eval`: a model card's benchmarks as jobs, and the card's table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.options import Request
from jobs.cli.output import Format, Output
from jobs.errors import Exit

if TYPE_CHECKING:
    from jobs.evaluation.running import EvaluationRun
    from schemas.evaluations import Scores


def evaluate(
    output: Output,
    suite: Annotated[
        str,
        typer.Argument(help="card-base, card-chat, or one benchmark of them: mmlu-base.", show_default=False),
    ],
    *,
    request: Request,
    data: Annotated[
        Path, typer.Option("--data", help="Directory with a folder of each benchmark's data.", show_default=False)
    ],
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Benchmarks of the suite: mmlu,bbh. Default: all.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Rows of each subject, for a trial.", show_default=False)
    ] = None,
    exemplars: Annotated[
        Path | None,
        typer.Option(
            "--exemplars",
            help="Directory of the package opencompass or lm_eval, for the worked examples of BBH and MATH. "
            "Default: the data directory and installed packages.",
            show_default=False,
        ),
    ] = None,
    evaluation_id: Annotated[
        str | None, typer.Option("--id", help="Id of the evaluation; the same command goes on.", show_default=False)
    ] = None,
    page: Annotated[
        str | None,
        typer.Option("--page", help="Write the table and wrong rows as an HTML page, too.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, max=1000, help="Wrong rows of each on the page.")] = 10,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run the model's programs even where no sandbox is.")
    ] = False,
) -> None:
    """Evaluate a model: the benchmarks of InternLM2.5's model card as one or two jobs, and its table.

    Prompts, shots, rules of extraction and averages are pinned by a hash. Programs (HumanEval) run in a sandbox on the
    cluster. It may be interrupted at any time: the same command with the same --id goes on.

    Examples:

      jobs eval card-base --model /models/internlm2_5-20b --data /data/benchmarks --replicas 8

      jobs eval card-chat --model DIR --data DIR --tasks mmlu,gpqa --limit 20

      jobs eval card-base --model DIR --data DIR --id card-2026-03-01 --reuse auto --page card.html
    """
    from jobs.client import BatchClient
    from jobs.evaluation.preparing import prepare
    from jobs.evaluation.running import EvaluationRun, check_spec
    from jobs.evaluation.suites import load_suite
    from jobs.results.targets import check_target
    from jobs.spec.build import new_job_id

    wanted = load_suite(suite, [name for name in (tasks or "").split(",") if name])
    check_spec(request.spec)
    if page:
        check_target(page, request.settings.allowed_buckets)
    client = BatchClient(request.settings)
    client.before_cluster_start = lambda: output.note("Starting a local Ray cluster …")
    output.note(f"Suite {wanted.name}, SHA-256 {wanted.hash}")
    output.note(f"Reading {data} …")
    run = EvaluationRun(
        client,
        evaluation_id or new_job_id(wanted.name),
        wanted,
        prepare(wanted, data, exemplars=exemplars, limit=limit),
        request.spec,
        limit=limit,
        placement=request.placement,
    )
    scores, code = _finished(run, output, unsafe=unsafe_code)
    if page:
        _write_page(run, scores, page, samples, output)
    _show(scores, output)
    raise typer.Exit(code)


def _finished(run: EvaluationRun, output: Output, *, unsafe: bool) -> tuple[Scores, int]:
    """Do what is left to do of an evaluation; return its table and an exit code.

    Raises:
        typer.Exit: a job has failed.
    """
    from jobs.cli.watch import follow
    from jobs.evaluation.programs import ProgramRunner

    again = f"the same command with --id {run.evaluation.evaluation_id} goes on"
    if (scores := run.stored()) is not None:
        output.note("This evaluation has ended before; nothing is computed.")
        return scores, Exit.OK
    runner = None
    if run.has_programs() and run.record.programs() is None:
        output.note("Checking the sandbox for programs …")
        settings = run.client.settings
        runner = ProgramRunner(
            run.client.submitter(), settings.root, unsafe=unsafe, allowed_buckets=settings.allowed_buckets
        )
        runner.check()
    jobs = run.submit()
    output.note(f"Evaluation {run.evaluation.evaluation_id}: {', '.join(f'job {job.id}' for job in jobs.values())}")
    output.note(f"If this is interrupted, {again}.")
    codes = []
    for job in jobs.values():
        codes.append(follow(job, output))
        signals.stands(f"The jobs go on; {again}.")
    if any(code not in (Exit.OK, Exit.GATE_CROSSED) for code in codes):
        output.note(f"There is no table, because a job has not succeeded; {again}.")
        raise typer.Exit(next(code for code in codes if code not in (Exit.OK, Exit.GATE_CROSSED)))
    if runner is not None:
        output.note("Running the programs …")
        report = runner.run(run.evaluation.evaluation_id, jobs["generate"].id)
        output.note(f"{report.passed:,} of {report.programs:,} programs have passed their tests.")
    return run.finish(jobs), max(codes)


def _show(scores: Scores, output: Output) -> None:
    from jobs.evaluation.running import warnings_of
    from jobs.evaluation.table import COLUMNS, SUBJECT_COLUMNS, as_json, rows_of, subject_rows_of

    if output.format is Format.JSON:
        output.record(as_json(scores))
    elif output.format is Format.QUIET:
        output.value(scores.evaluation_id)
    else:
        output.table(rows_of(scores), COLUMNS)
        if subjects := subject_rows_of(scores):
            output.text("\n")
            output.table(subjects, SUBJECT_COLUMNS)
    for warning in warnings_of(scores):
        output.warn(warning)


def _write_page(run: EvaluationRun, scores: Scores, target: str, samples: int, output: Output) -> None:
    from jobs.evaluation.page import render_page
    from jobs.results.targets import open_target

    page = render_page(run, scores, num_samples=samples)
    with open_target(target, signals.stands) as file:
        file.write(page.encode())
    output.note(f"Page: {target}")
