"""What runs on a laptop: command line, client, planner, ledger, object store. Never imports `workers`."""

__version__ = "0.1.0"
