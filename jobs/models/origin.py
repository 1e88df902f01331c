"""InternEvo ("Origin") checkpoints: their conversion to the form in which models are downloaded.

The conversion needs torch, so it runs as a program of its own: `python -m workers.origin`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import signals
from jobs.errors import InvalidModel, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginOptions:
    """What an Origin checkpoint does not hold, or may not say.

    Attributes:
        config: `config.json` of the model in Hugging Face's form: the checkpoint knows neither positions nor scaling.
        tokenizer: `tokenizer.model` of the model.
        qk_interleaved, norm_head, qkv_fusion: as `workers.origin.settings.Meaning`; None: as `model_config.pt` says.
    """

    config: Path | None = None
    tokenizer: Path | None = None
    qk_interleaved: bool | None = None
    norm_head: bool | None = None
    qkv_fusion: bool | None = None


def is_origin(source: Path) -> bool:
    """Return whether a directory has the files that InternEvo writes, and no others that could be used instead."""
    written = any(source.glob("model_tp*_pp*.pt")) or any(source.glob("model_wp*_pp*.pt"))
    return (written or (source / "model_config.pt").is_file()) and not any(source.glob("*.safetensors"))


def convert_origin(source: Path, work: Path, options: OriginOptions, *, report: Callable[[str], None]) -> None:
    """Write a checkpoint to `work`, an empty directory, as if it were a download of the same model.

    Raises:
        UsageError: an option is missing, or this environment has no torch.
        InvalidModel: the checkpoint is incomplete, is another model than `config.json`, or needs code to be loaded.
    """
    if options.config is None or options.tokenizer is None:
        raise UsageError(
            f"{source} is an InternEvo ('Origin') checkpoint, which has neither a config.json nor a tokenizer.",
            "Give those of the same model: --config config.json --tokenizer tokenizer.model.",
        )
    for file in (options.config, options.tokenizer):
        if not file.is_file():
            raise UsageError(f"There is no file {file}.", "Give the config.json and tokenizer.model of the same model.")
    if importlib.util.find_spec("torch") is None:
        raise UsageError("An InternEvo checkpoint can only be converted where torch is installed.", "pip install torch")
    shutil.copyfile(options.config, work / "config.json")
    shutil.copyfile(options.tokenizer, work / "tokenizer.model")
    meaning = {name: value for name, value in asdict(options).items() if name not in ("config", "tokenizer")}
    command = [sys.executable, "-m", "workers.origin", str(source), str(work), json.dumps(meaning)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with signals.leftover(process.kill):
            _follow(process, report)
    finally:
        process.kill()
        process.wait()


def _follow(process: subprocess.Popen[str], report: Callable[[str], None]) -> None:
    """Pass on the steps of the conversion until it ends.

    Raises:
        InvalidModel: it has failed.
    """
    assert process.stdout is not None
    for text in process.stdout:
        line = json.loads(text)
        if "error" in line:
            raise InvalidModel(line["error"], line["hint"])
        report(line["step"])
    if code := process.wait():
        raise InvalidModel(
            f"The conversion ended with exit code {code}.", "See its output above; is there enough memory and disk?"
        )
