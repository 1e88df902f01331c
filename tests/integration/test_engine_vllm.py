"""What the vLLM engine makes of forms, biases and choices: one engine on CPU, on the demo model."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jobs.models.prompt_encoder import PromptEncoder
from jobs.rows.windows import parts, windows
from schemas.sampling import USUAL_DETECTION, Sampling
from schemas.spec import EngineSpec
from tests.reference.internlm2 import Reference
from tests.reference.llama import Llama, write_llama
from workers.demo.dataset import build_dataset
from workers.engines.base import Output
from workers.replica.feed import Feed
from workers.replica.room import Room
from workers.shards.outputs import Row
from workers.shards.result_rows import text_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

MODEL = Path(__file__).parents[2] / "workers/demo/model"
TOLERANCE, LLAMA_TOLERANCE = 1e-4, 1e-3
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_T = TypeVar("_T")


class Bench:
    """The engine as a replica has it, on an event loop of its own, and what to compare it with."""

    def __init__(self) -> None:
        from workers.engines.vllm import VllmEngine

        self.encoder = PromptEncoder.load(MODEL)
        self.reference = Reference.load(MODEL)
        self.loop = asyncio.new_event_loop()
        spec = EngineSpec(name="vllm", dtype="float32", max_num_seqs=16, max_num_batched_tokens=256)
        self.engine = VllmEngine(spec, str(MODEL), self.encoder, on_gpu=False)
        self.info = self.run(self.engine.start())
        self._count = 0

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    def ask(self, prompt: str, **sampling: Any) -> tuple[str, Output]:
        ids = self.encoder.encode_chat([{"role": "user", "content": prompt}])
        output = self.run(self.engine.generate(self._id(), ids, Sampling.model_validate(sampling)))
        return text_of(output.completions[0], self.encoder), output

    def score(self, context: Sequence[int], choices: Sequence[Sequence[int]]) -> Output:
        return self.run(self.engine.score(self._id(), context, choices))

    def measure(self, token_ids: Sequence[int], max_model_len: int) -> Output:
        """Score a text as a replica does for a perplexity."""
        cut = parts(token_ids, max_model_len)
        row = Row(row_id=0, token_ids=token_ids[:1], sampling=Sampling(), choices=cut, in_parts=True)
        feed = Feed(self.engine, Room(self.info, lambda: 0), self.encoder.vocab_size)
        (output,) = self.run(feed.run("ticket", [row])).values()
        assert isinstance(output, Output), output
        return output

    def rows(self, context: Sequence[int], choice: Sequence[int]) -> Any:
        """The reference's log-probabilities at each token of a choice."""
        return self.reference.logprobs([*context, *choice[:-1]])[len(context) - 1 :]

    def expected(self, context: Sequence[int], choice: Sequence[int]) -> float:
        rows = self.rows(context, choice)
        return float(sum(rows[place, token] for place, token in enumerate(choice)))

    def check_scores(self, context: Sequence[int], choices: Sequence[Sequence[int]]) -> Output:
        output = self.score(context, choices)
        for choice, score in zip(choices, output.scores, strict=True):
            rows = self.rows(context, choice)
            assert list(score.logprobs) == pytest.approx(
                [float(rows[place, token]) for place, token in enumerate(choice)], abs=TOLERANCE
            )
            assert score.is_greedy is (rows.argmax(-1).tolist() == list(choice))
        return output

    def close(self) -> None:
        self.run(self.engine.stop())
        self.loop.close()

    def _id(self) -> str:
        self._count += 1
        return f"request-{self._count}"


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_json_by_a_schema(bench: Bench) -> None:
    assert bench.ask("What is 2 + 3?")[0] == "5"
    text, output = bench.ask("What is 2 + 3?", max_tokens=60, structured_outputs={"json": PERSON})
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)
    assert output.completions[0].finish_reason == "stop"


def test_the_order_of_keys_is_that_of_the_schema(bench: Bench) -> None:
    turned = {**PERSON, "properties": dict(reversed(PERSON["properties"].items()))}
    text, _ = bench.ask("What is 2 + 3?", max_tokens=60, structured_outputs={"json": turned})
    assert list(json.loads(text)) == ["age", "name"]


