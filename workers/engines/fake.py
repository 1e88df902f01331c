"""The `fake` engine: deterministic text from the token ids, with speed and faults on request.

First-class code, not a mock: it serves tests, scale runs and dry runs of a pipeline without a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jobs.models.encoding import Encoder
from jobs.rows.structured import is_of_form, sample_of
from schemas.codes import RowError
from schemas.sampling import Sampling, StructuredOutputs
from schemas.spec import EngineSpec
from workers.engines.base import ChoiceScore, Completion, EngineDead, EngineInfo, Output, RowFailed

DEFAULT_MAX_NUM_SEQS = 256
MEMORY_LIMIT_BYTES, MEMORY_STEP_BYTES = 256 * 2**20, 32 * 2**20


class FakeEngine:
    """Engine that generates `fake-<hash of the prompt and the sampling values>`, one token per character.

    For structured outputs it generates one of the choices, a text that matches the expression, or
    `{"fake": "<hash>"}` whatever the schema.
    """

    def __init__(self, spec: EngineSpec, encoder: Encoder) -> None:
        self._spec = spec
        self._behaviour = spec.fake
        self._encoder = encoder

        self._hung = asyncio.Event()
        self._written: tuple[Sampling, str] | None = None
        self.steps = self.waiting = 0

    async def start(self) -> EngineInfo:
        await asyncio.sleep(self._behaviour.start_s)
        if self._behaviour.start_error is not None:
            _say(f"RuntimeError: {self._behaviour.start_error}")
            raise RuntimeError("the fake engine was told not to start")
        return EngineInfo(
            max_num_seqs=self._spec.max_num_seqs or DEFAULT_MAX_NUM_SEQS,
            max_model_len=self._spec.max_model_len or self._encoder.max_model_len,
            device="no hardware",
        )

    async def generate(
        self, request_id: str, token_ids: Sequence[int], sampling: Sampling, salt: str | None = None
    ) -> Output:
        await self._misbehave(token_ids)
        room = self._spec.max_model_len or self._encoder.max_model_len
        budget = min(sampling.max_tokens, room - len(token_ids))
        # As with a real engine: equal answers where nothing is random.
        indices = [0] * sampling.n if sampling.deterministic else range(sampling.n)
        completions = [self._complete(token_ids, sampling, index, budget) for index in indices]
        if self._behaviour.token_s > 0:
            await self._compute(self._behaviour.token_s * max(len(c.token_ids) for c in completions))
        output = Output(completions=completions)
        return _nonsense(output, len(token_ids)) if self._is_marked("nonsense", token_ids) else output

    async def score(
        self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]], salt: str | None = None
    ) -> Output:
        await self._misbehave(context)
        if self._behaviour.token_s > 0:
            await self._compute(self._behaviour.token_s)
        return Output(
            scores=[
                ChoiceScore(logprobs=[-share] * len(choice), is_greedy=share < _GREEDY_SHARE)
                for choice, share in ((choice, _share(context, choice)) for choice in choices)
            ]
        )

    async def stop(self) -> None:
        pass

    def _complete(self, token_ids: Sequence[int], sampling: Sampling, index: int, budget: int) -> Completion:
        digest = hashlib.sha256(np.asarray(token_ids, dtype="<i4").tobytes())
        digest.update(f"{self._values(sampling)}/{index}".encode())
        form = None if self._is_marked("formless", token_ids) else sampling.structured_outputs
        text = _shaped(f"fake-{digest.hexdigest()[:16]}", form)
        if self._is_marked("blank", token_ids) and sampling.deterministic:
            text = ""
        if self._is_marked("loop", token_ids):
            return _loop(sampling, budget)
        is_whole = len(text) <= budget and (form is None or is_of_form(text, form))
        return Completion(
            text=text[:budget],
            token_ids=list(text[:budget].encode()),
            finish_reason="stop" if is_whole else "length",
            cumulative_logprob=0.0,
            logprobs=None if sampling.logprobs is None else [(byte, 0.0, ()) for byte in text[:budget].encode()],
        )

    def _values(self, sampling: Sampling) -> str:
        """Return the sampling values as text; remembered, since most rows share one object."""
        if self._written is None or self._written[0] is not sampling:
            # When loops are ended changes no answer that is none.
            values = sampling.model_dump(mode="json", exclude={"repetition_detection"})
            text = json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
            self._written = sampling, repr(text.encode())
        return self._written[1]

    async def _compute(self, seconds: float) -> None:
        """Sleep for so many seconds; never return once the engine hangs."""
        await asyncio.sleep(seconds)
        if self._hung.is_set():
            await asyncio.Event().wait()
        self.steps += 1

    async def _misbehave(self, token_ids: Sequence[int]) -> None:
        """Commit the faults whose markers are in the prompt."""
        for fault, act in _FAULTS.items():
            if self._is_marked(fault, token_ids):
                act(self)
        if self._hung.is_set():
            await asyncio.Event().wait()

    def _is_marked(self, fault: str, token_ids: Sequence[int]) -> bool:
        marker = getattr(self._behaviour, f"{fault}_marker")
        return bool(marker) and marker in self._encoder.decode(token_ids)

    def _fail(self) -> None:
        raise RowFailed(RowError.ENGINE_ERROR, "the fake engine was told to fail on this row")

    def _raise(self) -> None:
        raise ValueError("the fake engine was told to raise")

    def _crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self) -> None:
        _say("RuntimeError: CUDA error: an illegal memory access was encountered (the fake engine was told to exit)")
        os._exit(1)

    def _dead(self) -> None:
        _say("RuntimeError: CUDA error: device-side assert triggered (the fake engine was told to die)")
        raise EngineDead("the fake engine was told to die")

    def _memory(self) -> None:
        """Use up memory and be killed, as by the kernel; bounded, so that nothing else on the machine runs short."""
        taken = []
        for _ in range(MEMORY_LIMIT_BYTES // MEMORY_STEP_BYTES):
            taken.append(b"x" * MEMORY_STEP_BYTES)
        os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self) -> None:
        self._hung.set()

    def _freeze(self) -> None:
        while True:
            time.sleep(60)


_FAULTS: dict[str, Callable[[FakeEngine], None]] = {
    "fail": FakeEngine._fail,
    "raise": FakeEngine._raise,
    "crash": FakeEngine._crash,
    "exit": FakeEngine._exit,
    "dead": FakeEngine._dead,
    "memory": FakeEngine._memory,
    "hang": FakeEngine._hang,
    "freeze": FakeEngine._freeze,
}


def _say(line: str) -> None:
    """Write the line to stderr unbuffered: the process may be gone before a buffer is written."""
    os.write(2, f"{line}\n".encode())


def _nonsense(output: Output, kind: int) -> Output:
    """Return an invalid answer; `kind` picks the way in which it is invalid."""
    first = output.completions[0]
    wrong: list[dict[str, Any]] = [
        {"token_ids": [2**31 - 1]},
        {"token_ids": [-1]},
        {"finish_reason": "because"},
        {"text": b"bytes"},
        {"text": "\ud800"},
        {"token_ids": list(range(2)) * 100_000},
    ]
    if (chosen := kind % (len(wrong) + 1)) == len(wrong):
        return Output(completions=[])
    return Output(completions=[replace(first, **wrong[chosen])])


def _loop(sampling: Sampling, budget: int) -> Completion:
    """Return an answer that repeats one token until it is ended, by the rules of vLLM."""
    detection, num_tokens, reason = sampling.repetition_detection, budget, "length"
    if detection is not None and detection.min_pattern_size == 1:
        ended_at = max(detection.min_count, sampling.min_tokens)
        num_tokens, reason = (ended_at, "repetition") if ended_at < budget else (budget, "length")
    logprobs = None if sampling.logprobs is None else [(_LOOP[0], 0.0, ())] * num_tokens
    text = _LOOP.decode() * num_tokens
    return Completion(
        text=text, token_ids=list(text.encode()), finish_reason=reason, cumulative_logprob=0.0, logprobs=logprobs
    )


_LOOP = b"o"


def _shaped(text: str, form: StructuredOutputs | None) -> str:
    if form is None:
        return text
    if form.regex is not None:
        return sample_of(form, random.Random(text))  # noqa: S311 - not for secrets
    if form.choice is not None:
        return form.choice[int(text.removeprefix("fake-"), 16) % len(form.choice)]
    return json.dumps({"fake": text.removeprefix("fake-")})


_GREEDY_SHARE = 2.0
"""A quarter of all choices are greedy ones."""


def _share(context: Sequence[int], choice: Sequence[int]) -> float:
    """Return a number from 0 to 8 that depends only on the tokens."""
    digest = hashlib.sha256(np.asarray([len(context), *context, *choice], dtype="<i4").tobytes()).digest()
    return int.from_bytes(digest[:4], "little") / 2**29
