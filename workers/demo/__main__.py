"""`make demo`: one job from dataset to answers, with the commands that a person would type."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from jobs.cli.output import Output
from workers.demo.dataset import is_right, write_dataset

COMMAND = Path(sys.executable).with_name("batchjobs")
COMMAND_SHOWN = shlex.quote(os.path.relpath(COMMAND))
"""The program as it can be typed in the folder of the demo, whatever PATH is."""

MODEL = Path(__file__).with_name("model")
ROWS, SEED, SHOWN = 1000, 7, 8


def main(folder: Path = Path(".demo")) -> int:
    """Run the demo; return the exit code."""
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    dataset, answers = folder / "questions.parquet", folder / "answers.parquet"
    write_dataset(dataset, ROWS, SEED)
    print(f"A dataset of {ROWS} questions with known answers: {dataset}\n")
    submitted = _jobs(
        "submit",
        str(dataset),
        "--model",
        str(MODEL),
        "--replicas",
        "2",
        "--max-tokens",
        "48",
        "--keep",
        "task,expected",
        "--json",
    )
    job_id, dashboard = (json.loads(submitted)[name] for name in ("job_id", "dashboard"))
    _jobs("watch", job_id, capture=False)
    _jobs("results", job_id, str(answers), capture=False)

    rows = pq.read_table(answers).to_pylist()
    print()
    Output().table(rows[:SHOWN], ["task", "expected", "generated_text", "status"])
    right = sum(is_right(row["expected"], row["generated_text"] or "") for row in rows)
    took_s = time.monotonic() - began
    print(f"\n{right} of {len(rows)} answers are right ({right / len(rows):.1%}), {took_s:.0f} s in all.")
    print(f"\nResults    {answers}\nDashboard  {dashboard}\nNext       {COMMAND_SHOWN} status {job_id}")
    print(f"           {COMMAND_SHOWN} list\n           {COMMAND_SHOWN} cluster down")
    print("           source .venv/bin/activate   # puts batchjobs on PATH")
    return 0 if len(rows) == ROWS else 1


def _jobs(*arguments: str, capture: bool = True) -> str:
    """Show a command as it would be typed, run it, and return its output if that is not shown."""
    print(f"$ {COMMAND_SHOWN} {shlex.join(arguments)}", flush=True)
    done = subprocess.run([COMMAND, *arguments], check=False, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
