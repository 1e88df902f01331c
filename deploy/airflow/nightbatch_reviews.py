"""An Airflow DAG: every day one job over that day's dataset, followed without holding a worker slot.

It needs Airflow 3, and `nightbatch` in the workers' environment; root, cluster and token come from JOBS_ROOT,
JOBS_ADDRESS and JOBS_TOKEN_PATH there. A job's id has the day in it, so a task that is retried or cleared attaches to
the job that is there, and what is done is never computed again. A run that is ended in Airflow leaves its job running:
`batchjobs cancel ID` ends it.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.exceptions import AirflowFailException
from airflow.sdk import PokeReturnValue, dag, task

DATASET = "s3://bucket/reviews/{day}/"
MODEL = "/models/internlm2_5-20b-chat"


@dag(
    schedule="0 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    default_args={"retries": 5, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": True},
)
def nightbatch_reviews() -> None:
    """Submit, wait, and hand the address of the results on."""

    @task
    def submit(ds: str) -> str:
        """Submit the day's job, or attach to it. Store and cluster may be away for a while: then it is retried."""
        from jobs import BatchClient, JobsError
        from jobs.errors import ClusterError, StoreError

        try:
            job = BatchClient().submit(
                DATASET.format(day=ds),
                job_id=f"reviews-{ds}",
                model=MODEL,
                template="Summarise in one sentence: {{ text }}",
                keep=["product"],
                max_tokens=64,
                replicas="1..8",
            )
        except (StoreError, ClusterError):
            raise
        except JobsError as error:
            raise AirflowFailException(str(error)) from error
        return job.id

    @task.sensor(poke_interval=60, timeout=12 * 3600, mode="reschedule")
    def results(job_id: str) -> PokeReturnValue:
        """Give the address of the results once every row has one; resume a job that was interrupted."""
        from jobs import BatchClient

        job = BatchClient().job(job_id)
        status = job.status()
        if status.state in ("FAILED", "CANCELLED", "GATE_FAILED"):
            raise AirflowFailException(f"Job {job_id}: {status.state}. See `batchjobs status {job_id}`.")
        if status.state == "INTERRUPTED":
            job.resume()
        return PokeReturnValue(is_done=status.state == "SUCCEEDED", xcom_value=f"{job.uri}/results/")

    @task
    def publish(address: str) -> None:
        """Stand for what comes next: any reader of Parquet takes the address."""
        print(f"The day's answers are at {address}")

    publish(results(submit()))


nightbatch_reviews()
