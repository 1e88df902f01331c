"""A job directory as it is stored, whatever store holds it: what the invariants are checked on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from jobs.ledger import Ledger
from schemas.codes import AT_LIMIT
from schemas.records import Cancelled, Failed, Succeeded, Terminal

TERMINAL: TypeAdapter[Succeeded | Failed | Cancelled] = TypeAdapter(Terminal)
"""Reads the record that ends a job."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The objects of one job directory, read past every command.

    Attributes:
        objects: the bytes of each object, by its key below the job directory.
        metadata: the writer's metadata of each object.
    """

    objects: Mapping[str, bytes]
    metadata: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, ledger: Ledger) -> Stored:
        """Read everything that a ledger's store has of its job."""
        objects: dict[str, bytes] = {}
        metadata: dict[str, Mapping[str, str]] = {}
        for info in ledger.objects():
            data, head = ledger.store.get(info.key), ledger.store.head(info.key)
            if data is not None and head is not None:  # not deleted since it was listed
                key = info.key.removeprefix(f"{ledger.job_id}/")
                objects[key], metadata[key] = data, head.metadata
        return cls(objects=objects, metadata=metadata)

    def below(self, *prefixes: str) -> list[str]:
        """List the keys with one of these prefixes, in order."""
        return sorted(key for key in self.objects if key.startswith(prefixes))


@lru_cache(maxsize=256)
def read_rows(data: bytes) -> pa.Table:
    """Read a Parquet object and check its pages' checksums.

    Raises:
        pa.ArrowException, OSError: it does not parse.
    """
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        return file.read(use_threads=False)


def is_as_undisturbed(data: bytes, expected: bytes | None) -> bool:
    """Return whether a result is what a run without faults gives.

    It has the same bytes or, where a limit has left rows without a result, the same in every other row.
    """
    if data == expected or expected is None:
        return data == expected
    got, wanted = read_rows(data), read_rows(expected)
    kept = got.filter(pa.array([code not in AT_LIMIT for code in got["error_code"].to_pylist()]))
    if len(kept) == len(got) or set(got["row_id"].to_pylist()) != set(wanted["row_id"].to_pylist()):
        return False
    return bool(kept.equals(wanted.filter(pc.is_in(wanted["row_id"], value_set=kept["row_id"].combine_chunks()))))
