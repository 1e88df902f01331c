"""The cut between a context and its choices: the tokens are those of the joined text, or the row is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import workers.demo
from jobs.dataset import resolve_columns
from jobs.errors import InvalidInput, UsageError
from jobs.models.encoding import BytesEncoder, Encoder
from jobs.models.prepare import write_configs, write_tokenizer
from jobs.models.prompt_encoder import PromptEncoder
from jobs.rows.boundaries import Context, Cut, cut_rows
from jobs.rows.prepare import RowPreparer
from jobs.values.cells import RowFailure
from schemas.spec import JobSpec
from tests.support.samples import needs_real_tokenizer, tokenizer_model
from workers.demo.checkpoint import small_config

MODEL = Path(workers.demo.__file__).parent / "model"
A, B, C, D = ([493], [556], [487], [553])
"""Ids of " A" to " D" in InternLM2's vocabulary, as its SentencePiece model has them."""


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    """The tokenizer of InternLM2.5, or a small one with its properties."""
    target = tmp_path_factory.mktemp("internlm2")
    write_tokenizer(target, tokenizer_model(), vocab_size=92544, stride=1009, num_mixtures=20)
    write_configs(target, small_config(vocab_size=92544), chat=True)
    return PromptEncoder.load(target)


@pytest.fixture(scope="module")
def demo() -> PromptEncoder:
    return PromptEncoder.load(MODEL)


def staged(encoder: Encoder, prompt: Any, choices: Sequence[Any], *, chat: bool = False, **spec: Any) -> dict[str, Any]:
    """The staged row of one prompt and its choices."""
    job = JobSpec.model_validate(
        {"name": "n", "task": "score", "input": {"uri": "/x", "chat": chat}, "model": {"path": "/m"}, **spec}
    )
    prompts = pa.array([prompt], pa.string() if isinstance(prompt, str) else pa.list_(pa.int32()))
    table = pa.table({"prompt": prompts, "choices": [choices]})
    columns = resolve_columns(table.schema, job.input, choices=True)
    (row,) = RowPreparer(job, columns, encoder, 4000).prepare(table, 0).to_pylist()
    return dict(row)


def cut(encoder: PromptEncoder, text: str, choices: Sequence[str]) -> Cut | RowFailure:
    head = encoder.encode_prompt("")
    (found,) = cut_rows([(Context(head, text, encoder.encode_prompt(text)), choices)], encoder)
    return found


@needs_real_tokenizer
@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        ("Question?\nAnswer:", [" A", " B", " C", " D"]),
        ("Question?\nAnswer: ", ["A", "B", "C", "D"]),
        ("答案是:", [" A", " B", " C", " D"]),
        ("答案是: ", ["A", "B", "C", "D"]),
    ],
)
def test_letters_are_scored_with_their_space_wherever_it_was_written(
    internlm2: PromptEncoder, prompt: str, choices: list[str]
) -> None:
    row = staged(internlm2, prompt, choices)
    assert row["token_ids"] == internlm2.encode_prompt(prompt.rstrip())
    assert row["choice_token_ids"] == [A, B, C, D]
    assert row["choices"] == choices, "the results show what the row has"


@needs_real_tokenizer
def test_letters_without_a_space_follow_a_full_width_colon(internlm2: PromptEncoder) -> None:
    assert staged(internlm2, "答案：", ["A", "B"])["choice_token_ids"] == [[290], [309]]


TEXTS = st.text(st.sampled_from("abAB01 \n.:(=问é"), max_size=12)


@given(TEXTS, st.lists(TEXTS.filter(bool), min_size=1, max_size=4))
@example("x ", ["y", " z"])
@example("(", ["A"])
@example("1", ["2"])
def test_the_tokens_are_those_of_the_joined_text_or_the_row_is_refused(
    internlm2: PromptEncoder, text: str, choices: list[str]
) -> None:
    found = cut(internlm2, text, choices)
    if isinstance(found, RowFailure):
        assert found.code == "CHOICE_BOUNDARY"
        kept, moved = text.rstrip(), text[len(text.rstrip()) :]
        assert any(
            internlm2.encode_prompt(kept + moved + choice)[: len(internlm2.encode_prompt(kept))]
            != internlm2.encode_prompt(kept)
            for choice in choices
        )
        return
    for choice, ids in zip(choices, found.continuations, strict=True):
        assert ids
        assert [*found.context, *ids] == internlm2.encode_prompt(text + choice)
    assert found.context in (internlm2.encode_prompt(text), internlm2.encode_prompt(text.rstrip()))


def unaligned(encoder: PromptEncoder) -> Iterator[tuple[str, str]]:
    """Pieces of two letters that a context and a choice would share."""
    for first in "abcdefghijklmnopqrstuvwxyz":
        for second in "abcdefghijklmnopqrstuvwxyz":
            if len(encoder.encode_continuations([first + second])[0]) == 1:
                yield first, second


@pytest.mark.parametrize("spaces", ["", "  "])
def test_a_row_without_a_boundary_is_an_error_that_says_what_to_do(demo: PromptEncoder, spaces: str) -> None:
    first, second = next(unaligned(demo))
    row = staged(demo, first, [f"{spaces}!", second])
    assert row["error_code"] == "CHOICE_BOUNDARY"
    assert row["error_message"].startswith("choice 1 cannot be told from the prompt")
    assert row["token_ids"] == []
    assert row["choices"] is None


