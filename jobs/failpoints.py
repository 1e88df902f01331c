"""Named places where tests can kill a process, one after the other.

Nothing happens unless JOBS_FAILPOINT_DIR names a directory when the process starts. A file there with a failpoint's
name arms it: the first process to reach the failpoint takes the file away and kills itself with SIGKILL, as the kernel
or a lost machine would.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

FAILPOINTS = (
    "submit.before_spec",
    "submit.after_spec",
    "submit.after_start",
    "cancel.before_record",
    "cancel.after_record",
    "pause.before_record",
    "pause.after_record",
    "driver.start",
    "driver.after_record",
    "driver.before_delete_staged",
    "driver.before_exit",
    "driver.plan_stands",
    "driver.shard_staged",
    "driver.shard_committed",
    "driver.before_finish",
    "ledger.before_plan",
    "ledger.after_plan",
    "ledger.before_terminal",
    "ledger.after_terminal",
    "ledger.before_success",
    "ledger.after_success",
    "staging.before_tokenise",
    "staging.before_write",
    "staging.after_write",
    "staging.before_commit",
    "staging.after_commit",
    "replica.before_load",
    "replica.after_load",
    "replica.before_attempt",
    "replica.after_attempt",
    "replica.before_rows",
    "replica.after_rows",
    "replica.before_commit",
    "replica.after_commit",
    "replica.before_salvage",
    "replica.after_salvage",
    "limit.before_commit",
    "limit.after_commit",
    "store.before_link",
    "delete.before_tombstone",
    "delete.after_tombstone",
    "delete.after_spec",
    "delete.before_rest",
    "delete.after_rest",
    "export.before_look",
    "export.before_rows",
    "export.after_rows",
    "export.delta.before_commit",
    "export.iceberg.before_commit",
    "export.after_commit",
    "export.directory.written",
    "export.directory.marked",
    "export.before_record",
    "export.after_record",
    "schedule.before_open",
    "schedule.after_open",
    "schedule.before_submit",
    "schedule.before_resume",
    "schedule.before_publish",
    "schedule.published",
    "schedule.before_settle",
    "schedule.after_settle",
    "schedule.after_send",
)
"""All names, in the order in which a job passes them."""

_directory = os.environ.get("JOBS_FAILPOINT_DIR")


def failpoint(name: str) -> None:
    """Die here if this failpoint is armed."""
    if _directory is not None:
        _hit(Path(_directory) / name)


def _hit(armed: Path) -> None:
    assert armed.name in FAILPOINTS, armed.name
    try:
        # Atomic: of all processes that reach the failpoint, exactly one dies.
        armed.rename(armed.with_name(f"{armed.name}.hit-{os.getpid()}"))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