def test_text_by_an_expression_and_by_choice(bench: Bench) -> None:
    text, _ = bench.ask("What is 2 + 3?", max_tokens=30, structured_outputs={"regex": "[a-c]{3}-[0-9]{4}"})
    assert len(text) == 8
    assert text[3] == "-"
    assert set(text[:3]) <= set("abc")
    choices = ["tiger lily", "piano", "größer"]
    text, output = bench.ask("What is 2 + 3?", max_tokens=30, structured_outputs={"choice": choices})
    assert text in choices
    assert output.completions[0].finish_reason == "stop"


def test_a_bias_and_a_bad_word_change_the_answer(bench: Bench) -> None:
    plain, output = bench.ask("What is 20 + 31?")
    assert plain == "51"
    first = int(output.completions[0].token_ids[0])
    biased, _ = bench.ask("What is 20 + 31?", logit_bias={str(first): -100})
    assert biased != plain
    banned, _ = bench.ask("What is 20 + 31?", bad_words=["51"])
    assert banned != plain


def test_a_loop_is_ended_and_says_so(bench: Bench) -> None:
    _, plain = bench.ask("mira is ", max_tokens=2)
    token, other = next(iter(bench.encoder.encode_continuations(["a"])[0])), plain.completions[0].token_ids[0]
    assert token != other
    stuck = {"logit_bias": {token: 100.0}, "max_tokens": 60}
    _, whole = bench.ask("mira is ", **stuck)
    assert (whole.completions[0].finish_reason, len(whole.completions[0].token_ids)) == ("length", 60)
    _, ended = bench.ask("mira is ", **stuck, repetition_detection={"max_pattern_size": 4, "min_count": 20})
    assert (ended.completions[0].finish_reason, list(ended.completions[0].token_ids)) == ("repetition", [token] * 20)
    # At its last token an answer is cut, not ended: the fingerprint counts on it.
    _, last = bench.ask("mira is ", **stuck, repetition_detection={"max_pattern_size": 1, "min_count": 60})
    assert last.completions[0].finish_reason == "length"
    usual = {"logit_bias": {token: 100.0}, "max_tokens": 300, "repetition_detection": USUAL_DETECTION.model_dump()}
    _, loop = bench.ask("mira is ", **usual)
    assert (loop.completions[0].finish_reason, len(loop.completions[0].token_ids)) == ("repetition", 256)


def test_scores_are_those_of_the_reference(bench: Bench) -> None:
    context = bench.encoder.encode_prompt("What is 20 + 31? The answer is")
    choices = bench.encoder.encode_continuations([" 51", " 52", " a number that is larger than forty", " 51"])
    assert max(map(len, choices)) > 4
    bench.check_scores(context, choices)


def test_a_greedy_choice_is_what_the_model_would_write(bench: Bench) -> None:
    context = bench.encoder.encode_chat([{"role": "user", "content": "What is 20 + 31?"}])
    answer = [int(token) for token in bench.ask("What is 20 + 31?")[1].completions[0].token_ids]
    others = [[*answer[:-1], 17], [17, *answer[1:]], answer[:1], [17]]
    output = bench.check_scores(context, [answer, *others])
    assert [score.is_greedy for score in output.scores] == [True, False, False, True, False]


@pytest.mark.parametrize("max_model_len", [4096, 60, 33])
def test_a_text_is_scored_in_windows_with_as_much_before_each_token_as_fits(bench: Bench, max_model_len: int) -> None:
    token_ids = [1, *random.Random(6).choices(range(10, 400), k=150)]
    for _ in range(2):  # the second time, all of it could come from the cache
        output = bench.measure(token_ids, max_model_len)
        cut = parts(token_ids, max_model_len)
        assert [score.num_tokens for score in output.scores] == list(map(len, cut))
        for (context, part), score in zip(windows(token_ids[:1], cut), output.scores, strict=True):
            assert len(context) + len(part) < max_model_len
            rows = bench.rows(context, part)
            assert list(score.logprobs) == pytest.approx(
                [float(rows[place, token]) for place, token in enumerate(part)], abs=TOLERANCE
            )


