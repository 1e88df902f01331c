"""The sandbox: what a program in it can do, what it cannot, and that there is none without bubblewrap."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.evaluation.extraction import extract
from jobs.evaluation.layouts import read_humaneval
from jobs.evaluation.questions import Question
from tests.support import benchmarks
from tests.support.sandboxes import why_no_sandbox
from workers.sandbox import execution, seccomp
from workers.sandbox.execution import Ending, NoSandbox, check_sandbox, execute


@pytest.fixture(scope="module")
def sandbox() -> None:
    if why := why_no_sandbox():
        pytest.skip(f"no sandbox on this machine: {why}")


def test_a_program_passes_if_it_raises_nothing(sandbox: None) -> None:
    assert execute("import math, typing, hashlib, heapq\nassert math.sqrt(4) == 2\nprint('x' * 10**6)") == Ending(
        "passed"
    )
    assert execute("assert 1 == 2") == Ending("failed", "AssertionError")
    assert execute("def f(:") == Ending("failed", "SyntaxError")
    assert execute("raise SystemExit(0)") == Ending("failed", "SystemExit")
    assert execute("import os\nos._exit(0)") == Ending("killed")
    assert execute("input()") == Ending("failed", "EOFError")


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos.fork()",
        "import threading\nthreading.Thread(target=print).start()",
        "import subprocess\nsubprocess.run(['true'])",
        "import ctypes\nassert ctypes.CDLL(None, use_errno=True).syscall(435, 0, 0) != -1",
        "import os\nos.listdir('/proc/1')",
        "open('/etc/passwd').read()",
        "open('/root/x', 'w')",
        "open('/usr/x', 'w')",
        "open('/dev/x', 'w')",
        "open('/dev/shm/x', 'w')",
        "import os\nos.mkdir('/x')",
        "value = open('/proc/sys/vm/swappiness').read()\nopen('/proc/sys/vm/swappiness', 'w').write(value)",
        "import os\nos.listdir('/home')",
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)",
        "open('/tmp/x', 'wb').write(bytes(17 * 2**20))",
        "for n in range(9):\n    open(f'/tmp/{n}', 'wb').write(bytes(8 * 2**20))",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "x = bytes(3 * 2**30)",
        "import os\nassert 'NIGHTBATCH_SECRET' in os.environ",
        "files = [open('/dev/null') for _ in range(100)]",
    ],
)
def test_what_a_program_cannot_do(sandbox: None, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTBATCH_SECRET", "x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = execute(program.replace("{port}", str(server.getsockname()[1])))
    assert ending.outcome == "failed", ending


def test_time_is_limited(sandbox: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CPU_S", 0.3)
    assert execute("while True:\n    pass") == Ending("timeout")
    # One that catches everything is ended by the limit of its process.
    monkeypatch.setattr(execution, "_LIMITS", execution._LIMITS | {"RLIMIT_CPU": 1})
    stubborn = (
        "n = 0",
        "while True:",
        "  try:",
        "    while True:",
        "      n += 1",
        "  except BaseException:",
        "    n = 0",
    )
    assert execute("\n".join(stubborn)) == Ending("killed")
    monkeypatch.setattr(execution, "WALL_S", 1.0)
    assert execute("import time\ntime.sleep(60)") == Ending("timeout")


def test_nothing_is_left_of_a_program_that_was_stopped(sandbox: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "WALL_S", 1.0)
    assert execute("marker = 'nightbatch-sleeper'\nimport time\ntime.sleep(60)") == Ending("timeout")
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and b"program-" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_there_is_no_sandbox_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoSandbox, match="bubblewrap"):
        check_sandbox()


def test_programs_are_not_run_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.sandbox.__main__ import run_programs

    monkeypatch.setenv("PATH", "/nowhere")
    said = run_programs(["open('/tmp/nightbatch-was-here', 'w')"], sandboxed=True)
    assert "bubblewrap (the program bwrap) is not installed" in said
    assert not Path("/tmp/nightbatch-was-here").exists()
    assert run_programs(["assert True", "assert False"], sandboxed=False) == [
        ("passed", ""),
        ("failed", "AssertionError"),
    ]


def test_a_sandbox_that_lets_programs_out_is_none(sandbox: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "filter_bytes", lambda: struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    with pytest.raises(NoSandbox, match="could do what it must not"):
        check_sandbox()


def test_without_a_sandbox_the_limits_hold() -> None:
    assert execute("x = 1", sandboxed=False) == Ending("passed")
    assert execute("x = bytes(3 * 2**30)", sandboxed=False) == Ending("failed", "MemoryError")
    assert execute(
        "import os\nassert set(os.environ) - {'LC_CTYPE'} == {'PATH', 'HOME', 'LANG', 'PYTHONHASHSEED'}",
        sandboxed=False,
    ) == Ending("passed")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_allows_all_but_its_calls(machine: str) -> None:
    """Run the filter as the kernel does."""
    architecture, refused = seccomp._ARCHITECTURES[machine]
    steps = list(struct.iter_unpack("=HBBI", seccomp.filter_bytes(machine)))

    def verdict(number: int, arch: int = architecture) -> int:
        place, loaded = 0, 0
        while True:
            code, yes, no, value = steps[place]
            place += 1
            if code == 0x20:
                loaded = {0: number, 4: arch}[value]
            elif code == 0x15:
                place += yes if loaded == value else no
            elif code == 0x35:
                place += yes if loaded >= value else no
            else:
                return int(value)

    assert {number for number in range(600) if verdict(number) != 0x7FFF0000} == {*refused, 435}
    assert verdict(1) == 0x7FFF0000
    assert verdict(1 | 0x40000000) == verdict(435) == 0x00050001
    assert verdict(1, arch=0x40000003) == 0x80000000


def _programs(questions: Iterator[tuple[Question, str]]) -> list[str]:
    return [f"{each.before}{extract('code', answer).answer}{each.after}" for each, answer in questions]


def _outcomes(programs: list[str]) -> list[str]:
    with ThreadPoolExecutor(2) as threads:
        return [ending.outcome for ending in threads.map(execute, programs)]


def test_answers_that_are_right_pass_and_others_do_not(sandbox: None, tmp_path: Path) -> None:
    benchmarks.write_humaneval(tmp_path / "openai_humaneval", 4, random.Random(1))
    path = next((tmp_path / "openai_humaneval").rglob("*.parquet"))
    right = pq.read_table(path)["canonical_solution"].to_pylist()
    questions = list(read_humaneval(tmp_path).questions)
    assert _outcomes(_programs(zip(questions, right, strict=True))) == ["passed"] * 4
    fenced = [f"So:\n```python\n{each.before}{answer}```" for each, answer in zip(questions, right, strict=True)]
    assert _outcomes(_programs(zip(questions, fenced, strict=True))) == ["passed"] * 4
    assert _outcomes(_programs((each, "    return None\n") for each in questions)) == ["failed"] * 4
