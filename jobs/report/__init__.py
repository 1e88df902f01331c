"""`jobs report`: a job on one self-contained HTML page, for people who did not follow it."""
