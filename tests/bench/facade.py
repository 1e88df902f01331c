"""Batches of the OpenAI façade with a pool and without: `python -m tests.bench.facade OUT.json [--batches 20]`.

One embedded cluster and one `jobs serve` for each arm; batches come one after the other through OpenAI's own client,
from the upload of the file to the end of the batch. The arms take turns, batch by batch, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.bench.machine import machine
from tests.bench.system_arm import elapsed, jobs
from workers.demo.random_model import write_random_model

POOL = "bench"
MODEL = {"hidden_size": 256, "num_layers": 4}
ENGINES: Mapping[str, tuple[str, ...]] = {
    "fake": ("--engine", "fake", "--set", "engine.fake.token_s=0.01", "--set", "engine.max_num_seqs=16"),
    "small": ("--set", "engine.max_model_len=2048"),
}
LOOK_S, DEADLINE_S, END_S = 0.25, 600.0, 60.0
ENDED = ("completed", "failed", "expired", "cancelled")


def main() -> None:
    """Parse the command line, run the batches and write what they took."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.facade", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, default=20, help="of each arm (20)")
    parser.add_argument("--own-batches", type=int, help="of the arm with engines of its own")
    parser.add_argument("--rows", type=int, default=50, help="of each batch (50)")
    parser.add_argument("--engine", choices=ENGINES, default="fake", help="small: vLLM with a small random InternLM2")
    parser.add_argument("--gpu-model", type=Path, help="on one GPU, with random weights; one arm after the other")
    given = parser.parse_args()
    own_batches = given.batches if given.own_batches is None else given.own_batches
    report: dict[str, Any] = {"machine": machine(), "engine": given.engine, "rows": given.rows}
    seconds: dict[str, list[float]] = {"own engines": [], "pool": []}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        engine = list(ENGINES[given.engine])
        if given.gpu_model:
            report["engine"] = "20B configuration"
            engine = ["--model", str(given.gpu_model), "--set", "engine.load_format=dummy"]
            engine += ["--set", "engine.max_model_len=8192"]
        elif given.engine == "small":
            write_random_model(work / "model", **MODEL)
            engine += ["--model", str(work / "model")]
        jobs("cluster", "up")
        stack.callback(jobs, "cluster", "down", "--yes", check=False)

        def measure(arm: str, client: OpenAI, number: int) -> None:
            seconds[arm].append(_batch(client, number, given.rows))
            report["seconds"] = seconds
            report["whole_s"] = {name: round(sum(took), 1) for name, took in seconds.items()}
            report["median_s"] = {name: statistics.median(took) for name, took in seconds.items() if took}
            report["machine"]["load_at_end"] = os.getloadavg()
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(arm, number, seconds[arm][-1], flush=True)

        own = stack.enter_context(_serving(work / "own", engine))
        for number in range(own_batches if given.gpu_model else 0):  # there is room for one engine
            measure("own engines", own, number)
        began = time.monotonic()
        jobs("pool", "up", POOL, *engine, "--wait", "-q")
        report["pool_up_s"] = elapsed(began)
        clients = {"own engines": own, "pool": stack.enter_context(_serving(work / "pooled", ["--pool", POOL]))}
        for number in range(given.batches):
            for arm, client in clients.items() if number % 2 else reversed(clients.items()):
                if arm == "pool" or len(seconds[arm]) < own_batches:
                    measure(arm, client, number)


def _batch(client: OpenAI, number: int, rows: int) -> float:
    """Run one batch; return the seconds from the upload to its end.

    Raises:
        SystemExit: it did not complete, or lacks rows.
    """
    model = client.models.list().data[0].id
    lines = "\n".join(
        json.dumps(
            {
                "custom_id": f"{number}-{row}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": model,
                    "messages": [{"role": "user", "content": f"Batch {number}, question {row}"}],
                    "max_tokens": 32,
                },
            }
        )
        for row in range(rows)
    )
    began = time.monotonic()
    file = client.files.create(file=("batch.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ENDED and elapsed(began) < DEADLINE_S:
        time.sleep(LOOK_S)
        batch = client.batches.retrieve(batch.id)
    took, counts = elapsed(began), batch.request_counts
    if batch.status != "completed" or counts is None or counts.completed != rows:
        raise SystemExit(f"batch {number}: {batch.status} {counts}")
    return took


@contextmanager
def _serving(folder: Path, options: list[str]) -> Iterator[OpenAI]:
    """Run `jobs serve` on a free port; yield OpenAI's client of it."""
    folder.mkdir()
    command = [sys.executable, "-m", "jobs", "serve", "--port", "0", "--json", "--token-file", str(folder / "token")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], text=True, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            said = ""
            while not said.rstrip().endswith("}"):
                if not (line := process.stdout.readline()):
                    raise SystemExit((folder / "log").read_text())
                said += line
            with OpenAI(base_url=json.loads(said)["url"], api_key=(folder / "token").read_text().strip()) as client:
                yield client
        finally:
            process.terminate()
            process.wait(END_S)


if __name__ == "__main__":
    main()