def test_scores_and_answers_are_those_of_transformers_own_llama(bench: Bench, tmp_path: Path) -> None:
    """The same weights under Llama's names, computed by code that shares nothing with ours."""
    write_llama(MODEL, tmp_path / "llama")
    llama, largest, greedy = Llama(tmp_path / "llama"), 0.0, 0
    questions = build_dataset(60, seed=5).to_pylist()
    chats = bench.encoder.encode_chats([question["messages"] for question in questions])
    for context, question in zip(chats, questions, strict=True):
        assert isinstance(context, list)
        others = [question["expected"], *(other["expected"] for other in questions[:3])]
        choices = [ids for ids in bench.encoder.encode_continuations(others) if isinstance(ids, list)]
        for choice, score in zip(choices, bench.score(context, choices).scores, strict=True):
            expected, is_greedy = llama.score(context, choice)
            largest = max(largest, abs(score.sum_logprob - expected))
            assert score.is_greedy is is_greedy
            greedy += is_greedy
    assert largest < LLAMA_TOLERANCE
    assert 40 < greedy < 100, "both answers occur"
    for question, context in list(zip(questions, chats, strict=True))[:8]:
        output = bench.run(bench.engine.generate(bench._id(), context, Sampling(max_tokens=12, ignore_eos=True)))
        assert list(output.completions[0].token_ids) == llama.greedy(list(context), 12), question["task"]


def test_the_context_of_a_rows_choices_is_computed_once(bench: Bench) -> None:
    block = bench.info.kv_block_tokens
    chance = random.Random(3)
    for length in (2 * block + 5, 2 * block, block - 3):
        context = [1, *chance.choices(range(10, 400), k=length - 1)]
        choices = [chance.choices(range(10, 400), k=size) for size in (1, 1, 3, 9, 2)]
        output = bench.check_scores(context, choices)
        computed = length + sum(map(len, choices)) - output.num_cached_tokens
        # Each longer choice computes the context's last, incomplete block again.
        assert computed <= length + sum(map(len, choices)) + 3 * block
        assert bench.check_scores(context, choices).num_cached_tokens > 0 or length < block


def test_choices_that_are_in_the_cache_themselves_keep_their_scores(bench: Bench) -> None:
    """vLLM has no log-probabilities for what it reads from the cache."""
    block = bench.info.kv_block_tokens
    chance = random.Random(4)
    context = [1, *chance.choices(range(10, 400), k=block + 3)]
    stem = chance.choices(range(10, 400), k=3 * block)
    choices = [[*stem, 11], [*stem, 12], stem, stem[: 2 * block]]
    for _ in range(2):
        bench.check_scores(context, choices)


def test_more_first_tokens_than_one_request_takes(bench: Bench) -> None:
    context = bench.encoder.encode_prompt("Sort these words")
    output = bench.check_scores(context, [[token] for token in range(3, 303)])
    assert sum(2.718281828**score.sum_logprob for score in output.scores) <= 1.0001


def test_many_rows_at_once_over_one_shared_prefix(bench: Bench) -> None:
    chance = random.Random(5)
    shared = [1, *chance.choices(range(10, 400), k=700)]
    contexts = [[*shared, *chance.choices(range(10, 400), k=chance.randint(1, 40))] for _ in range(12)]
    choices = [[chance.choices(range(10, 400), k=chance.randint(1, 6)) for _ in range(4)] for _ in contexts]

    async def all_of_them() -> list[Output]:
        work = [bench.engine.score(f"many-{n}", c, of) for n, (c, of) in enumerate(zip(contexts, choices, strict=True))]
        return await asyncio.gather(*work)

    for context, of, output in zip(contexts, choices, bench.run(all_of_them()), strict=True):
        for choice, score in zip(of, output.scores, strict=True):
            assert score.sum_logprob == pytest.approx(bench.expected(context, choice), abs=TOLERANCE * len(choice))


def test_a_request_that_vllm_refuses_costs_one_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.engines.base import RowFailed

    with pytest.raises(RowFailed):
        bench.ask("What is 2 + 3?", logit_bias={"9999999": 1})
    assert bench.ask("What is 20 + 31?")[0] == "51"
