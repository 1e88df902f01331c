"""Answers that went wrong without an error are counted, shown and warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.results.gates import judged
from jobs.schedules.gateway import view_of
from jobs.status.display import facts
from jobs.status.job_status import ended_state
from jobs.status.quality import describe_finish_reasons, describe_json, quality_of
from jobs.status.summary import summarise
from jobs.store import open_store
from schemas.records import Manifest, Progress, Quality, ShardCommit, Succeeded
from schemas.spec import JobSpec
from tests.unit.display.test_display import PROGRESS, status_of
from tests.unit.results.ledgers import make_job, spec_of

MEND = "Raise it with --max-tokens (now 256; what rows set themselves comes first)."
CUT = f"70 of 298 answers (23.5 %) were cut at their token limit. {MEND}"
NOT_JSON = "59 of 298 answers (19.8 %) are not the JSON asked for. Most were cut at their token limit. " + MEND


def manifest_of(*, rows: int = 300, errors: int = 2, cut: int = 0, **more: object) -> Manifest:
    """A manifest with one shard of these counts."""
    shard = ShardCommit(
        index=0, key="k", num_rows=rows, num_error_rows=errors, num_length_rows=cut, num_input_tokens=1,
        num_generated_tokens=1, size_bytes=1, sha256="0", attempt_id="a",
    ).evolve(**more)  # fmt: skip
    return Manifest(
        job_id="demo",
        plan_sha256="0",
        shards=(shard,),
        num_rows=rows,
        num_error_rows=errors,
        num_length_rows=cut,
        num_empty_rows=shard.num_empty_rows,
        num_input_tokens=1,
        num_generated_tokens=1,
    )


def quality(manifest: Manifest, spec: JobSpec | None = None) -> Quality:
    found = quality_of(spec or spec_of(), Succeeded(manifest=manifest), None)
    assert found is not None
    return found


def test_finish_reasons_and_json_validity_of_a_whole_job() -> None:
    found = quality(manifest_of(cut=70, num_json_rows=298, num_not_json_rows=59))
    assert found.finish_reasons == {"stop": 228, "length": 70, "error": 2}
    assert describe_finish_reasons(found) == "228 stop, 70 length, 2 error"
    assert describe_json(found) == "239 of 298 answers valid (80.2 %)"
    assert found.warnings == (CUT, NOT_JSON)


@pytest.mark.parametrize(
    ("counts", "gates", "warnings"),
    [
        ({"cut": 14}, {}, 0),
        ({"cut": 15}, {}, 1),
        ({"cut": 15}, {"max_length_finish_rate": 0.1}, 0),
        ({"num_empty_rows": 14}, {}, 0),
        ({"num_empty_rows": 15}, {}, 1),
        ({"num_json_rows": 298, "num_not_json_rows": 2}, {}, 0),
        ({"num_json_rows": 298, "num_not_json_rows": 3}, {}, 1),
        ({"num_json_rows": 298, "num_not_json_rows": 3}, {"min_valid_json_rate": 0.9}, 0),
        ({}, {}, 0),
    ],
)
def test_a_warning_needs_a_share_that_the_job_has_not_allowed(
    counts: dict[str, int], gates: dict[str, float], warnings: int
) -> None:
    assert len(quality(manifest_of(**counts), spec_of(**gates)).warnings) == warnings


def test_invalid_answers_that_were_not_cut_are_not_put_down_to_max_tokens() -> None:
    found = quality(
        manifest_of(errors=30, num_json_rows=300, num_not_json_rows=30, error_codes={"INVALID_FORM": 30}),
    )
    assert found.warnings == ("30 of 300 answers (10 %) are not the JSON asked for. Their rows have INVALID_FORM.",)


def test_nothing_is_said_where_nothing_was_counted() -> None:
    old = manifest_of().model_dump(exclude={"num_length_rows"})
    assert quality_of(spec_of(), Succeeded(manifest=Manifest.model_validate(old)), None) is None
    assert quality_of(spec_of(task="score"), Succeeded(manifest=manifest_of()), None) is None
    assert quality_of(spec_of(), None, None) is None
    assert quality_of(spec_of(), None, PROGRESS) is None, "an older driver did not count"
    assert quality_of(spec_of(), None, PROGRESS.evolve(quality=Quality())) is None, "no shard is committed yet"


def test_a_running_job_warns_before_it_has_ended() -> None:
    progress: Progress = PROGRESS.evolve(quality=Quality(finish_reasons={"stop": 5, "length": 5}))
    shown = facts(summarise(status_of(progress=progress)))
    assert shown["finish reasons"] == "5 stop, 5 length"
    assert shown["warning"].startswith("5 of 10 answers (50 %) were cut")
    assert "JSON" not in shown


def test_it_is_in_every_view_of_an_ended_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_job(open_store(str(tmp_path)), [range(10)])
    manifest = manifest_of(cut=70, num_json_rows=298, num_not_json_rows=59)
    terminal = Succeeded(manifest=judged(spec_of(), manifest))
    ledger.end(terminal, writer="test")
    assert main(["status", "demo", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "228 stop, 70 length, 2 error" in shown
    assert "239 of 298 answers valid (80.2 %)" in shown
    assert CUT in shown
    assert NOT_JSON in shown
    assert main(["watch", "demo", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines()[:4] == [
        "Job demo succeeded: 300 rows, 2 of them failed (0.7 %).",
        "Finish reasons: 228 stop, 70 length, 2 error. JSON: 239 of 298 answers valid (80.2 %).",
        f"Warning: {CUT}",
        f"Warning: {NOT_JSON}",
    ]
    status = status_of(ended_state(terminal), terminal=terminal)
    assert view_of(status).quality == quality(manifest)
    assert summarise(status).to_dict()["quality"]["warnings"] == [CUT, NOT_JSON]
