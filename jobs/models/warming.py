"""Warm-up: a model is compiled once, by a program of its own, and the code is kept beside the snapshot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs import signals
from jobs.errors import JobsError, UsageError
from jobs.models.snapshot import check_model
from jobs.packages import check_packages
from schemas.spec import EngineSpec


def warm_up(model_dir: Path, engine: EngineSpec) -> dict[str, Any]:
    """Compile a model for this machine's GPU and the engine's options; return file, size and seconds.

    Raises:
        InvalidModel: the model cannot be used.
        MissingPackage: vLLM is not installed here.
        UsageError: nothing would be compiled here.
        JobsError: the engine does not start.
    """
    check_model(model_dir, weights=engine.load_format != "dummy")
    check_packages("vllm")
    if engine.enforce_eager:
        raise UsageError("With enforce_eager the engine compiles nothing.", "Leave it out of the settings.")
    command = [sys.executable, "-m", "workers.engines.warm_up", str(model_dir.resolve()), engine.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with signals.leftover(process.terminate):
            output, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    told = _last(output)
    if "error" in told:
        raise UsageError(told["error"], told["hint"])
    if process.returncode or not told:
        raise JobsError(
            f"The engine did not start: the program that compiles ended with exit code {process.returncode}.",
            "Its output above says why. Nothing was written beside the model.",
        )
    return told


def _last(output: str) -> dict[str, Any]:
    try:
        told = json.loads(output.rstrip().rpartition("\n")[2])
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
