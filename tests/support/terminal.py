"""A person at a real terminal: a shell in a window of tmux."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from uuid import uuid4


class Terminal:
    """A shell in a window of tmux, 100 by 30 characters."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-L", f"test-{uuid4().hex[:8]}", "-f", "/dev/null"]
        start = [*self._tmux, "new-session", "-d", "-x", "100", "-y", "30", "env", "PS1=$ ", "bash", "--norc", "-i"]
        subprocess.run(start, env={**environment, "TERM": "screen"}, cwd=directory, check=True)

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def screen(self) -> str:
        """Return what the window shows."""
        return subprocess.run(
            [*self._tmux, "capture-pane", "-p"], text=True, capture_output=True, check=True
        ).stdout.rstrip()

    def until(self, *texts: str, timeout_s: float = 90) -> str:
        """Wait until the window shows all of these texts at once; return what it shows."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if all(text in (screen := self.screen()) for text in texts):
                return screen
            time.sleep(0.2)
        raise AssertionError(f"{texts} not on the screen after {timeout_s} s:\n{self.screen()}")

    def close(self) -> None:
        """End the shell and what runs in it."""
        subprocess.run([*self._tmux, "kill-server"], check=False)
