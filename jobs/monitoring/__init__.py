"""What the store says about schedules, jobs and batches, as Prometheus' metrics."""
