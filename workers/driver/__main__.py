"""`python -m workers.driver <job uri> [<pool>]`: the entrypoint that Ray starts.

A pool may have given the job to a driver of its own already: then this process only lives as long as that one. So
little is loaded before that is known.
"""

from __future__ import annotations

import os
import signal
import sys

from schemas.environment import SUBMISSION_ID
from workers.driver.claims import KILLED, Claim


def main(job_uri: str, pool: str | None = None) -> int:
    """Drive the job, or attend the driver that does. Returns the exit code that Ray sees."""
    claim: Claim | None = None
    submission_id, cluster = os.environ.get(SUBMISSION_ID), os.environ.get("RAY_ADDRESS")
    if pool is not None and submission_id and cluster:
        try:
            claim = Claim(cluster, submission_id)
            if claim.take() is None and (code := claim.attend()) is not None:
                claim.drop()
                if code == KILLED:  # Ray is to see what it would have seen of the driver itself
                    os.kill(os.getpid(), signal.SIGKILL)
                return code
        except OSError as error:
            print(f"the pool's drivers cannot be asked: {error}", file=sys.stderr)
    from jobs.dataset import decoder

    decoder.prepare()  # first: staging needs it, and it imports for as long as this process does
    from workers.driver.process import drive

    code = drive(job_uri)
    if claim is not None:
        claim.drop()
    return code


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    # Ray Data's threads and a cancelled staging must not delay the exit of a finished job.
    os._exit(code)
