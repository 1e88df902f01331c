"""The token file: made once, for its owner only."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from jobs.errors import UsageError
from jobs.serve.token import load_token


def test_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    token = load_token(path)
    assert len(token) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_token(path) == token
    assert [each.name for each in path.parent.iterdir()] == ["token"]


def test_servers_that_start_at_once_agree(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(load_token(tmp_path / "token"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize(("text", "mode", "words"), [
    ("x" * 32, 0o644, "chmod 600"),
    ("", 0o600, "at least 16"),
    ("short", 0o600, "at least 16"),
    ("two words in this line", 0o600, "at least 16"),
    ("ü" * 32, 0o600, "Cannot use"),
])  # fmt: skip
def test_a_weak_file_is_refused(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(UsageError) as refused:
        load_token(path)
    assert words in f"{refused.value} {refused.value.hint}"
