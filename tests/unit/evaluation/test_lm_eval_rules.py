"""Extraction beside lm-evaluation-harness' own: equal where an output says its answer once, as it was asked to.

Elsewhere the two differ by design, since ours are OpenCompass 0.3.0's. Every difference over made-up outputs is of a
kind that is named and counted here. What needs it is skipped where lm_eval 0.4.13 is not importable.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import workers.demo
from jobs.evaluation import mathematics
from jobs.evaluation.extraction import extract
from jobs.models.prompt_encoder import PromptEncoder
from tests.unit.evaluation import corpus
from tests.unit.evaluation.oracle import taken

VERSION = "0.4.13"
MODEL = Path(workers.demo.__file__).parent / "model"
WHY = f"needs lm_eval {VERSION}, which brings 70 MB of task files"
LIKE = 2000
"""Outputs of each form that look like a model's."""

CHOICES = ("alpha", "beta", "gamma", "delta")
_THOUGHTS = (
    "First we look at the units. ",
    "The question asks for the rate, so we divide 12 by 4 and get 3.\n",
    "This follows from the second law.\n",
    "Option by option, only one of them holds. ",
    "我们逐个分析。",
    "It was 5 degrees; x + y = 7. ",
    "So far, so good. ",
)


def letter(of: random.Random) -> str:
    return of.choice("ABCD")


def number(of: random.Random) -> str:
    forms = ("{a}", "{a}{b}", "-{a}", "\\frac{{{a}}}{{{b}}}", "{a}\\sqrt{{{b}}}", "{a},{b}00", "x^{a}+{b}", "({a},{b})")
    return of.choice(forms).format(a=of.randrange(1, 99), b=of.randrange(1, 9))


def varied(answer: str, of: random.Random) -> str:
    """Write an answer in another way."""
    ways = (
        "{}\\text{{ cm}}",
        "${}$",
        "{}%",
        "x = {}",
        "{}^\\circ",
        " {} ",
        "{}.",
        "\\text{{{}}}",
        "{} square units",
        "{{{}}}",
    )
    return of.choice(ways).format(answer.replace("\\frac", of.choice(("\\frac", "\\dfrac"))))


LAST_LINES: Mapping[str, Callable[[random.Random], str]] = {
    "GPQA": lambda of: f"The correct answer is ({letter(of)}).",
    "MMLU": lambda of: of.choice(("So the answer is ({}).", "The answer is ({}).")).format(letter(of)),
    "MMLU, answer alone": lambda of: letter(of) + of.choice(("", ".", "\n", ". ")),
    "BBH, choices": lambda of: f"So the answer is ({letter(of)}).",
    "BBH, free": lambda of: (
        f"So the answer is {of.choice(('Yes', 'no', 'True', 'invalid', '-42', '] ) }', 'ant bee'))}."
    ),
    "MATH, box": lambda of: f"Therefore the value is $\\boxed{{{number(of)}}}$.",
    "MATH, sentence": lambda of: f"Final Answer: The final answer is ${number(of)}$. I hope it is correct.",
    "HumanEval, body": lambda of: f"    return {of.randrange(99)} + x\n",
    "HumanEval, fenced": lambda of: f"    return {of.randrange(99)} + x\n```\nThis adds x.",
}


def like_a_model(form: str) -> Iterator[str]:
    """Yield outputs that end as the benchmark's prompt asks for."""
    of = random.Random(form)
    alone = form.startswith(("HumanEval", "MMLU, answer"))
    for _ in range(LIKE):
        yield ("" if alone else "".join(of.choices(_THOUGHTS, k=of.randrange(4)))) + LAST_LINES[form](of)


@cache
def tasks() -> Path:
    """Return the directory of lm_eval's tasks; skip the test if this version is not there."""
    pytest.importorskip("lm_eval", reason=WHY)
    from importlib.metadata import version

    if version("lm_eval") != VERSION:
        pytest.skip(WHY)
    found = importlib.util.find_spec("lm_eval")
    assert found is not None
    return Path(next(iter(found.submodule_search_locations or ()))) / "tasks"


Texts = Sequence[str]


class _Loader(yaml.SafeLoader):
    """Reader of task files; the functions that they name stay names."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def filter_of(path: str, name: str) -> Callable[[Texts], list[str]]:
    """Return a filter of a task as the harness builds it from the task's file."""
    listed = yaml.load((tasks() / path).read_text(), _Loader)["filter_list"]
    from lm_eval.filters import build_filter_ensemble

    (steps,) = [each["filter"] for each in listed if each["name"] == name]
    built = build_filter_ensemble(
        name, [(step["function"], {key: value for key, value in step.items() if key != "function"}) for step in steps]
    )

    def apply(texts: Texts) -> list[str]:
        values: Any = [[text] for text in texts]
        for step in built.filters:
            values = list(step().apply(values, [{"choices": list(CHOICES)}] * len(texts)))
        return [str(value) for value in values]

    return apply


