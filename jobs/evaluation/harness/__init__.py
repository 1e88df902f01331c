"""lm-evaluation-harness with this system as its model: its tasks, its numbers, its tables; all requests as jobs."""
