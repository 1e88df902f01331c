"""What a KV cache that is too small for the rows inside costs: vLLM's scheduler, simulated, under real plan and room.

`python -m tests.bench.paged_cache OUT.json` compares, for InternLM2.5-20B on an H100 and an H200: A0, the whole list at
once with 512 sequences; A1, chunks of 512; and ours, what enters in the plan's order through `workers.replica.room`.
The scheduler takes a row when its prompt fits; when the cache is full, it takes the newest rows out and computes them
again later (vLLM V1's rule). A step takes the time to compute its tokens, which is never less than that to read the
weights, and the time to read the cache. The five constants were fitted to what was measured (`MEASURED`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jobs.planning.facts import RowFacts
from jobs.planning.shards import split
from jobs.rows.prefixes import Prefixes
from schemas.sampling import Sampling
from schemas.spec import ShardBudget
from tests.bench.workloads import SEED, WORKLOADS, Lengths
from workers.engines.base import Completion, EngineInfo, Output
from workers.replica.room import Room
from workers.shards.outputs import Row

KV_TOKENS = {"H100": 178_000, "H200": 476_000}
NOTE = "Simulated, not measured: see tests/bench/paged_cache.py."
STEP_TOKENS, CHUNK_ROWS, A0_SEQS, SEQS = 8192, 512, 512, 1024
STEP_S, WEIGHTS_S, TOKEN_S = 5e-3, 10e-3, 60e-6
CACHED_TOKEN_S = {"H100": 75e-9, "H200": 54e-9}
RUNS = (
    *(("W1", 640), ("W2", 1280), ("W3", 384), ("W4", 2000), ("W9", 400), ("W11", 300)),
    *(("W5", 640), ("W5", 800), ("W5", 1536), ("W5", 6400)),
)
MEASURED = {
    ("H100", "W5", 640): {"A0_s": 110.0, "A1_s": 132.4},
    ("H100", "W2", 1280): {"A0_s": 61.9},
    ("H100", "W9", 400): {"A0_s": 69.4},
    ("H200", "W1", 640): {"A0_s": 66.7, "ours_s": 62.3},
    ("H200", "W2", 1280): {"A0_s": 49.9, "ours_s": 50.8},
    ("H200", "W9", 400): {"A0_s": 56.7, "ours_s": 56.1},
    ("H200", "W5", 1536): {"A0_s": 168.8, "A1_s": 185.6, "ours_s": 167.6},
    ("H200", "W5", 800): {"ours_s": 91.2},
}
"""Seconds on GPUs, medians where there are several runs; ours with the same plan and room as here. `gpu_h100.json` and
`gpu_h200.json` have the runs."""


class Run(NamedTuple):
    """Seconds that some rows took, and how often one was taken out of the cache."""

    seconds: float
    preemptions: int


@dataclass
class Scheduler:
    """vLLM's on this card, with at most so many sequences."""

    rows: list[Lengths]
    card: str
    max_num_seqs: int

    def __post_init__(self) -> None:
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.written = np.zeros(len(self.rows), np.int64)
        self.prompts = np.array([row.prompt for row in self.rows])
        self.answers = np.array([row.output for row in self.rows])
        self.seconds, self.steps, self.preemptions = 0.0, 0, 0
        self.kv_tokens = KV_TOKENS[self.card]

    def step(self) -> list[int]:
        """One step of the engine; the rows that end with it."""
        used = int((self.prompts + self.written)[self.running].sum()) + len(self.running)
        while used > self.kv_tokens and len(self.running) > 1:
            newest = self.running.pop()
            self.waiting.insert(0, newest)
            self.preemptions += 1
            used -= int(self.prompts[newest] + self.written[newest]) + 1
        room, computed = STEP_TOKENS - len(self.running), 0
        while self.waiting and len(self.running) < self.max_num_seqs:
            tokens = int(self.prompts[self.waiting[0]] + self.written[self.waiting[0]])
            if used + tokens + 1 > self.kv_tokens or computed + tokens > room:
                break
            self.running.append(self.waiting.pop(0))
            used, computed = used + tokens + 1, computed + tokens
        computing = (len(self.running) + computed) * TOKEN_S
        self.seconds += STEP_S + max(WEIGHTS_S, computing) + used * CACHED_TOKEN_S[self.card]
        self.steps += 1
        self.written[self.running] += 1
        ended = [row for row in self.running if self.written[row] >= self.answers[row]]
        self.running = [row for row in self.running if self.written[row] < self.answers[row]]
        return ended


def at_once(rows: list[Lengths], card: str) -> Run:
    """All rows handed to the engine at once."""
    engine = Scheduler(rows, card, A0_SEQS)
    engine.waiting = list(range(len(rows)))
    while engine.waiting or engine.running:
        engine.step()
    return Run(engine.seconds, engine.preemptions)


async def through_room(rows: list[Lengths], card: str) -> Run:
    """Rows enter as the room lets them, when others leave: the time after which it looks again does not pass here."""
    engine = Scheduler(rows, card, SEQS)
    room = Room(EngineInfo(max_num_seqs=SEQS, max_model_len=8192, kv_tokens=KV_TOKENS[card]), lambda: engine.steps)
    places = {}
    given = [
        Row(row_id=n, token_ids=range(r.prompt), sampling=Sampling(max_tokens=r.output)) for n, r in enumerate(rows)
    ]

    async def enter() -> None:
        for row in given:
            places[row.row_id] = await room.enter(row)
            engine.waiting.append(row.row_id)

    entering = asyncio.create_task(enter())
    await asyncio.sleep(0)
    while engine.waiting or engine.running or not entering.done():
        for ended in engine.step():
            answer = Completion(token_ids=range(rows[ended].output), finish_reason="length")
            room.learn(places[ended], Output(completions=[answer]))
            room.leave(places[ended])
        await asyncio.sleep(0)
    return Run(engine.seconds, engine.preemptions)


def in_plan_order(rows: list[Lengths]) -> list[Lengths]:
    """As the planner orders rows that share nothing."""
    facts = RowFacts(
        num_input_tokens=np.array([row.prompt for row in rows], np.int32),
        num_output_tokens=np.array([row.output for row in rows], np.int32),
        invalid=np.zeros(len(rows), np.bool_),
        prefixes=Prefixes.of_lists([[]] * len(rows)),
        same_as=np.arange(len(rows)),
    )
    return [rows[row] for row in np.argsort(split(facts, ShardBudget()).position)]


def main() -> None:
    """Simulate all workloads on both cards."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.paged_cache", description=__doc__)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    found = []
    for card in KV_TOKENS:
        for name, count in RUNS:
            rows = WORKLOADS[name].draw(np.random.default_rng([SEED, int(name[1:])]), count)
            whole = at_once(rows, card)
            chunks = [at_once(rows[start : start + CHUNK_ROWS], card) for start in range(0, count, CHUNK_ROWS)]
            ours = asyncio.run(through_room(in_plan_order(rows), card))
            found.append(
                {
                    "card": card,
                    "dataset": name,
                    "rows": count,
                    "A0_s": round(whole.seconds, 1),
                    "A0_preemptions": whole.preemptions,
                    "A1_s": round(sum(chunk.seconds for chunk in chunks), 1),
                    "ours_s": round(ours.seconds, 1),
                    "ours_preemptions": ours.preemptions,
                    "measured": MEASURED.get((card, name, count), {}),
                    "ours_over_A0": round(whole.seconds / ours.seconds, 3),
                    "ours_over_A1": round(sum(chunk.seconds for chunk in chunks) / ours.seconds, 3),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    given.out.write_text(json.dumps({"note": NOTE, "simulated": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
