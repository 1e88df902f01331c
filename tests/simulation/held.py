"""Jobs with limits, people who pause them, drained nodes: cases and histories of their own, drawn from a seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.models.encoding import BYTES_MODEL
from schemas.limits import Limits
from schemas.spec import EngineSpec, FakeSpec, InputSpec, JobSpec, ModelSpec, ReplicaRange, ShardBudget
from tests.simulation.histories import Action, Blow, Case, History, Verb, draw
from tests.simulation.seams import CANARY

LIMITED_S = 30.0
"""Time limit of the job that finishes at it: an undisturbed run takes half as long, many a disturbed one longer."""

GPU_S = 14.0
"""GPU-seconds of the job that stops at it: less than any run needs."""


def held_cases(folder: Path) -> list[Case]:
    """Build small jobs: one without limits, one that stops at a limit on GPU time, one that finishes at one on time."""
    found = []
    for name, limits in (
        ("free", Limits()),
        ("stopped", Limits(max_gpu_hours=GPU_S / 3600)),
        ("closed", Limits(finish_within_s=LIMITED_S, at_limit="finish")),
    ):
        prompts = [f"{CANARY} {name} {number}" for number in range(11)]
        prompts[1], prompts[6], prompts[10] = "", prompts[5], f"{prompts[10]} fails"
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": prompts}), path)
        spec = JobSpec(
            name=name,
            input=InputSpec(uri=str(path), chat=False),
            model=ModelSpec(path=BYTES_MODEL),
            engine=EngineSpec(
                name="fake", max_num_seqs=2, fake=FakeSpec(token_s=0.2, start_s=2.0, fail_marker="fails")
            ),
            replicas=ReplicaRange(min=1, max=2),
            shards=ShardBudget(target_count=4, min_tokens=1, max_rows=4),
            limits=limits,
            max_error_rate=1.0,
        )
        found.append(Case(spec=spec, rows=len(prompts)))
    return found


def draw_held(seed: int, cases: int) -> History:
    """Draw a seed's history: what `draw` gives it, people who pause and resume the job, and nodes that are drained."""
    drawn, random = draw(seed, cases), Random(f"held/{seed}")
    verbs: list[Verb | Blow] = ["pause", "pause", "attach", "attach", "resume", "raise", "drain", "drain"]
    more = [
        Action(
            at_s=random.uniform(2, 40),
            what=random.choice(verbs),
            cluster=random.randrange(2),
            seconds=random.choice((0.0, 5.0, 30.0, 300.0)),
        )
        for _ in range(random.randrange(1, 6))
    ]
    actions = tuple(sorted((*drawn.actions, *more), key=lambda action: action.at_s))
    return replace(drawn, case=seed % cases, actions=actions)
