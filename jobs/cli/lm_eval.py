"""`jobs lm-eval`: tasks of lm-evaluation-harness, computed by jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.options import Request
from jobs.cli.output import Format, Output

if TYPE_CHECKING:
    from jobs.client import Job


def lm_eval(
    output: Output,
    tasks: Annotated[
        str, typer.Argument(help="Tasks, groups or tags of the harness: arc_easy,mmlu.", show_default=False)
    ],
    *,
    request: Request,
    include_path: Annotated[
        Path | None, typer.Option("--include-path", help="Directory with tasks of your own.", show_default=False)
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", min=0, help="Examples in each prompt.", show_default=False)
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option("--limit", min=0, help="Documents of each task; below 1 a share of them.", show_default=False),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put prompts into the model's chat format.")
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option("--system-instruction", help="System message of each prompt.", show_default=False)
    ] = None,
    gen_kwargs: Annotated[
        str | None,
        typer.Option("--gen-kwargs", help="Generation options: max_gen_toks=512,temperature=0.", show_default=False),
    ] = None,
    output_path: Annotated[
        Path | None,
        typer.Option("--output-path", help="Directory for the harness' files: results, samples.", show_default=False),
    ] = None,
    evaluation_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="Beginning of the jobs' ids. Default: made of model, options and prompts.", show_default=False
        ),
    ] = None,
) -> None:
    """Evaluate a model on tasks of lm-evaluation-harness: its prompts, its numbers, its tables.

    All requests of one kind become one job: log-likelihoods, perplexities, generated texts. The same command goes on
    with jobs that were interrupted, and reads those that have ended. Needs nightbatch[eval].

    Examples:

      jobs lm-eval arc_easy,hellaswag --model /models/internlm2_5-20b --num-fewshot 5 --replicas 8

      jobs lm-eval my_task --include-path tasks/ --model DIR --limit 20 -o json
    """
    from jobs.client import BatchClient
    from jobs.evaluation.harness.run import Wanted, evaluate

    client = BatchClient(request.settings)
    client.before_cluster_start = lambda: output.note("Starting a local Ray cluster …")

    def follow(job: Job) -> int:
        from jobs.cli.watch import follow

        output.note(f"Job {job.id}")
        code = follow(job, output)
        signals.stands("Jobs that have ended stay; the same command goes on.")
        return code

    output.note("Loading lm-evaluation-harness …")
    wanted = Wanted(
        tasks=[name for name in tasks.split(",") if name],
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        gen_kwargs=gen_kwargs,
        output_path=output_path,
    )
    found = evaluate(client, request.spec, wanted, follow, evaluation_id=evaluation_id, placement=request.placement)
    if output.format is Format.JSON:
        output.record({**found.results, "job_ids": list(found.job_ids)})
    elif output.format is Format.QUIET:
        output.text("".join(f"{job_id}\n" for job_id in found.job_ids))
    else:
        for table in found.tables:
            output.text(f"{table}\n")
    for note in found.notes:
        output.warn(note)
    for job_id in found.job_ids:
        output.hint(f"jobs results {job_id}")
