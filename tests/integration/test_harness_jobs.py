"""All requests of one kind are one job, which the same command finds again: on a real cluster, without lm_eval."""

from __future__ import annotations

import pytest

from jobs import BatchClient
from jobs.client import Job
from jobs.errors import Conflict, Exit, JobsError
from jobs.evaluation.harness.batches import Batches
from jobs.evaluation.harness.rows import ScoreRows, prompt_rows, text_rows
from jobs.spec.options import spec_of
from schemas.sampling import Sampling
from tests.support.harness import User, check_invariants


class Crashed(Exception):
    """The command ends while its job goes on."""


def crash(job: Job) -> int:
    raise Crashed(job.id)


def wait(job: Job) -> int:
    status = job.wait(timeout_s=120, progress=False, raise_on_failure=False)
    return Exit.OK if status.terminal is not None else Exit.JOB_FAILED


@pytest.fixture
def client(user: User, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    for name, value in user.environment().items():
        monkeypatch.setenv(name, value)
    return BatchClient(root=user.root)


def test_a_command_that_crashed_finds_its_job_and_every_answer_in_order(client: BatchClient, user: User) -> None:
    spec = spec_of("unused", {"engine": "fake", "chat": False, "max_model_len": 102}, client.settings)
    asked = [([65, n % 7], [97 + n % 5] * (1 + n % 3)) for n in range(60)]
    rows = ScoreRows()
    for context, continuation in asked:
        rows.add("context", context, continuation)
    with pytest.raises(Crashed):
        Batches(client, spec, crash, fingerprint=None).run("score", rows.table(), ["choices"])
    batches = Batches(client, spec, wait, fingerprint=None)
    answers = rows.answers(batches.run("score", rows.table(), ["choices"]))
    assert [job.id for job in client.jobs()] == batches.job_ids
    check_invariants(user.ledger(batches.job_ids[0]), 7)
    assert len(set(answers)) > 20
    alike = dict(zip(map(repr, asked), answers, strict=True))
    assert answers == [alike[repr(request)] for request in asked], "equal requests have equal answers"

    texts = text_rows(["t"] * 2, [[0, *b"abc"], [0, *(b"x" * 250)]])
    measured = batches.run("perplexity", texts, ["sum_logprob", "num_scored_tokens"])
    assert measured["num_scored_tokens"].to_pylist() == [3, 250]
    prompts = prompt_rows(["a", "b"], [[65], [66]], [Sampling(max_tokens=5), Sampling()])
    answered = batches.run("generate", prompts, ["generated_text"])["generated_text"].to_pylist()
    assert [len(text) for text in answered] == [5, 21]
    assert len(list(client.jobs())) == 3


def test_an_evaluation_keeps_its_id_and_bad_rows_are_no_answers(client: BatchClient) -> None:
    spec = spec_of("unused", {"engine": "fake", "chat": False}, client.settings)
    named = Batches(client, spec, wait, fingerprint=None, evaluation_id="mine")
    with pytest.raises(JobsError, match=r"1 of 2 rows of job mine-perplexity have no result: EMPTY_PROMPT"):
        named.run("perplexity", text_rows(["a", "b"], [[65, 66], [65]]), ["sum_logprob"])
    with pytest.raises(Conflict):
        Batches(client, spec, wait, fingerprint=None, evaluation_id="mine").run(
            "perplexity", text_rows(["a"], [[65, 66, 67]]), ["sum_logprob"]
        )