def same(found: str, wanted: str, **ignored: bool) -> bool:
    """Return the harness' verdict."""
    from lm_eval.api.metrics import exact_match_hf_evaluate

    return bool(exact_match_hf_evaluate([found], [wanted], **ignored)["exact_match"])


def letter_of(found: str, form: str = "({})", **ignored: bool) -> str:
    return next((each for each in "ABCDE" if same(found, form.format(each), **ignored)), "")


def theirs(form: str) -> Callable[[Texts], list[str]]:
    """Return the harness' extraction for a form; "" where it finds nothing."""
    loose = {"ignore_case": True, "ignore_punctuation": True}
    if form == "GPQA":
        flexible = filter_of("gpqa/generative/_gpqa_generative_n_shot_yaml", "flexible-extract")
        return lambda texts: [letter_of(found, **loose) for found in flexible(texts)]
    if form == "MMLU":
        said = filter_of("mmlu/flan_cot_fewshot/_mmlu_flan_cot_fewshot_template_yaml", "get-answer")
        return lambda texts: [letter_of(found, **loose) for found in said(texts)]
    if form == "MMLU, answer alone":
        line = filter_of("mmlu/generative/_default_template_yaml", "get_response")
        return lambda texts: [letter_of(found, "{}", **loose) for found in line(texts)]
    if form.startswith("BBH"):
        after = filter_of("bbh/cot_fewshot/_cot_fewshot_template_yaml", "get-answer")
        if form == "BBH, choices":
            return lambda texts: [letter_of(found) for found in after(texts)]
        return lambda texts: ["" if found == "[invalid]" else found for found in after(texts)]
    if form.startswith("HumanEval"):
        names = ("build_predictions", "build_predictions_instruct")
        build = taken(tasks() / "humaneval/utils.py", *names)[names[form == "HumanEval, fenced"]]
        return lambda texts: [built for (built,) in build([[text] for text in texts], [{"prompt": ""}] * len(texts))]
    utils = tasks() / "leaderboard/math/utils.py"
    names = ("last_boxed_only_string", "remove_boxed", "get_unnormalized_answer", "normalize_final_answer")
    known = _constants(utils)
    found = taken(utils, *names, **known)
    inner, normal = (
        (found["last_boxed_only_string"], found["remove_boxed"])
        if form == "MATH, box"
        else (found["get_unnormalized_answer"], found["normalize_final_answer"])
    )
    return lambda texts: [normal(inner(text)).replace(known["INVALID_ANSWER"], "") for text in texts]


def _constants(path: Path) -> dict[str, Any]:
    named = ("INVALID_ANSWER", "SUBSTITUTIONS", "REMOVED_EXPRESSIONS")
    tree = ast.parse(path.read_text())
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in named
    }


def ours(form: str) -> Callable[[str], str]:
    """Return our extraction for a form, as far as it is certain."""

    def certain(rule: Any) -> Callable[[str], str]:
        return lambda text: found.answer if (found := extract(rule, text)).certain else ""

    if form.startswith(("GPQA", "MMLU")):
        return certain("first-option")
    if form == "BBH, choices":
        return certain("bbh-choice")
    if form == "BBH, free":
        return certain("bbh-free")
    if form == "MATH, box":
        return lambda text: mathematics.boxed_answer(text) or ""
    if form == "MATH, sentence":
        return lambda text: mathematics.normalised(found.answer) if (found := extract("math", text)).certain else ""
    return certain("code")


def kind(own: str, other: str) -> str:
    if own == other:
        return "equal"
    return "only ours" if not other else "only lm-eval's" if not own else "another"


_ONE_LETTER = re.compile(r"[^A-E]*answer is \(([A-D])\)\.[^A-E]*", re.DOTALL)
IN_FORM: Mapping[str, Callable[[str], object]] = {
    "GPQA": _ONE_LETTER.fullmatch,
    "MMLU": _ONE_LETTER.fullmatch,
    "MMLU, answer alone": re.compile(r"[A-D][.]?\s*").fullmatch,
    "BBH, choices": re.compile(r".*the answer is \([A-Z]\)\.", re.DOTALL).fullmatch,
    "BBH, free": re.compile(r"((?!answer is ).)*the answer is ((?!answer is )[^*\n])+\.", re.DOTALL).fullmatch,
    "MATH, box": lambda text: "\\boxed " not in text and ("\\boxed" in text or "\\fbox" not in text),
    "MATH, sentence": re.compile(
        r"((?!answer).)*Final Answer: The final answer is [$][^$.=]+[$]\. I hope it is correct\.", re.DOTALL
    ).fullmatch,
    "HumanEval, body": lambda text: "```" not in text and text.strip(),
    "HumanEval, fenced": lambda text: "```" in text and text.partition("```")[0].strip(),
}
"""Outputs on which both must agree: the answer stands there once, as the prompt asks for it."""

