"""Names of environment variables that more than one side reads."""

from __future__ import annotations

SUBMISSION_ID = "JOBS_SUBMISSION_ID"
"""Environment variable that tells a driver its own submission id: Ray gives it none."""


ALLOWED_BUCKETS = "JOBS_ALLOWED_BUCKETS"
