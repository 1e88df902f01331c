"""Schedules: jobs that run by the calendar, unattended. All state is in the object store."""