COUNTS: Mapping[str, tuple[int, int, int]] = {
    "GPQA": (1772, 15, 34),
    "MMLU": (1905, 15, 7),
    "MMLU, answer alone": (1817, 40, 4),
    "BBH, choices": (2221, 0, 0),
    "BBH, free": (413, 0, 122),
    "MATH, box": (0, 73, 2),
    "MATH, sentence": (724, 4, 5),
    "HumanEval, body": (0, 11, 50),
    "HumanEval, fenced": (0, 11, 0),
}
"""Differences over the 3,000 fuzzed texts: an answer that only ours finds, only lm-eval's, or another one.

`jobs/evaluation/README.md` has the same numbers.
"""


@pytest.mark.parametrize("form", LAST_LINES)
def test_outputs_that_say_their_answer_once_are_read_as_the_harness_reads_them(form: str) -> None:
    own, other = ours(form), theirs(form)
    texts = [*like_a_model(form), *corpus.outputs()]
    kinds = []
    for text, found in zip(texts, other(texts), strict=True):
        begun = "```python\n" if form == "HumanEval, fenced" and "```" in text else ""  # as the harness' prompt ends
        kinds.append(kind(own(begun + text), found))
    differ = [text for text, each in zip(texts, kinds, strict=True) if each != "equal" and IN_FORM[form](text)]
    assert not differ
    assert kinds[:LIKE] == ["equal"] * LIKE
    counted = Counter(kinds[LIKE:])
    assert (counted["only ours"], counted["only lm-eval's"], counted["another"]) == COUNTS[form]


def test_answers_to_math_that_the_harness_takes_as_equal_are_equal_here() -> None:
    names = ("is_equiv", "strip_string", "fix_fracs", "fix_a_slash_b", "remove_right_units", "fix_sqrt")
    is_equiv = taken(tasks() / "hendrycks_math/utils.py", *names)["is_equiv"]
    of = random.Random(3)
    verdicts: Counter[tuple[bool, bool]] = Counter()
    for _ in range(LIKE):
        right = number(of)
        for answer in (right, varied(right, of), number(of)):
            verdicts[mathematics.are_equal(answer, right), is_equiv(answer, right)] += 1
    assert verdicts == {(True, True): 2793, (False, False): 2234, (True, False): 973}
    assert is_equiv("0.5", "\\frac{1}{2}")
    assert not mathematics.are_equal("0.5", "\\frac{1}{2}"), "the one rule that only the harness has"


class Answers:
    """A job that answers each row with a text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def run(self, task: str, rows: pa.Table, columns: list[str]) -> pa.Table:
        assert (task, rows.num_rows) == ("generate", len(self._texts))
        return pa.table({"generated_text": self._texts})


def test_the_harness_itself_filters_what_its_tasks_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="needs what lm_eval depends on")
    task = yaml.load((tasks() / "gpqa/generative/_gpqa_generative_n_shot_yaml").read_text(), _Loader)
    from jobs.evaluation import extraction
    from jobs.evaluation.harness.imported import BatchModel, TaskManager, simple_evaluate

    def never(*_: object) -> None:
        raise AssertionError("our own rules have no part in this")

    monkeypatch.setattr(extraction, "extract", never)
    monkeypatch.setattr(extraction, "_RULES", {})
    texts = [text for text in [*like_a_model("MMLU")][:40] + [*corpus.outputs()][:160] if "</s>" not in text]
    rows = [{"question": f"Question {at}", "choices": list(CHOICES), "answer": "(B)"} for at in range(len(texts))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        **{name: task[name] for name in ("filter_list", "metric_list", "output_type")},
        "task": "letters",
        "dataset_path": "json",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["</s>"], "max_gen_toks": 8},
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
    }
    (tmp_path / "letters.yaml").write_text(json.dumps(described))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = BatchModel(Answers(texts), PromptEncoder.load(MODEL), "demo", 100)  # type: ignore[arg-type]
    manager = TaskManager(include_path=str(tmp_path))
    found = simple_evaluate(model=model, tasks=["letters"], task_manager=manager, bootstrap_iters=0)
    for name in ("strict-match", "flexible-extract"):
        samples = sorted(
            (row for row in found["samples"]["letters"] if row["filter"] == name), key=lambda r: r["doc_id"]
        )
        expected = filter_of("gpqa/generative/_gpqa_generative_n_shot_yaml", name)(texts)
        assert [row["filtered_resps"][0] for row in samples] == expected
        verdicts = [same(text, "(B)", ignore_case=True, ignore_punctuation=True) for text in expected]
        assert found["results"]["letters"][f"exact_match,{name}"] == pytest.approx(sum(verdicts) / len(verdicts))
        assert 0 < sum(verdicts) < len(verdicts)
