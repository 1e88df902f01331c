"""`python -m workers.demo.dataset OUT.parquet`: questions the demo model never saw, with the right answers."""

from __future__ import annotations

import argparse
import random
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.demo.tasks import is_right, messages, questions

__all__ = ["build_dataset", "is_right", "write_dataset"]

_SCHEMA = pa.schema(
    [
        pa.field("custom_id", pa.string()),
        pa.field("task", pa.string()),
        pa.field("messages", pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))),
        pa.field("expected", pa.string()),
    ]
)


def build_dataset(num_rows: int, seed: int) -> pa.Table:
    """Build a table of `custom_id`, `task`, `messages` and `expected`; equal arguments give equal tables."""
    chance = random.Random(seed)  # noqa: S311 - reproducible data, no secret
    rows = [
        {
            "custom_id": f"{question.task}-{number:06d}",
            "task": question.task,
            "messages": messages(question, chance),
            "expected": question.expected,
        }
        for number, question in enumerate(islice(questions(seed, held_out=True), num_rows))
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def write_dataset(path: Path, num_rows: int, seed: int) -> None:
    """Write the table of `build_dataset` as Parquet."""
    pq.write_table(build_dataset(num_rows, seed), path)


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(prog="python -m workers.demo.dataset", description=__doc__)
    parser.add_argument("out", type=Path, help="Parquet file to write")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_dataset(arguments.out, arguments.rows, arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
