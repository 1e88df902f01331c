"""The `fake` engine: deterministic text from the token ids, with speed and faults on request.

First-class code, not a mock: it serves tests, scale runs and dry runs of a pipeline without a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Sequence

import numpy as np

from jobs.encoding import Encoder
from schemas.codes import RowError
from schemas.sampling import Sampling, StructuredOutputs
from schemas.spec import EngineSpec
from workers.engines.base import ChoiceScore, Completion, EngineInfo, Output, RowFailed

DEFAULT_MAX_NUM_SEQS = 256


class FakeEngine:
    """Generates `fake-<hash of the prompt and the sampling values>`, one token per character.

    Where structured outputs are asked for, one of the choices, or `{"fake": "<hash>"}` whatever the schema.
    """

    def __init__(self, spec: EngineSpec, encoder: Encoder) -> None:
        self._spec = spec
        self._behaviour = spec.fake
        self._encoder = encoder

    async def start(self) -> EngineInfo:
        await asyncio.sleep(self._behaviour.start_s)
        return EngineInfo(
            max_num_seqs=self._spec.max_num_seqs or DEFAULT_MAX_NUM_SEQS,
            max_model_len=self._spec.max_model_len or self._encoder.max_model_len,
        )

    async def generate(self, request_id: str, token_ids: Sequence[int], sampling: Sampling) -> Output:
        self._misbehave(token_ids)
        room = self._spec.max_model_len or self._encoder.max_model_len
        budget = min(sampling.max_tokens, room - len(token_ids))
        completions = [self._complete(token_ids, sampling, index, budget) for index in range(sampling.n)]
        if self._behaviour.token_s > 0:
            await asyncio.sleep(self._behaviour.token_s * max(len(c.token_ids) for c in completions))
        return Output(completions=completions)

    async def score(self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]]) -> Output:
        self._misbehave(context)
        if self._behaviour.token_s > 0:
            await asyncio.sleep(self._behaviour.token_s)
        return Output(
            scores=[
                ChoiceScore(num_tokens=len(choice), sum_logprob=-len(choice) * _share(context, choice))
                for choice in choices
            ]
        )

    async def stop(self) -> None:
        pass

    def _complete(self, token_ids: Sequence[int], sampling: Sampling, index: int, budget: int) -> Completion:
        digest = hashlib.sha256(np.asarray(token_ids, dtype="<i4").tobytes())
        digest.update(f"{sampling.to_json()!r}/{index}".encode())
        text = _shaped(f"fake-{digest.hexdigest()[:16]}", sampling.structured_outputs)
        return Completion(
            text=text[:budget],
            token_ids=list(text[:budget].encode()),
            finish_reason="length" if budget < len(text) else "stop",
            cumulative_logprob=0.0,
            logprobs=None if sampling.logprobs is None else [(byte, 0.0, ()) for byte in text[:budget].encode()],
        )

    def _misbehave(self, token_ids: Sequence[int]) -> None:
        if self._behaviour.fail_marker is None and self._behaviour.crash_marker is None:
            return
        prompt = self._encoder.decode(token_ids)
        if self._behaviour.crash_marker and self._behaviour.crash_marker in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._behaviour.fail_marker and self._behaviour.fail_marker in prompt:
            raise RowFailed(RowError.ENGINE_ERROR, "the fake engine was told to fail on this row")


def _shaped(text: str, form: StructuredOutputs | None) -> str:
    if form is None or form.regex is not None:
        return text
    if form.choice is not None:
        return form.choice[int(text.removeprefix("fake-"), 16) % len(form.choice)]
    return json.dumps({"fake": text.removeprefix("fake-")})


def _share(context: Sequence[int], choice: Sequence[int]) -> float:
    """A number from 0 to 8 that depends on nothing but the tokens."""
    digest = hashlib.sha256(np.asarray([len(context), *context, *choice], dtype="<i4").tobytes()).digest()
    return int.from_bytes(digest[:4], "little") / 2**29
