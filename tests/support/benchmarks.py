"""Made-up questions in files as the hub has them: `python -m tests.support.benchmarks DIR [--rows N]`.

Without --rows there are as many rows as the true data sets have, and texts are about as long as theirs. The worked
examples of BBH and MATH are not generated: suites are pinned to them, so they come from a package or from files.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluation.suites import subject_names

LETTERS = "ABCD"
ROWS = {"mmlu": 14_042, "cmmlu": 11_582, "math": 5_000, "humaneval": 164, "gpqa": 198}
BBH_ROWS = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}
"""Tasks of BBH that have not 250 rows."""

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_WORDS = "river stone engine summer garden copper market winter letter bridge planet needle harbour".split()  # noqa: SIM905
_CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"


def write_all(folder: Path, *, rows: int | None = None, seed: int = 0) -> None:
    """Write all six data sets.

    Args:
        rows: rows of each subject; default: so many in all as the true data sets have.
    """
    random_ = random.Random(seed)
    write_mmlu(folder / "mmlu", _sizes("mmlu", rows), random_)
    write_cmmlu(folder / "cmmlu", _sizes("cmmlu", rows), random_)
    write_bbh(folder / "bbh", {name: rows or BBH_ROWS.get(name, 250) for name in subject_names("bbh")}, random_)
    write_math(folder / "hendrycks_math", _spread((rows and rows * 7) or ROWS["math"], MATH_SUBJECTS), random_)
    write_humaneval(folder / "openai_humaneval", rows or ROWS["humaneval"], random_)
    write_gpqa(folder / "gpqa", rows or ROWS["gpqa"], random_)


def _sizes(name: str, rows: int | None) -> dict[str, int]:
    subjects = list(subject_names(name))
    return dict.fromkeys(subjects, rows) if rows else _spread(ROWS[name], subjects)


def _spread(total: int, subjects: Sequence[str]) -> dict[str, int]:
    return {subject: total // len(subjects) + (place < total % len(subjects)) for place, subject in enumerate(subjects)}


def write_mmlu(folder: Path, sizes: Mapping[str, int], random_: random.Random) -> None:
    """Write cais/mmlu: a folder of Parquet files for each subject."""
    for subject, size in sizes.items():
        for split, count in (("test", size), ("dev", 5)):
            rows = [
                {
                    "question": _english(random_, 45),
                    "subject": subject,
                    "choices": [_english(random_, 8) for _ in LETTERS],
                    "answer": random_.randrange(4),
                }
                for _ in range(count)
            ]
            _write(folder / subject / f"{split}-00000-of-00001.parquet", rows)


def write_cmmlu(folder: Path, sizes: Mapping[str, int], random_: random.Random) -> None:
    """Write haonan-li/cmmlu: one zip archive of CSV files."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "cmmlu_v1_0_1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for subject, size in sizes.items():
            for split, count in (("test", size), ("dev", 5)):
                text = io.StringIO()
                writer = csv.writer(text)
                writer.writerow(["", "Question", *LETTERS, "Answer"])
                for number in range(count):
                    options = [_chinese(random_, 6) for _ in LETTERS]
                    writer.writerow([number, _chinese(random_, 40), *options, random_.choice(LETTERS)])
                archive.writestr(f"{split}/{subject}.csv", text.getvalue())


def write_bbh(folder: Path, sizes: Mapping[str, int], random_: random.Random) -> None:
    """Write lukaemon/bbh: a folder of Parquet files for each task."""
    for subject, size in sizes.items():
        rows = [{"input": _english(random_, 60), "target": f"({random_.choice(LETTERS)})"} for _ in range(size)]
        _write(folder / subject / "test-00000-of-00001.parquet", rows)


def write_math(folder: Path, sizes: Mapping[str, int], random_: random.Random) -> None:
    """Write EleutherAI/hendrycks_math: a folder of Parquet files for each subject."""
    for subject, size in sizes.items():
        rows = [
            {
                "problem": _english(random_, 50),
                "level": f"Level {random_.randint(1, 5)}",
                "type": subject,
                "solution": f"{_english(random_, 60)} $\\boxed{{{random_.randrange(100)}}}$.",
            }
            for _ in range(size)
        ]
        _write(folder / subject / "test-00000-of-00001.parquet", rows)


def write_humaneval(folder: Path, count: int, random_: random.Random) -> None:
    """Write openai_humaneval; the right answer adds a number to an argument."""
    rows = []
    for number in range(count):
        step = random_.randrange(1, 100)
        rows.append(
            {
                "task_id": f"HumanEval/{number}",
                "prompt": f'def add_{number}(value):\n    """Return the value and {step}. {_english(random_, 40)}"""\n',
                "canonical_solution": f"    return value + {step}\n",
                "test": f"def check(candidate):\n    assert candidate(1) == {step + 1}\n",
                "entry_point": f"add_{number}",
            }
        )
    _write(folder / "openai_humaneval" / "test-00000-of-00001.parquet", rows)


def write_gpqa(folder: Path, count: int, random_: random.Random) -> None:
    """Write gpqa_diamond.csv, with its columns at their places."""
    folder.mkdir(parents=True)
    others = [f"Column {place}" for place in range(7)]
    answers = ["Correct Answer", *(f"Incorrect Answer {place}" for place in (1, 2, 3))]
    with (folder / "gpqa_diamond.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*others, "Question", *answers, "Explanation"])
        for _ in range(count):
            texts = [_english(random_, 8) for _ in answers]
            writer.writerow([*("" for _ in others), _english(random_, 80), *texts, ""])


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _english(random_: random.Random, words: int) -> str:
    count = max(1, round(random_.gauss(words, words / 4)))
    return " ".join(random_.choices(_WORDS, k=count))


def _chinese(random_: random.Random, characters: int) -> str:
    return "".join(random_.choices(_CHINESE, k=characters))


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=None, help="rows of each subject")
    given = parser.parse_args()
    write_all(given.folder, rows=given.rows)
    print(json.dumps({"folder": str(given.folder)}))


if __name__ == "__main__":
    main()
