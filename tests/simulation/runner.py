"""Runs histories by their seeds, and tells a failing one so that it can be run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset import inspect, resolve_columns
from jobs.encoding import BYTES_MODEL, load_encoder
from jobs.rows import RowPreparer
from schemas import keys
from schemas.spec import EngineSpec, FakeSpec, InputSpec, JobSpec, ModelSpec, ReplicaRange, ShardBudget
from tests.simulation.cluster import SimStaging
from tests.simulation.histories import Case, History, Run, draw
from tests.simulation.invariants import Outcome
from tests.simulation.seams import CANARY, Seams, seams
from workers.staging import max_model_len

SEED_VARIABLE = "SIMULATION_SEED"


class Broken(AssertionError):
    """A history in which something happened that must never happen."""

    def __init__(self, run: Run) -> None:
        self.violations = run.world.violations
        trace = "\n".join(run.world.trace[-80:])
        super().__init__(
            "\n".join(self.violations[:5])
            + f"\n\n{run.history}\n\nThe last steps:\n{trace}\n\n"
            + f"Run it again: {SEED_VARIABLE}={run.history.seed} python -m pytest tests/simulation"
        )


class Simulator:
    """Runs histories of a few cases."""

    def __init__(self, held: Seams, cases: list[Case]) -> None:
        self._seams = held
        self.cases = cases

    def run(self, history: History) -> tuple[Outcome, Run]:
        """Run one history.

        Raises:
            Broken: something must not be as it is.
        """
        run = Run(history, self.cases[history.case], self._seams)
        outcome = run.go()
        if run.world.violations:
            raise Broken(run)
        return outcome, run

    def run_seeds(self, seeds: Iterable[int]) -> Counter[str]:
        """Run the histories of these seeds; how often each state was the last.

        Raises:
            Broken: as `run`.
        """
        return Counter(self.run(draw(seed, len(self.cases)))[0].state for seed in seeds)


@contextmanager
def simulator(folder: Path) -> Iterator[Simulator]:
    """A simulator; the program runs in its worlds until the end of the block."""
    specs = _specs(folder)
    SimStaging.blocks = {spec.digest(): _tokenised(spec) for spec, _ in specs}
    with seams() as held:
        simulation = Simulator(held, [Case(spec=spec, rows=rows) for spec, rows in specs])
        for number, case in enumerate(simulation.cases):
            _, run = simulation.run(History(seed=0, case=number))
            results = {
                key.removeprefix("root/job/"): data
                for key, data in run.world.bucket.objects().items()
                if key.startswith(f"root/job/{keys.RESULTS}")
            }
            assert results
            simulation.cases[number] = replace(case, results=results)
        yield simulation


def _specs(folder: Path) -> list[tuple[JobSpec, int]]:
    """Small jobs that differ in rows, shards, replicas, speed and bad rows."""
    found = []
    for name, rows, per_shard, replicas, token_s, options in (
        ("plain", 6, 2, 2, 0.05, {}),
        ("single", 2, 2, 1, 0.5, {"keep_staged": True}),
        ("wide", 10, 2, 3, 0.2, {}),
        ("gated", 5, 2, 2, 0.1, {"max_error_rate": 0.0}),
    ):
        prompts = [f"{CANARY} {name} {number}" for number in range(rows)]
        if name in ("wide", "gated"):
            prompts[1] = ""
            prompts[-1] += " fails"
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": prompts}), path)
        spec = JobSpec.model_validate(
            {
                "name": name,
                "input": InputSpec(uri=str(path), chat=False),
                "model": ModelSpec(path=BYTES_MODEL),
                "engine": EngineSpec(
                    name="fake", max_num_seqs=2, fake=FakeSpec(token_s=token_s, start_s=2.0, fail_marker="fails")
                ),
                "replicas": ReplicaRange(min=1, max=replicas),
                "shards": ShardBudget(target_count=8, min_tokens=1, max_rows=per_shard),
                "max_error_rate": 1.0,
                **options,
            }
        )
        found.append((spec, rows))
    return found


def _tokenised(spec: JobSpec) -> pa.Table:
    dataset = inspect(spec.input.uri)
    columns = resolve_columns(dataset.schema, spec.input)
    preparer = RowPreparer(spec, columns, load_encoder(spec.model.path), max_model_len(spec))
    return preparer.prepare(pq.read_table(spec.input.uri), 0)
