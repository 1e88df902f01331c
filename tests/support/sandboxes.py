"""Whether this machine can have a sandbox at all: where it can, ours must work."""

from __future__ import annotations

import shutil
import subprocess

from workers.sandbox.execution import check_sandbox

_TRIAL = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true")


def why_no_sandbox() -> str:
    """Return why there can be none here, "" if ours works.

    Raises:
        NoSandbox: bubblewrap works, and ours does not.
    """
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    if subprocess.run(_TRIAL, capture_output=True, check=False).returncode:
        return "the kernel or the container forbids user namespaces"
    check_sandbox()
    return ""
