"""`jobs config`: each setting, its value, and where that came from."""

from __future__ import annotations

import os

from jobs.cli.output import Format, Output, with_output
from jobs.shell import MARK
from schemas.environment import SUBMISSION_ID

_ELSEWHERE = {"JOBS_STATE_DIR", "JOBS_FAILPOINT_DIR", MARK, SUBMISSION_ID}
"""Variables of ours that are no settings."""


@with_output
def show_config(out: Output) -> None:
    """Show every setting and where its value comes from.

    Flags override environment variables (JOBS_ROOT, …), which override jobs.toml (the working directory's, else
    the user's), which overrides defaults.

    Example:

      jobs config --json
    """
    from jobs import settings

    explained = settings.explain()
    if out.format is Format.JSON:
        out.record({each.name: {"value": each.value, "source": each.source} for each in explained})
    else:
        out.table([each._asdict() for each in explained], ["name", "value", "source"])
    known = _ELSEWHERE | {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(settings.PREFIX) and variable not in known:
            out.warn(f"{variable} is set, but no setting has that name.")
