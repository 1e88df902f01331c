"""A Dagster asset: the answers to one day's dataset, a job for each partition.

It needs Dagster, and `nightbatch` in the code location's environment; root, cluster and token come from JOBS_ROOT,
JOBS_ADDRESS and JOBS_TOKEN_PATH there. A job's id has the day in it, so a run that is retried attaches to the job that
is there, and what is done is never computed again. A run that is ended leaves its job running: `batchjobs cancel ID`
ends it.
"""

import dagster as dg

DATASET = "s3://bucket/reviews/{day}/"
MODEL = "/models/internlm2_5-20b-chat"


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="Europe/Berlin"),
    retry_policy=dg.RetryPolicy(max_retries=5, delay=60, backoff=dg.Backoff.EXPONENTIAL),
    kinds={"parquet"},
)
def reviews(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Submit the day's job or attach to it, resume it if it was interrupted, and wait for its results."""
    from jobs import BatchClient, GateFailed, JobFailed, JobsError
    from jobs.errors import ClusterError, StoreError

    job_id = f"reviews-{context.partition_key}"
    try:
        job = BatchClient().submit(
            DATASET.format(day=context.partition_key),
            job_id=job_id,
            model=MODEL,
            template="Summarise in one sentence: {{ text }}",
            keep=["product"],
            max_tokens=64,
            replicas="1..8",
        )
        context.log.info(f"Job {job_id} is at {job.uri}")
        status = job.wait(poll_s=30, progress=False)
    except (StoreError, ClusterError):
        raise
    except JobFailed as error:
        # A retry resumes an interrupted job. One that has ended gives its end again.
        raise dg.Failure(str(error), allow_retries=error.status.state == "INTERRUPTED") from error
    except (GateFailed, JobsError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    quality = status.quality
    return dg.MaterializeResult(
        metadata={
            "results": f"{job.uri}/results/",
            "rows": len(job.results()),
            "finish reasons": dict(quality.finish_reasons) if quality is not None else {},
        }
    )


daily = dg.build_schedule_from_partitioned_job(
    dg.define_asset_job("daily_reviews", selection=[reviews]), hour_of_day=2, minute_of_hour=0
)
defs = dg.Definitions(assets=[reviews], schedules=[daily])
