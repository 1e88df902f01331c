"""The token that clients of the server must show."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from jobs import signals
from jobs.errors import UsageError

_MIN_CHARS = 16


def default_token_path() -> Path:
    """Return the default path of the token file: beside the embedded cluster's state."""
    from jobs.cluster.embedded import state_dir

    return state_dir().parent / "serve-token"


def load_token(path: Path) -> str:
    """Return the token in a file, which is created (mode 0600) if it does not exist.

    Raises:
        UsageError: the file is unreadable or readable by others, or the token is too short to be a secret.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with signals.at_once():
            _create(path)
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot use the token file {path}: {error}.", "Give another with --token-file.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"The token file {path} can be read by other users.", f"Close it: chmod 600 {path}")
    if len(token) < _MIN_CHARS or not token.isprintable() or " " in token:
        raise UsageError(
            f"The token in {path} is not one line of at least {_MIN_CHARS} characters without spaces.",
            "Remove the file, and the server makes a new one.",
        )
    return token


def _create(path: Path) -> None:
    """Create the file with a new token, atomically, unless it exists; of two servers at once, one creates it."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"nb-{secrets.token_urlsafe(32)}\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
