"""From options and files to the spec of a job, and the checks before it is submitted."""
