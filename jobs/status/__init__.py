"""The state of a job, derived from its ledger, and its display."""
