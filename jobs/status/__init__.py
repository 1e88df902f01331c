"""The state of a job, derived from its ledger, and how it is shown."""
