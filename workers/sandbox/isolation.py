"""The sandbox: bubblewrap around one process, or nothing where a person has asked for that.

Inside there is no network, no other process, no secret in the environment, and of the file system only the system's
programs and this Python, to read, and an empty `/tmp` of limited size.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.sandbox import seccomp

TMP_BYTES = 32 * 2**20
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # noqa: S108


def has_bubblewrap() -> bool:
    """Return whether this machine has bubblewrap, and a processor for which there is a filter of system calls."""
    return shutil.which("bwrap") is not None and seccomp.is_known()


def python() -> str:
    """Return this Python's own program, not that of a virtual environment, which leads to files outside the sandbox."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return os.path.realpath(base)


def environment() -> dict[str, str]:
    """Return the whole environment of a program."""
    return dict(_ENVIRONMENT)


@contextmanager
def isolated(command: list[str]) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yield a command that runs another one in the sandbox, and the descriptors that it inherits."""
    read, write = os.pipe()
    try:
        os.write(write, seccomp.filter_bytes())
        os.close(write)
        yield [*_bubblewrap(read), "--", *command], (read,)
    finally:
        os.close(read)


def _bubblewrap(filter_descriptor: int) -> list[str]:
    flags = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    for name, value in _ENVIRONMENT.items():
        flags += ["--setenv", name, value]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            flags += ["--symlink", os.readlink(path), path]
        else:
            flags += ["--ro-bind-try", path, path]
    for path in _python_paths():
        flags += ["--ro-bind", path, path]
    # No /proc: root could change the kernel's settings in it.
    flags += ["--dev", "/dev", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    # What bubblewrap itself made, the root and /dev, would be memory to write to without limit.
    flags += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*flags, "--chdir", "/tmp", "--seccomp", str(filter_descriptor)]  # noqa: S108


def _python_paths() -> list[str]:
    """Return the directories of this Python outside the system's own, and of its libraries."""
    base = sysconfig.get_config_var("installed_base") or sys.base_prefix
    places = {os.path.realpath(base), os.path.dirname(python())}
    outside = sorted(place for place in places if not place.startswith("/usr"))
    return [place for place in outside if not any(place.startswith(f"{other}/") for other in outside)]
