"""The driver: one process per job that stages, dispatches and finishes it."""
