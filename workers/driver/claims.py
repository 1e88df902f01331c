"""Claims of submissions: which process of this machine drives one, and how it and the submission's entrypoint meet.

A pool gives a new submission to a driver that waits, ready, a second or two before Ray has started the submission's
entrypoint. Each submission has a folder with two files: `driver`, made by whoever comes first, which drives, and
`entrypoint`, made by an entrypoint that comes second and lives as long as its driver. Both are locked for as long as
their processes live, and the kernel gives a lock back however a process ends.

Loads the standard library only: an entrypoint that comes second needs nothing else.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree

KILLED = 128 + signal.SIGKILL
"""Exit code of a process that was killed, as a shell gives it."""

BEGIN_S = 5.0
"""Longest wait for a driver that was just given a submission to say who it is."""

LOOK_S = 0.1


class Claim:
    """The claim of one submission, on the machine where Ray starts its entrypoint.

    Args:
        cluster: address of the cluster as Ray gives it to drivers (`RAY_ADDRESS`).

    Raises:
        OSError: it can't be kept: no place for it, or somebody else's folder is there.
    """

    def __init__(self, cluster: str, submission_id: str) -> None:
        base = Path(tempfile.gettempdir()) / f"nightbatch-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        if base.is_symlink() or base.stat().st_uid != os.getuid():
            raise PermissionError(f"{base} belongs to somebody else")
        self.folder = base / sha256(f"{cluster} {submission_id}".encode()).hexdigest()[:32]
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._driver, self._entrypoint = self.folder / "driver", self.folder / "entrypoint"

    def take(self) -> int | None:
        """Take the claim. Returns the open file of the driver, which is locked until all who hold it have closed it or
        died; None if it was taken before."""
        return self._appear(self._driver)

    @property
    def attended(self) -> bool:
        """Whether the entrypoint has come second, or has come and gone."""
        return self._entrypoint.exists() or not self.folder.exists()

    def stop(self) -> None:
        """Tell the driver to stop (SIGTERM), as soon as it has said who it is."""
        deadline = time.monotonic() + BEGIN_S
        while not (said := self._said()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        with suppress(ProcessLookupError, IndexError):
            os.kill(int(said[0]), signal.SIGTERM)

    def drop(self) -> None:
        """Forget the claim: the submission has ended."""
        rmtree(self.folder, ignore_errors=True)

    # -- for the driver -------------------------------------------------------------------------

    @staticmethod
    def begin(driver: int) -> None:
        """Say who drives.

        Args:
            driver: what `take` has returned; another process may have passed it on.
        """
        os.pwrite(driver, f"{os.getpid():>20}".encode(), 0)

    @staticmethod
    def end(driver: int, code: int) -> None:
        """Leave the exit code to the entrypoint, which may not have started yet."""
        os.pwrite(driver, f"{code:>20}".encode(), 20)

    def await_entrypoint_end(self, patience_s: float) -> bool:
        """Wait until the entrypoint has ended, which is before the driver has; return whether it had ever started.

        Args:
            patience_s: longest wait for its start.
        """
        deadline = time.monotonic() + patience_s
        while not self._entrypoint.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        with self._entrypoint.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        return True

    # -- for the entrypoint ---------------------------------------------------------------------

    def attend(self) -> int | None:
        """Wait for the end of the driver, and pass SIGTERM on to it; return its exit code.

        Returns None if it has died before it began: whoever attends is the driver then.
        """
        self._appear(self._entrypoint)  # open, and so locked, until this process ends
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        with self._driver.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        match self._said():
            case []:
                return None
            case [_, code]:
                return int(code)
            case _:
                return KILLED

    def _said(self) -> list[str]:
        """Return what the driver has said: nothing, its pid, or pid and exit code."""
        try:
            return self._driver.read_text().split()
        except FileNotFoundError:
            return []

    def _appear(self, path: Path) -> int | None:
        """Make a file that is locked from the moment it can be seen; None if it is there already."""
        unseen = path.with_suffix(f".{os.getpid()}")
        file = os.open(unseen, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.link(unseen, path)
        except FileExistsError:
            os.close(file)
            return None
        finally:
            unseen.unlink()
        return file