def test_spaces_move_to_all_choices_of_a_row(demo: PromptEncoder) -> None:
    row = staged(demo, "The answer is ", ["51", " 51"])
    assert row["error_code"] is None, row["error_message"]
    if row["token_ids"] != demo.encode_prompt("The answer is "):
        assert row["token_ids"] == demo.encode_prompt("The answer is")
        assert row["choice_token_ids"] == demo.encode_continuations([" 51", "  51"])


def test_a_choice_begins_the_answer_of_a_chat(internlm2: PromptEncoder) -> None:
    chat = internlm2.encode_chat([{"role": "user", "content": "Why?"}])
    row = staged(internlm2, "Why?", ["Because", " so", "<|im_end|>"], chat=True)
    assert row["token_ids"] == chat
    for choice, ids in zip(row["choices"], row["choice_token_ids"], strict=True):
        # What follows the last marker is encoded as one text, as in training.
        (joined,) = internlm2.encode_continuations(["assistant\n" + choice])
        (before,) = internlm2.encode_continuations(["assistant\n"])
        assert [*before, *ids] == joined
        assert not {internlm2.bos_id, *internlm2.eos_ids} & {*ids}
    spaced = staged(internlm2, "Why?", ["\nBecause", "\n\nso"], chat=True)
    assert spaced["error_code"] is None
    whole = [[*spaced["token_ids"], *ids] for ids in spaced["choice_token_ids"]]
    head = chat[: internlm2.marked_length(chat)]
    joined = internlm2.encode_continuations(["assistant\n\nBecause", "assistant\n\n\nso"])
    assert whole == [[*head, *ids] for ids in joined if isinstance(ids, list)]


def test_token_ids_are_scored_as_they_are(demo: PromptEncoder) -> None:
    row = staged(demo, [1, 20, 30], [[40], [50, 60]])
    assert (row["token_ids"], row["choice_token_ids"]) == ([1, 20, 30], [[40], [50, 60]])
    assert row["choices"] == [demo.decode([40]), demo.decode([50, 60])]
    assert staged(demo, [20], ["51"])["choice_token_ids"] == demo.encode_continuations(["51"])
    assert staged(demo, [20], [[10**6]])["error_code"] == "INVALID_CHOICES"
    assert staged(demo, [10**6], [[4]])["error_code"] == "INVALID_MESSAGES"
    assert staged(demo, [], [[4]])["error_code"] == "EMPTY_PROMPT"
    assert staged(demo, [4], [[5], []])["error_message"] == "choice 1 is empty"
    with pytest.raises(UsageError, match="no chat"):
        staged(demo, [20], [[4]], chat=True)
    with pytest.raises(InvalidInput, match="is list<"):
        staged(demo, [20], [4])


def measured(encoder: Encoder, prompt: Any, max_model_len: int = 4000, **spec: Any) -> dict[str, Any]:
    """The staged row of one text whose perplexity is wanted."""
    job = JobSpec.model_validate(
        {"name": "n", "task": "perplexity", "input": {"uri": "/x", "chat": False}, "model": {"path": "/m"}, **spec}
    )
    table = pa.table({"prompt": [prompt]})
    columns = resolve_columns(table.schema, job.input)
    (row,) = RowPreparer(job, columns, encoder, max_model_len).prepare(table, 0).to_pylist()
    return dict(row)


def test_all_tokens_of_a_text_are_scored_after_the_first(demo: PromptEncoder) -> None:
    ids = demo.encode_prompt("What is 20 + 31?")
    row = measured(demo, "What is 20 + 31?")
    assert (row["token_ids"], row["choice_token_ids"]) == (ids[:1], [ids[1:]])
    assert (row["num_input_tokens"], row["num_output_tokens"]) == (len(ids), 0)
    assert measured(BytesEncoder(), "ab")["token_ids"] == [0], "a model without BOS"
    assert measured(BytesEncoder(), [97, 98])["choice_token_ids"] == [[98]], "token ids are used as they are"
    assert measured(demo, [20])["error_message"] == "the prompt has no token to score"


def test_a_long_text_is_cut_and_costs_what_the_engine_reads(demo: PromptEncoder) -> None:
    row = measured(demo, [1, *range(10, 35)], 12)
    assert [len(part) for part in row["choice_token_ids"]] == [10, 10, 5]
    assert row["num_input_tokens"] == 3 * 11, "each window is full: the last has more context"
    assert row["error_code"] is None


def test_what_is_scored_is_part_of_the_fingerprint(demo: PromptEncoder) -> None:
    def fingerprint(*given: Any, **spec: Any) -> bytes:
        return bytes(staged(demo, *given, **spec)["fingerprint"])

    first = fingerprint("Why?", [" a", " b"])
    assert fingerprint("Why?", [" a", " b"]) == first
    assert fingerprint("Why?", [" a", " c"]) != first
    assert fingerprint("Why?", [" a", " b"], token_logprobs=True) != first
    assert measured(demo, "Why?", 20)["fingerprint"] != measured(demo, "Why?", 4)["fingerprint"], "other windows"
