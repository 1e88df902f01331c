"""Failpoints: where they are, and that an armed one kills one process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from jobs.failpoints import FAILPOINTS

ROOT = Path(__file__).parents[2]


def test_every_failpoint_has_its_one_place_in_the_code() -> None:
    sources = [path.read_text() for folder in ("jobs", "workers") for path in (ROOT / folder).rglob("*.py")]
    used = [name for source in sources for name in re.findall(r'failpoint\("([^"]+)"\)', source)]
    assert sorted(used) == sorted(FAILPOINTS)


def test_an_armed_failpoint_kills_the_first_process_that_comes_by(tmp_path: Path) -> None:
    (tmp_path / "driver.start").touch()
    code = "from jobs.failpoints import failpoint; failpoint('submit.before_spec'); failpoint('driver.start')"
    environment = {**os.environ, "JOBS_FAILPOINT_DIR": str(tmp_path)}
    codes = [subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0]
    assert [path.name.split(".hit-")[0] for path in tmp_path.iterdir()] == ["driver.start"]
