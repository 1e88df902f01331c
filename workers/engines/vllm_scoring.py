"""Scoring with vLLM: log-probabilities of given continuations, their context computed once.

One request over the context gives the log-probabilities of the first token of every choice, and leaves the
context in the prefix cache. A choice of one token (the letter of an answer) needs no more. A longer one needs a
request over context and choice, which finds the context in the cache and computes the rest.

vLLM has no log-probabilities for tokens that it reads from the cache: what it reports there is left over
from other requests (or missing, with its V2 model runner). By default it does not read the cache for such
requests, and would compute the context once per choice. Here it may read it, because the wanted
log-probabilities are all after the context; if more than the context came from the cache, because another
row had the same choice, the request is repeated without the cache.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from schemas.codes import RowError
from workers.engines.base import ChoiceScore, Output, RowFailed

MAX_TOKEN_IDS = 128
"""Token ids whose log-probabilities vLLM gives in one request (`MAX_LOGPROB_TOKEN_IDS`)."""

Request = Callable[[str, Sequence[int], Any], Awaitable[Any]]
"""Request id, prompt and `SamplingParams` in, `RequestOutput` out."""


class Scorer:
    """Scorer of one row, which counts the tokens computed for it.

    Attributes:
        computed_tokens: prompt tokens that were not in the prefix cache.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.computed_tokens = 0

    async def score(self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]]) -> Output:
        """See `Engine.score`."""
        firsts, likeliest = await self._firsts(request_id, context, sorted({choice[0] for choice in choices}))
        try:
            async with asyncio.TaskGroup() as group:
                rests = [
                    group.create_task(self._rest(f"{request_id}-{index}", context, choice))
                    for index, choice in enumerate(choices)
                ]
        except ExceptionGroup as error:
            raise error.exceptions[0] from error
        scores = [
            _score([(firsts[choice[0]], likeliest), *rest.result()])
            for choice, rest in zip(choices, rests, strict=True)
        ]
        num_tokens = len(context) + sum(map(len, choices))
        return Output(scores=scores, num_cached_tokens=max(0, num_tokens - self.computed_tokens))

    async def _firsts(
        self, request_id: str, context: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[dict[int, float], float]:
        """Return the log-probability of each token id right after the context, and that of the likeliest token."""
        found: dict[int, float] = {}
        likeliest = -math.inf
        for start in range(0, len(token_ids), MAX_TOKEN_IDS):
            some = list(token_ids[start : start + MAX_TOKEN_IDS])
            output = await self._ask(f"{request_id}-first{start}", context, logprob_token_ids=some)
            position = output.outputs[0].logprobs[0]
            found |= {token: position[token].logprob for token in some}
            # vLLM generates at temperature 0, and gives the log-probability of the token that it generates, too.
            likeliest = position[output.outputs[0].token_ids[0]].logprob
        return found, likeliest

    async def _rest(self, request_id: str, context: Sequence[int], choice: Sequence[int]) -> list[tuple[float, float]]:
        """Return the log-probabilities of a choice's tokens after the first, each with that of the likeliest token."""
        if len(choice) == 1:
            return []
        wanted, prompt = choice[1:], [*context, *choice]
        # The cache saves little of a row that is mostly choice, and what it saves of it is computed once more.
        attempts = (False, True) if len(context) > len(choice) else (True,)
        for attempt, skip_cache in enumerate(attempts):
            output = await self._ask(
                f"{request_id}.{attempt}", prompt, prompt_logprobs=1, skip_reading_prefix_cache=skip_cache
            )
            # Counted from the end: the V2 model runner leaves out the cached positions, the other one fills them.
            tail = output.prompt_logprobs[-len(wanted) :]
            usable = (output.num_cached_tokens or 0) <= len(context) and len(tail) == len(wanted)
            if usable and all(position and token in position for token, position in zip(wanted, tail, strict=True)):
                return [
                    (position[token].logprob, max(each.logprob for each in position.values()))
                    for token, position in zip(wanted, tail, strict=True)
                ]
        raise RowFailed(RowError.ENGINE_ERROR, "the engine gave no log-probabilities of a choice")

    async def _ask(self, request_id: str, prompt: Sequence[int], **wanted: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **wanted
        )
        output = await self._request(request_id, prompt, params)
        self.computed_tokens += len(prompt) - (output.num_cached_tokens or 0)
        return output


def _score(tokens: Sequence[tuple[float, float]]) -> ChoiceScore:
    """Build the score from each token's log-probability and that of the likeliest token at its place."""
    return ChoiceScore(
        logprobs=array("d", [own for own, _ in tokens]), is_greedy=all(own >= likeliest for own, likeliest in tokens)
    )
