"""What is kept and for how long: deletion of jobs, what protects them from it, and policies."""
