"""The commands of the README and of `jobs/README.md`, run as they stand there: what they show is what comes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import COMMAND, User
from tests.support.terminal import Terminal
from workers.demo.dataset import write_dataset

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
GUIDE = (REPOSITORY / "jobs/README.md").read_text()

pytestmark = pytest.mark.timeout(600)

PLACEHOLDERS = {
    "NAME": "shared",
    "data.parquet": "questions.parquet",
    "DIR": "model",
    "ID": "questions",
    "A": "questions",
    "B": "again",
}


def section(title: str, page: str = README) -> str:
    """The text of a section of a page, without its title."""
    return re.split(r"^## ", page.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def steps(text: str) -> dict[str, list[str]]:
    """Commands of a transcript, `$ command`, with the lines that follow each."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^    (.*)$", text, flags=re.MULTILINE):
        if line.startswith("$ "):
            found[line.removeprefix("$ ")] = []
        else:
            next(reversed(found.values())).append(line)
    return found


def fences(title: str, language: str, page: str = README) -> str:
    """The one block of code of that language in a section."""
    [code] = re.findall(rf"^```{language}\n(.*?)^```", section(title, page), flags=re.MULTILINE | re.DOTALL)
    return str(code)


def shape(line: str) -> str:
    """A line without what differs from machine to machine: paths, numbers, widths."""
    line = re.sub(r"(http:/)?/\S+", "<path>", line)
    line = re.sub(r"[━╸╺]+", "━", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+", "#", line)).strip()


class Reader:
    """Somebody who reads the README at a shell, in a directory with the dataset and the model that it speaks of."""

    def __init__(self, user: User, directory: Path) -> None:
        self.user, self.directory = user, directory
        write_dataset(directory / "questions.parquet", 1000, 7)
        (directory / "model").symlink_to(REPOSITORY / "workers/demo/model")
        user.env = {**user.env, "PATH": f"{Path(COMMAND).parent}:{user.environment()['PATH']}"}

    def types(self, command: str, *, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a line in bash with the start-up line of the README; stdout and stderr are in `stdout`."""
        start = re.search(r'^    (eval ".*?")', README, flags=re.MULTILINE)
        assert start
        return subprocess.run(
            ["bash", "-c", f"{start[1]}\n{command}"],
            cwd=self.directory,
            env=self.user.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture
def reader(user: User, tmp_path: Path) -> Reader:
    return Reader(user, tmp_path)


@pytest.fixture
def terminal(reader: Reader) -> Iterator[Terminal]:
    environment = {name: value for name, value in reader.user.environment().items() if name not in ("NO_COLOR",)}
    opened = Terminal(reader.directory, environment)
    yield opened
    opened.close()


@pytest.mark.vllm
@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux: apt-get install tmux")
def test_the_tour_shows_what_comes(reader: Reader, terminal: Terminal) -> None:
    submit, watch, results, pool, pooled = steps(section("A 60-second tour")).items()

    done = reader.types(submit[0])
    assert done.returncode == 0, done.stdout
    assert [shape(line) for line in done.stdout.splitlines()] == [shape(line) for line in submit[1] if line]

    terminal.type('eval "$(batchjobs shell-init bash)"; clear', "Enter")
    terminal.type(f"{watch[0]}; echo code=$?", "Enter")
    expected = {shape(line) for line in watch[1] if line}
    assert len(expected) == 6
    deadline = time.monotonic() + 120
    while missing := expected - {shape(line) for line in terminal.screen().splitlines()}:
        assert time.monotonic() < deadline, f"never seen: {missing}\n{terminal.screen()}"
        time.sleep(0.1)
    terminal.until("code=0", timeout_s=240)

    done = reader.types(results[0])
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [line.split() for line in results[1] if line]

    try:
        done = reader.types(pool[0])
        assert [done.stdout.strip()] == [line for line in pool[1] if line]
        time.sleep(5)  # a pool that is up prepares a driver
        done = reader.types(pooled[0])
        said = [shape(line) for line in done.stdout.splitlines() if line]
        assert said == [shape(line) for line in pooled[1] if line], done.stdout
    finally:
        reader.types("jobs pool down tour")


@pytest.mark.nightly
def test_every_command_of_the_table_works(reader: Reader) -> None:
    reader.user.env = {**reader.user.env, "JOBS_ENGINE": "fake"}
    for job_id in ("questions", "again"):
        done = reader.types(f"jobs submit questions.parquet --id {job_id} --keep task --wait")
        assert done.returncode == 0, done.stdout
    rows = re.findall(r"^\| ([^|]+) \| (`jobs .*|`id=.*) \|$", section("A 60-second tour"), flags=re.MULTILINE)
    assert len(rows) >= 13
    wrong = []
    for _, cell in rows:
        for command in re.findall(r"`((?:jobs|id=)[^`]*)`", cell):
            for name, value in PLACEHOLDERS.items():
                command = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", value, command)
            done = reader.types(command)
            if done.returncode != 0 or "Traceback" in done.stdout:
                wrong.append(f"$ {command}\n{done.stdout}\nexit code {done.returncode}")
    assert not wrong, "\n\n".join(wrong)


def test_the_python_example_runs(reader: Reader) -> None:
    code = fences("From Python", "python")
    assert 'model="/models/internlm2_5-20b-chat"' in code
    code = code.replace("/models/internlm2_5-20b-chat", "model") + "print(frame.shape, list(frame.columns))\n"
    env = {**reader.user.environment(), "JOBS_ENGINE": "fake"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=reader.directory, env=env, text=True, capture_output=True, timeout=300
    )
    assert done.stdout == "(1000, 2) ['task', 'generated_text']\n", done.stdout + done.stderr


def test_a_schedule_is_made_and_kept_as_shown(reader: Reader, s3_user: User) -> None:
    text = section("Every night", GUIDE)
    reader.user.root = s3_user.root
    reader.user.env = {**reader.user.env, "HOOK_SECRET": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}
    spec = fences("Configuration", "toml", GUIDE)
    (reader.directory / "nightly.toml").write_text(spec)
    [create] = re.findall(r"^    (batchjobs schedule create .*?[^\\])$", text, flags=re.MULTILINE | re.DOTALL)
    # The place of the export is tried, so it must be there.
    create = create.replace("s3://bucket/", f"s3://{s3_user.root.split('/')[2]}/")
    done = reader.types(re.sub(r"^    ", "", create, flags=re.MULTILINE))
    assert done.returncode == 0, done.stdout
    for command in ("list", "show NAME", "suspend NAME", "resume NAME", "render NAME", "render NAME --for systemd"):
        assert command.split()[0] in text
        done = reader.types(f"jobs schedule {command.replace('NAME', 'nightly')}")
        assert done.returncode == 0, done.stdout
    done = reader.types("jobs schedule latest nightly -q")
    assert done.returncode == 1, "no good night yet"
    assert reader.types("jobs schedule delete nightly").returncode == 0


def test_settings_are_those_of_the_table(reader: Reader) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(JOBS_\w+)` \|", section("Configuration", GUIDE), flags=re.MULTILINE)
    known = reader.user.json("config")
    assert set(known) == {name for name, _ in rows}
    for name, variable in rows:
        assert variable == f"JOBS_{name.upper()}"
