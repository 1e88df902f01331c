"""Made-up model outputs and questions, the same ones for a seed: what extraction and rendering are compared over."""

from __future__ import annotations

import random
from collections.abc import Iterator

from jobs.evaluation.questions import Question
from jobs.evaluation.suites import Benchmark, subject_names

OUTPUTS = 3000
_LETTERS = "ABCDE"
_PIECES = (
    (
        r"the answer is |The answer is |So the answer is (|answer is: |The correct answer is |"
        r"ANSWER: |the correct answer is option |答案是|答案为 |答案：|故选|选项|因此|所以|显然|正确|1. |"
        r"final answer is $|Final Answer: The final answer is |I hope it is correct.|Answer: |"
        r"\boxed{|}|{|\frac|\frac{1}{2}|\sqrt|\text{ cm}|\text{and}|\dfrac12|\left(|\right)|"
        r"^\circ|$|\%|%|1,000|2.50|0.5|.5|3/4|x/2|k=|x \in |\infty|inf|j|\mbox{m}|\\|yes|No|True|"
        r"**Yes**|**|(|)|.|,|⏎|⏎⏎| |  |。|，|：|:|Q:|Problem|```python⏎|```⏎|```|def f(x):⏎|"
        r"    return x⏎|square|dollars|an |a |mbox|\fbox{3}|\boxed 5|{{7}}|\boxed{{7}}|\ |\!|\;|"
        r"\le|\ldots|cdot|is|是|对|只有"
    )
    .replace("⏎", "\n")
    .replace("⇥", "\t")
    .split("|")
)


def outputs(seed: int = 7) -> Iterator[str]:
    """Yield texts that look like answers of a model, some in a usual form, most of pieces in any order."""
    random_ = random.Random(seed)
    for place in range(OUTPUTS):
        if place % 10 == 0:
            letter = random_.choice(_LETTERS)
            yield random_.choice(
                (
                    f"Let me think. So the answer is ({letter}).",
                    f"{letter}",
                    f"{letter}. because of this",
                    f"答案是: {letter}",
                    f"The correct answer is ({letter})",
                    f"Therefore $x = \\boxed{{{random_.randrange(99)}}}$.",
                    "Thus, the answer is No.",
                    "```python\ndef f():\n    return 1\n```\nDone.",
                )
            )
            continue
        count = random_.randrange(1, 9)
        yield "".join(
            random_.choice(_PIECES) if random_.random() < 0.7 else random_.choice(_LETTERS) for _ in range(count)
        )


_FIELD_PIECES = (
    (
        r"x|{A}|{B}|{target}|{answer}|{input}|{question}|</E>|⏎| |{|}|{shots}|é|中|⇥|{problem}|"
        r"{solution}|{prompt}|\frac{A}{B}"
    )
    .replace("⏎", "\n")
    .replace("⇥", "\t")
    .split("|")
)
_FIELDS = {
    "mmlu": ("input", "A", "B", "C", "D", "target"),
    "cmmlu": ("question", "A", "B", "C", "D", "answer"),
    "bbh": ("input", "target"),
    "math": ("problem", "solution"),
    "humaneval": ("task_id", "prompt"),
    "gpqa": ("question", "A", "B", "C", "D", "answer"),
}
_ANSWERS = {"mmlu": "target", "bbh": "target", "math": "solution", "humaneval": "task_id"}


def questions(benchmark: Benchmark, count: int, seed: int = 7) -> Iterator[tuple[Question, list[Question]]]:
    """Yield questions with their shots; their texts hold places of templates.

    Args:
        count: questions of each subject; 50 times as many where there are no subjects.
    """
    random_ = random.Random(f"{seed} {benchmark.name} {benchmark.chat}")
    names, answer = _FIELDS[benchmark.data], _ANSWERS.get(benchmark.data, "answer")

    def question(subject: str, number: int) -> Question:
        fields = {name: "".join(random_.choices(_FIELD_PIECES, k=random_.randrange(1, 9))) for name in names}
        if "A" in fields:
            fields[answer] = random_.choice("ABCD")
        return Question(subject=subject, number=number, fields=fields, answer=answer, reference=fields[answer])

    subjects = list(subject_names(benchmark.data)) or ["all"]
    count = count if len(subjects) > 1 else 50 * count
    for subject in subjects:
        shots = [question(subject, number) for number in range(benchmark.shots)]
        for number in range(count):
            yield question(subject, number), shots
