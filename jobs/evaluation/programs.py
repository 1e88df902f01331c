"""The client's side of running programs: a short Ray job on the cluster, whose last line says what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from uuid import uuid4

from jobs import __version__
from jobs.cluster.submission import ENDED, Submitter, driver_environment
from jobs.errors import ClusterError, UsageError
from jobs.looks import Looks
from schemas.evaluations import PROGRAM_MARK, ProgramsReport

_LOOK_S = 0.5


class ProgramRunner:
    """Runs the programs of an evaluation on the cluster's CPUs: see `workers.sandbox`.

    Args:
        root: where job directories live.
        unsafe: run them although no sandbox is there.
        allowed_buckets: the only buckets that the process may use; None leaves the limit to its node's settings.
    """

    def __init__(
        self, submitter: Submitter, root: str, *, unsafe: bool, allowed_buckets: Sequence[str] | None = None
    ) -> None:
        self._submitter, self._root, self._unsafe = submitter, root, unsafe
        self._environment = driver_environment(allowed_buckets)

    def check(self) -> ProgramsReport:
        """Check that a sandbox works on the cluster, before GPUs are paid for.

        Raises:
            UsageError: there is none, and `unsafe` is not set.
            ClusterError: the cluster gave no answer.
        """
        return self._run("check", [])

    def run(self, evaluation_id: str, job_id: str) -> ProgramsReport:
        """Run the programs in a job's results and store how they ended. Errors are those of `check`."""
        return self._run(evaluation_id, [evaluation_id, job_id])

    def _run(self, name: str, arguments: list[str]) -> ProgramsReport:
        options = ["--unsafe-code"] if self._unsafe else []
        submission_id = f"programs-{name}-{uuid4().hex[:6]}"
        command = f"python -m workers.sandbox {shlex.join([*options, self._root, *arguments])}"
        self._submitter.run(submission_id, command, {"job_name": "jobs eval: programs"}, self._environment)
        looks = Looks(_LOOK_S)
        while self._submitter.status(submission_id) not in ENDED:
            looks.pause()
        said = self._submitter.logs(submission_id)
        line = next((each for each in reversed(said.splitlines()) if each.startswith(PROGRAM_MARK)), None)
        if line is None:
            last = next((each for each in reversed(said.splitlines()) if each.strip()), "nothing")
            raise ClusterError(
                f"The process that runs programs on the cluster has failed. The last line of its output: {last[:300]}",
                f"Install nightbatch {__version__} in the image of the cluster's nodes; the same command goes on.",
            )
        report = ProgramsReport.from_json(line.removeprefix(PROGRAM_MARK).encode())
        if report.error:
            raise UsageError(report.error, report.hint)
        return report
