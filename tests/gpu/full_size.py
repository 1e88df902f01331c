"""The full-size InternLM2.5-20B configuration through the command line, on one GPU, with random weights.

`python tests/gpu/full_size.py TOKENIZER.model MODEL` writes the model directory, where SentencePiece is new enough.
`python tests/gpu/full_size.py MODEL DATASET.parquet OUT [--no-kill]` submits DATASET (columns `messages`,
`custom_id`) to an embedded cluster, kills the replica once in mid-job, waits for the end and checks every row. Then
it runs a job of fixed lengths, undisturbed, for its throughput, and writes what it saw to OUT/report.json.
Needs the package installed (its entry point registers InternLM2 with vLLM) and a GPU of 80 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENDED = ("SUCCEEDED", "GATE_FAILED", "FAILED")
CONFIG: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "vocab_size": 92544,
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "bias": False,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 32768,
    "rope_theta": 50000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.5},
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
}
"""The public `config.json` of internlm/internlm2_5-20b-chat, without its remote code."""

ENGINE = ("--set", "engine.load_format=dummy", "--set", "sampling.ignore_eos=true", "--max-model-len", "4096")


def main(model: Path, dataset: Path, out: Path, *, kill: bool = True) -> None:
    """Run both jobs, or only the undisturbed one, and write the report."""
    work = Path("/tmp/full-size")
    os.environ |= {"JOBS_STATE_DIR": str(work / "state"), "JOBS_ROOT": str(work / "root"), "NO_COLOR": "1"}
    report: dict[str, Any] = {"gpu": gpu("name,memory.total"), "before": gpu("memory.used")}
    try:
        if kill:
            report["killed"] = with_a_kill(model, dataset)
            print(json.dumps(report, indent=1), flush=True)
        report["steady"] = steady(model, work)
    finally:
        (out / "driver.log").write_text(jobs("logs", "killed", check=False) + jobs("logs", "steady", check=False))
        jobs("cluster", "down", "--yes", check=False)
        time.sleep(3)
        report["after"] = gpu("memory.used")
        (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report, indent=1))


def write_model(folder: Path, tokenizer: Path) -> None:
    """A model directory without weights: the engine makes them up."""
    from jobs.models.prepare import write_configs, write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, tokenizer.read_bytes(), vocab_size=CONFIG["vocab_size"], stride=50, num_mixtures=200)
    write_configs(folder, CONFIG, chat=True)


def with_a_kill(model: Path, dataset: Path) -> dict[str, Any]:
    """A job whose replica is killed when a third of the shards is committed."""
    began = time.monotonic()
    jobs("submit", str(dataset), "--model", str(model), "--id", "killed", "--max-tokens", "64", *ENGINE, "-q")
    seen: dict[str, Any] = {}
    while (status := json.loads(jobs("status", "killed", "--json")))["state"] not in ENDED:
        progress = read("killed/_job/progress.json")
        ready = [r for r in progress.get("replicas", ()) if r["state"] == "ready"]
        if ready and "ready_s" not in seen:
            seen |= {"ready_s": elapsed(began), "processes": process_tree(ready[0]["pid"]), "used": gpu("memory.used")}
        if ready and "killed_s" not in seen and progress["shards_committed"] * 3 >= (progress["shards_total"] or 1):
            os.kill(ready[0]["pid"], 9)
            time.sleep(4)
            seen |= {"killed_s": elapsed(began), "used_after_kill": gpu("memory.used")}
        if elapsed(began) > 480:
            break
        time.sleep(1)
    return {**seen, "state": status["state"], "total_s": elapsed(began), "rows": check_rows("killed", dataset)}


def steady(model: Path, work: Path) -> dict[str, Any]:
    """Throughput of a job of 1,000 prompts of about 512 tokens, 256 generated: committed tokens over time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = [" ".join(f"{(row * 7919 + n * 104729) % 9973}" for n in range(210)) for row in range(1000)]
    pq.write_table(pa.table({"prompt": prompts}), work / "steady.parquet")
    began = time.monotonic()
    jobs(
        *("submit", str(work / "steady.parquet"), "--model", str(model), "--id", "steady", "--max-tokens", "256"),
        *(*ENGINE, "--set", "shards.target_count=16", "-q"),
    )
    ready = None
    while json.loads(jobs("status", "steady", "--json"))["state"] not in ENDED:
        replicas = read("steady/_job/progress.json").get("replicas", ())
        if ready is None and any(r["state"] == "ready" for r in replicas):
            ready = elapsed(began)
        if elapsed(began) > 300:
            break
        time.sleep(0.5)
    done, manifest = elapsed(began), read("steady/_SUCCESS")
    tokens = manifest["num_input_tokens"] + manifest["num_generated_tokens"]
    return {
        "ready_s": ready,
        "total_s": done,
        "tokens": tokens,
        "tokens_per_s_after_ready": round(tokens / (done - (ready or 0))),
        "rows": manifest["num_rows"],
    }


def check_rows(job_id: str, dataset: Path) -> dict[str, Any]:
    """Every row once, in the dataset's order."""
    import pyarrow.parquet as pq

    target = Path("/tmp/full-size/results.parquet")
    jobs("results", job_id, str(target), "--verify")
    result, source = pq.read_table(target), pq.read_table(dataset)
    return {
        "num_rows": len(result),
        "same_order": result["custom_id"].to_pylist() == source["custom_id"].to_pylist(),
        "status": sorted(set(result["status"].to_pylist())),
    }


def jobs(*arguments: str, check: bool = True) -> str:
    """Run one command of the product."""
    command = [sys.executable, "-m", "jobs", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, check=False, cwd="/tmp/full-size")
    if check and done.returncode:
        raise SystemExit(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def read(key: str) -> dict[str, Any]:
    """A JSON object of the job root, {} if there is none yet."""
    path = Path(os.environ["JOBS_ROOT"], key)
    return json.loads(path.read_text()) if path.exists() else {}


def gpu(query: str) -> str:
    """What nvidia-smi says of the GPUs that this process may use, a line each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", *(("-i", visible) if visible else ())]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


def process_tree(pid: int) -> list[str]:
    """Names of a process and all below it."""
    import psutil

    head = psutil.Process(pid)
    return [f"{p.pid} <- {p.ppid()} {' '.join(p.cmdline())[:60]}" for p in (head, *head.children(recursive=True))]


def elapsed(began: float) -> float:
    """Seconds since then."""
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    first, second, *rest = (Path(argument).absolute() for argument in sys.argv[1:] if argument != "--no-kill")
    main(first, second, rest[0], kill="--no-kill" not in sys.argv) if rest else write_model(second, first)
