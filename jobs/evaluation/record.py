"""The record of an evaluation in the object store: write-once objects, so that whoever goes on finds the same."""

from __future__ import annotations

import io
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.documents import read_document
from jobs.errors import Conflict, Damaged
from jobs.store.base import ObjectStore
from schemas.evaluations import Evaluation, Scores, evaluation_key

_EVALUATION, _PROGRAMS, _VERDICTS, _SCORES = (
    "evaluation.json",
    "programs.parquet",
    "verdicts.parquet",
    "scores.json",
)


class Record:
    """The objects of one evaluation. Every method may raise `StoreError`."""

    def __init__(self, store: ObjectStore, evaluation_id: str) -> None:
        self.store, self.evaluation_id = store, evaluation_id

    @property
    def uri(self) -> str:
        """Address of the evaluation's directory."""
        return f"{self.store.uri}/{evaluation_key(self.evaluation_id, '')}".rstrip("/")

    def create(self, evaluation: Evaluation) -> bool:
        """Write what is measured; return False if the same evaluation was there already.

        Raises:
            Conflict: the id is taken by another evaluation.
        """
        if self._put(_EVALUATION, evaluation.to_json()):
            return True
        standing = self.evaluation()
        if standing is not None and standing.same_as(evaluation):
            return False
        raise Conflict(
            f"Evaluation {self.evaluation_id} exists and measures something else: another suite, other data, limit or "
            "model.",
            "Give another --id, or the same arguments as before.",
        )

    def evaluation(self) -> Evaluation | None:
        """Read what is measured; None if there is no such evaluation."""
        data = self._get(_EVALUATION)
        return None if data is None else read_document(data, self._where(_EVALUATION), Evaluation.from_json)

    def scores(self) -> Scores | None:
        """Read the table; None while there is none."""
        data = self._get(_SCORES)
        return None if data is None else read_document(data, self._where(_SCORES), Scores.from_json)

    def finish(self, scores: Scores, verdicts: pa.Table) -> Scores:
        """Write verdicts and table; return the table in force, which may be another process's."""
        self._put(_VERDICTS, _parquet(verdicts))
        self._put(_SCORES, scores.to_json())
        return self.scores() or scores

    def programs(self) -> pa.Table | None:
        """Read how programs have run; None while they have not."""
        return self._table(_PROGRAMS)

    def add_programs(self, programs: pa.Table) -> bool:
        """Write how programs have run; return False if that was written already."""
        return self._put(_PROGRAMS, _parquet(programs))

    def verdicts(self) -> pa.Table | None:
        """Read the verdicts; None while there are none."""
        return self._table(_VERDICTS)

    def _table(self, name: str) -> pa.Table | None:
        data = self._get(name)
        try:
            return None if data is None else pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise Damaged(f"{self._where(name)} is damaged.", "Give the evaluation another --id.") from error

    def _where(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def _get(self, name: str) -> bytes | None:
        return self.store.get(evaluation_key(self.evaluation_id, name))

    def _put(self, name: str, data: bytes) -> bool:
        return self.store.put_new(evaluation_key(self.evaluation_id, name), data, writer=f"eval/{uuid4().hex}")


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
