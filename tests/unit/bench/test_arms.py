"""Processes that run arms on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.arms import Arms


def test_arms_answer_one_request_after_the_other(tmp_path: Path) -> None:
    arms = Arms(["tests.unit.bench.echo_arm"], tmp_path / "log")
    try:
        assert arms.ready == {"start_s": 1.5}
        assert arms.run("A0", Path("/data/W1")) == {"said": "A0 of /data/W1"}
        assert arms.run("A1", Path("/data/a name with spaces")) == {"said": "A1 of /data/a name with spaces"}
        with pytest.raises(RuntimeError, match="ended with 3"):
            arms.run("exit", Path())
    finally:
        arms.close()
