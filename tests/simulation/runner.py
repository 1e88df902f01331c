"""Runs histories by their seeds, and describes a failing one so that it can be run again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset import inspect, resolve_columns
from jobs.models.encoding import BYTES_MODEL, load_encoder
from jobs.rows.prepare import RowPreparer
from schemas import keys
from schemas.records import Plan, Quarantine
from schemas.spec import EngineSpec, FakeSpec, InputSpec, JobSpec, ModelSpec, ReplicaRange, ShardBudget
from tests.simulation.cluster import SimRows
from tests.simulation.histories import Case, History, Run, draw
from tests.simulation.invariants import KILLED, Outcome, rows_of
from tests.simulation.seams import CANARY, Seams, seams
from workers.staging.staging import max_model_len

SEED_VARIABLE = "SIMULATION_SEED"


def chunks(seeds: range, size: int) -> list[range]:
    """Cut the seeds for the tests of one file; none if `SIMULATION_SEED` names a history."""
    if SEED_VARIABLE in os.environ:
        return []
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def chunk_name(seeds: range) -> str:
    """Name a test after its seeds."""
    return f"{seeds[0]}-{seeds[-1]}"


STALL_S = 20.0
"""Several times what a poll of a replica takes over the slowest network of any history."""

_MARKERS = {"dead_marker": "dies", "crash_marker": "crashes", "hang_marker": "hangs", "freeze_marker": "freezes"}
_KILLERS = {"killers": {2: "dies", 3: "crashes", 8: "crashes"}, "hangers": {1: "hangs", 4: "freezes"}}


_EARLIER = "wide"
"""The case that other cases take results over from, under the same name as a job."""


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
        self.seams = held
        self.cases = cases

    def run(self, history: History) -> tuple[Outcome, Run]:
        """Run one history.

        Raises:
            Broken: something happened that must never happen.
        """
        run = Run(history, self.cases[history.case], self.seams)
        outcome = run.go()
        if run.world.violations:
            raise Broken(run)
        return outcome, run

    def run_seeds(self, seeds: Iterable[int]) -> Counter[str]:
        """Run the histories of these seeds; return how often each state was the last.

        Raises:
            Broken: as `run`.
        """
        return Counter(self.run(draw(seed, len(self.cases)))[0].state for seed in seeds)


@contextmanager
def simulator(folder: Path, build: Callable[[Path], list[Case]] | None = None) -> Iterator[Simulator]:
    """Yield a simulator; the program runs in its worlds until the end of the block.

    Args:
        build: makes the jobs, without the outcome of an undisturbed run; default: those of single jobs.
    """
    cases = (build or _cases)(folder)
    SimRows.blocks = {case.spec.digest(): _tokenised(case.spec) for case in cases}
    earlier: dict[str, tuple[bytes, dict[str, str]]] = {}
    with seams() as held:
        simulation = Simulator(held, cases)
        for number, case in enumerate(cases):
            if case.spec.reuse:
                assert earlier
                simulation.cases[number] = case = replace(case, earlier=earlier)
            _, run = simulation.run(History(seed=0, case=number))
            if case.spec.name == _EARLIER:
                bucket = run.world.bucket
                earlier |= {
                    key.replace("/job/", f"/{_EARLIER}/", 1): (data, bucket.metadata(key))
                    for key, data in bucket.objects().items()
                    if key.startswith("root/job/")
                }
            objects = {key.removeprefix("root/job/"): data for key, data in run.world.bucket.objects().items()}
            kept = {key: data for key, data in objects.items() if key.startswith(keys.RESULTS)}
            # Not the records in the store: the job may succeed before its driver has written the last one.
            kept |= {
                keys.quarantine(shard, place): Quarantine(shard=shard, place=place, code=code).to_json()
                for shard, state in enumerate(run.world.dispatchers[-1]._shards)
                for place, code in state.search.killers.items()
            }
            tables = [rows_of(data) for key, data in kept.items() if key.startswith(keys.RESULTS)]
            found = {row: code for table in tables for row, code in table.items() if code in KILLED}
            assert found == case.killers, "in an undisturbed run the rows that kill are found, and no others"
            shards = tuple(
                (sum(row in found for row in table), sum(code is None or row in found for row, code in table.items()))
                for table in tables
            )
            if case.spec.reuse:
                plan = Plan.from_json(objects[keys.PLAN])
                assert plan.num_reused_rows == 8, "all rows that the earlier job has answered"
                assert any(shard.num_invalid_rows == shard.num_rows for shard in plan.shards), "of refused rows only"
                assert any(shard.num_runnable_rows for shard in plan.shards) == case.needs_engine
            simulation.cases[number] = replace(case, results=kept, shards=shards)
        yield simulation


def _cases(folder: Path) -> list[Case]:
    """Build small jobs that differ in rows, shards, replicas, speed and bad rows."""
    found = []
    for name, rows, per_shard, replicas, token_s, options in (
        ("plain", 6, 2, 2, 0.05, {}),
        ("single", 2, 2, 1, 0.5, {"keep_staged": True}),
        ("wide", 10, 2, 3, 0.2, {}),
        ("gated", 5, 2, 2, 0.1, {"max_error_rate": 0.0}),
        ("killers", 12, 6, 2, 0.1, {}),
        ("hangers", 6, 3, 2, 0.1, {}),
        ("again", 9, 2, 2, 0.2, {"reuse": (_EARLIER,)}),
        ("grown", 12, 2, 2, 0.2, {"reuse": (_EARLIER,)}),
        ("halfway", 13, 7, 2, 0.2, {}),
    ):
        shards = 2 if name in ("killers", "halfway") else 8
        prompts = [f"{CANARY} {_EARLIER if 'reuse' in options else name} {number}" for number in range(rows)]
        if name in ("wide", "gated", "again", "grown", "halfway"):
            prompts[1] = ""
        if name in ("wide", "gated", "halfway"):
            prompts[-1] += " fails"
        if name == "halfway":
            prompts[5] = prompts[4]
        killers = _KILLERS.get(name, {})
        for row, does in killers.items():
            prompts[row] += f" {does}"
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": prompts}), path)
        spec = JobSpec.model_validate(
            {
                "name": name,
                "input": InputSpec(uri=str(path), chat=False),
                "model": ModelSpec(path=BYTES_MODEL),
                "engine": EngineSpec(
                    name="fake",
                    max_num_seqs=2,
                    stall_timeout_s=STALL_S,
                    fake=FakeSpec(token_s=token_s, start_s=2.0, fail_marker="fails", **_MARKERS),
                ),
                "replicas": ReplicaRange(min=1, max=replicas),
                "shards": ShardBudget(target_count=shards, min_tokens=1, max_rows=per_shard),
                "max_error_rate": 1.0,
                **options,
            }
        )
        codes = {row: "TIMEOUT" if does in ("hangs", "freezes") else "ENGINE_CRASH" for row, does in killers.items()}
        found.append(Case(spec=spec, rows=rows, killers=codes, needs_engine=name != "again"))
    return found


def _tokenised(spec: JobSpec) -> pa.Table:
    dataset = inspect(spec.input.uri)
    columns = resolve_columns(dataset.schema, spec.input)
    preparer = RowPreparer(spec, columns, load_encoder(spec.model.path), max_model_len(spec))
    return preparer.prepare(pq.read_table(spec.input.uri), 0)
