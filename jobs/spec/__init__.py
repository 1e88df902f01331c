"""Building a job's spec from options and files, and checking it before submission."""
