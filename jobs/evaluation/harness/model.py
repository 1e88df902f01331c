"""The model that lm-evaluation-harness asks: each of its three calls is one job over all requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from jobs.errors import UsageError
from jobs.evaluation.harness.batches import Batches
from jobs.evaluation.harness.rows import ScoreRows, prompt_rows, text_rows
from jobs.evaluation.harness.sampling import sampling_of
from jobs.evaluation.harness.texts import Texts
from jobs.models.encoding import Encoder

MAX_GEN_TOKS = 256
"""Tokens to generate where a task does not say, as of the harness' HF class."""


class BatchModel(TemplateLM):  # type: ignore[misc]
    """This system as a model of the harness.

    Texts are cut into context and continuation by the harness' own rule (`TemplateLM._encode_pair`), and what is too
    long is cut from the left as by its HF class (`lm_eval.models.huggingface.HFLM`), so that numbers can be compared.

    Attributes:
        notes: what a person should know about the numbers.
    """

    def __init__(self, batches: Batches, encoder: Encoder, model: str, max_model_len: int) -> None:
        super().__init__()
        self._batches, self._encoder, self._texts = batches, encoder, Texts(encoder)
        self._model, self._max_model_len = model, max_model_len
        self._unaligned = self._truncated = 0

    @property
    def notes(self) -> list[str]:
        """Return remarks about requests that are not what they seem."""
        found = []
        if self._unaligned:
            found.append(
                f"{self._unaligned:,} requests have no token boundary between context and continuation. They are cut "
                "as the harness cuts them: their log-likelihoods are not those of the continuation's text."
            )
        if self._truncated:
            found.append(f"{self._truncated:,} requests are longer than the context; their beginning is cut off.")
        return found

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return next(iter(self._encoder.eos_ids), self._encoder.prefix_id)

    @property
    def prefix_token_id(self) -> int:
        """Token before a text that has no context."""
        return self._encoder.prefix_id

    @property
    def max_length(self) -> int:
        """Most tokens that the model reads to predict one: an engine reads that one, too, and generates another."""
        return self._max_model_len - 2

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness' caches."""
        return self._model.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat; without a generation prompt, the last message is the beginning of the answer."""
        return self._texts.render(chat_history, prefill=not add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text, with the token that begins a sequence unless that is turned off."""
        return self._texts.encode_alone(string) if add_special_tokens is False else self._texts.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        stripped = context.rstrip()
        before = self._texts.encode(stripped)
        whole = self._texts.encode(stripped, context[len(stripped) :] + continuation)
        if not before:
            before, whole = [self.prefix_token_id], [self.prefix_token_id, *whole]
        self._unaligned += whole[: len(before)] != before
        return before, whole[len(before) :]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        rows = ScoreRows()
        for (text, _), context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                what = f"has {len(continuation):,}" if continuation else "has no"
                raise UsageError(
                    f"A continuation {what} tokens after its context; 1 to {self.max_length:,} can be scored.",
                    "Change the task.",
                )
            room = self.max_length + 1 - len(continuation)
            self._truncated += len(context) > room
            rows.add(text, context[-room:], continuation)
        return rows.answers(self._batches.run("score", rows.table(), ["choices"]))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, in windows if it is longer than the context."""
        texts = [text for (text,) in (request.args for request in requests)]
        ids = [[self.prefix_token_id, *self.tok_encode(text)] for text in texts]
        full = [place for place, of in enumerate(ids) if len(of) > 1]
        rows = text_rows([texts[place] for place in full], [ids[place] for place in full])
        found = self._batches.run("perplexity", rows, ["sum_logprob"])["sum_logprob"].to_pylist() if full else []
        sums = dict(zip(full, found, strict=True))
        return [sums.get(place, 0.0) for place in range(len(texts))]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answer to each prompt, cut at the first of its stop texts."""
        texts, ids, samplings, stops = [], [], [], []
        for text, given in (request.args for request in requests):
            options = dict(normalize_gen_kwargs(given, MAX_GEN_TOKS))
            until = [stop for stop in options.pop("until") if stop]
            sampling = sampling_of(options, until)
            room = self.max_length - sampling.max_tokens
            if room <= 0:
                raise UsageError(
                    f"A task asks for {sampling.max_tokens:,} tokens; the model's context has {self.max_length:,}.",
                    "Lower max_gen_toks of the task: --gen-kwargs max_gen_toks=256",
                )
            prompt = self.tok_encode(text)
            self._truncated += len(prompt) > room
            texts.append(text)
            ids.append(prompt[-room:])
            samplings.append(sampling)
            stops.append(until)
        results = self._batches.run("generate", prompt_rows(texts, ids, samplings), ["generated_text"])
        return [
            postprocess_generated_text(answer, stop=until, think_end_token=None)
            for answer, until in zip(results["generated_text"].to_pylist(), stops, strict=True)
        ]
