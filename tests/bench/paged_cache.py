"""What a KV cache that is too small for the rows inside costs: vLLM's scheduler, simulated, under real plan and room.

`python -m tests.bench.paged_cache OUT.json` compares, for InternLM2.5-20B on an H100 and an H200: A0, the whole list at
once with 512 sequences; A1, chunks of 512; and ours, what enters in the plan's order through `workers.room`. The
scheduler takes a row when its prompt fits, and when the cache is full takes the newest rows out again and computes them
anew later (vLLM V1's rule). A step takes the time to read the weights and the cache, and for each token computed. The
four constants were fitted to one H100: there, W5 with 640 rows took A0 110 s and A1 132 s, simulated 109 and 128.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jobs.planner import RowFacts, split
from jobs.prefixes import Prefixes
from schemas.sampling import Sampling
from schemas.spec import ShardBudget
from tests.bench.workloads import SEED, WORKLOADS, Lengths
from workers.engines.base import Completion, EngineInfo, Output
from workers.outputs import Row
from workers.room import Room

KV_TOKENS = {"H100": 178_000, "H200": 412_000}
NOTE = "Simulated, not measured: see tests/bench/paged_cache.py."
STEP_TOKENS, CHUNK_ROWS, A0_SEQS, SEQS = 8192, 512, 512, 1024
WEIGHTS_S, CACHED_TOKEN_S, DECODED_TOKEN_S, PROMPT_TOKEN_S = 13.5e-3, 68e-9, 32e-6, 62e-6
RUNS = (("W1", 800), ("W2", 1280), ("W3", 384), ("W4", 2000), ("W5", 640), ("W5", 1600), ("W5", 6400), ("W9", 400))


class Run(NamedTuple):
    """Seconds that some rows took, and how often one was taken out of the cache."""

    seconds: float
    preemptions: int


@dataclass
class Scheduler:
    """vLLM's, with a cache of so many tokens and at most so many sequences."""

    rows: list[Lengths]
    kv_tokens: int
    max_num_seqs: int

    def __post_init__(self) -> None:
        self.waiting: list[int] = []
        self.running: list[int] = []
        self.written = np.zeros(len(self.rows), np.int64)
        self.prompts = np.array([row.prompt for row in self.rows])
        self.answers = np.array([row.output for row in self.rows])
        self.seconds, self.steps, self.preemptions = 0.0, 0, 0

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
        self.seconds += WEIGHTS_S + used * CACHED_TOKEN_S + len(self.running) * DECODED_TOKEN_S
        self.seconds += computed * PROMPT_TOKEN_S
        self.steps += 1
        self.written[self.running] += 1
        ended = [row for row in self.running if self.written[row] >= self.answers[row]]
        self.running = [row for row in self.running if self.written[row] < self.answers[row]]
        return ended


def at_once(rows: list[Lengths], kv_tokens: int) -> Run:
    """All rows handed to the engine at once."""
    engine = Scheduler(rows, kv_tokens, A0_SEQS)
    engine.waiting = list(range(len(rows)))
    while engine.waiting or engine.running:
        engine.step()
    return Run(engine.seconds, engine.preemptions)


async def through_room(rows: list[Lengths], kv_tokens: int) -> Run:
    """Rows enter as the room lets them."""
    engine = Scheduler(rows, kv_tokens, SEQS)
    room = Room(EngineInfo(max_num_seqs=SEQS, max_model_len=8192, kv_tokens=kv_tokens), lambda: engine.steps)
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
    for card, kv_tokens in KV_TOKENS.items():
        for name, count in RUNS:
            rows = WORKLOADS[name].draw(np.random.default_rng([SEED, int(name[1:])]), count)
            whole = at_once(rows, kv_tokens)
            chunks = [at_once(rows[start : start + CHUNK_ROWS], kv_tokens) for start in range(0, count, CHUNK_ROWS)]
            ours = asyncio.run(through_room(in_plan_order(rows), kv_tokens))
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
                    "ours_over_A0": round(whole.seconds / ours.seconds, 3),
                    "ours_over_A1": round(sum(chunk.seconds for chunk in chunks) / ours.seconds, 3),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    given.out.write_text(json.dumps({"note": NOTE, "simulated": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
