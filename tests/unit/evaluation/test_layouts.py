"""Readers of data sets: every layout, and what is refused, by name and without a text of a row."""

from __future__ import annotations

import csv
import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InvalidInput
from jobs.evaluation.layouts import READERS, read_bbh, read_cmmlu, read_gpqa, read_humaneval, read_math, read_mmlu
from jobs.evaluation.suites import subject_names
from tests.support import benchmarks
from tests.unit.evaluation.oracle import package, taken


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    benchmarks.write_all(folder, rows=2)
    return folder


def test_the_layouts_of_the_hub(hub: Path) -> None:
    found = {name: read(hub) for name, read in READERS.items()}
    assert {name: len(each.questions) for name, each in found.items()} == {
        "mmlu": 57 * 2,
        "cmmlu": 67 * 2,
        "bbh": 27 * 2,
        "math": 14,
        "humaneval": 2,
        "gpqa": 2,
    }
    for name in ("mmlu", "cmmlu"):
        assert {len(shots) for shots in found[name].shots.values()} == {5}
    assert all(each.files and all(len(file.sha256) == 64 for file in each.files) for each in found.values())
    assert {each.subject for each in found["math"].questions} == set(benchmarks.MATH_SUBJECTS)


def test_mmlu_in_one_file_and_as_csv(hub: Path, tmp_path: Path) -> None:
    wanted = read_mmlu(hub)
    for split in ("test", "dev"):
        tables = [
            pq.read_table(hub / f"mmlu/{subject}/{split}-00000-of-00001.parquet") for subject in subject_names("mmlu")
        ]
        (tmp_path / "one/mmlu/all").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), tmp_path / f"one/mmlu/all/{split}-00000-of-00001.parquet")
        (tmp_path / f"csv/mmlu/{split}").mkdir(parents=True)
        for subject, table in zip(subject_names("mmlu"), tables, strict=True):
            with (tmp_path / f"csv/mmlu/{split}/{subject}_{split}.csv").open("w", newline="") as file:
                for row in table.to_pylist():
                    csv.writer(file).writerow([row["question"], *row["choices"], "ABCD"[row["answer"]]])
    for layout in ("one", "csv"):
        found = read_mmlu(tmp_path / layout)
        assert (found.questions, found.shots) == (wanted.questions, wanted.shots)


def test_cmmlu_unpacked(hub: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(hub / "cmmlu/cmmlu_v1_0_1.zip").extractall(tmp_path / "cmmlu")
    assert read_cmmlu(tmp_path).questions == read_cmmlu(hub).questions


def test_bbh_math_and_humaneval_of_the_original_releases(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "bbh").mkdir()
    for subject in subject_names("bbh"):
        rows = pq.read_table(hub / f"bbh/{subject}/test-00000-of-00001.parquet").to_pylist()
        (tmp_path / f"bbh/{subject}.json").write_text(json.dumps({"canary": "", "examples": rows}))
    assert read_bbh(tmp_path).questions == read_bbh(hub).questions
    for subject in benchmarks.MATH_SUBJECTS:
        (tmp_path / f"math/test/{subject}").mkdir(parents=True)
        rows = pq.read_table(hub / f"hendrycks_math/{subject}/test-00000-of-00001.parquet").to_pylist()
        for number, row in enumerate(rows):
            (tmp_path / f"math/test/{subject}/{number}.json").write_text(json.dumps(row))
    assert read_math(tmp_path).questions == read_math(hub).questions
    rows = pq.read_table(hub / "openai_humaneval/openai_humaneval/test-00000-of-00001.parquet").to_pylist()
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval/HumanEval.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_humaneval(tmp_path).questions == read_humaneval(hub).questions


def test_a_folder_of_the_hubs_cache(hub: Path, tmp_path: Path) -> None:
    shutil.copytree(hub / "bbh", tmp_path / "datasets--lukaemon--bbh/snapshots/abc")
    assert read_bbh(tmp_path).questions == read_bbh(hub).questions


def test_math_500_and_an_answer_without_a_box(tmp_path: Path) -> None:
    rows = [
        {"problem": "p", "solution": "so $\\boxed{\\frac{1}{2}}$.", "answer": "x", "subject": "Algebra", "level": 1},
        {"problem": "q", "solution": "so $\\boxed 5$.", "answer": "5", "subject": "Algebra", "level": 1},
    ]
    (tmp_path / "MATH-500").mkdir()
    (tmp_path / "MATH-500/test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read_math(tmp_path).questions
    assert (first.subject, first.reference) == ("Algebra", "\\frac{1}{2}")
    assert second.reference is None


def test_gpqa_stands_in_the_order_of_opencompass(tmp_path: Path) -> None:
    benchmarks.write_gpqa(tmp_path / "gpqa", 30, random.Random(3))
    root = package()

    class Dataset:
        from_list = staticmethod(lambda rows: rows)

    loader = taken(
        root / "datasets/gpqa.py",
        "GPQADataset",
        BaseDataset=object,
        Dataset=Dataset,
        csv=csv,
        os=__import__("os"),
        get_data_path=lambda path, **_: path,
    )["GPQADataset"]
    wanted = loader.load(str(tmp_path / "gpqa"), "gpqa_diamond.csv")
    assert [dict(each.fields) for each in read_gpqa(tmp_path).questions] == wanted


def test_the_right_answer_of_gpqa_moves(tmp_path: Path) -> None:
    benchmarks.write_gpqa(tmp_path / "gpqa", 8, random.Random(3))
    assert "".join(each.reference or "" for each in read_gpqa(tmp_path).questions) == "DCBADCBA"


SECRET = "a text that no error may quote"


def damage_column(folder: Path) -> None:
    path = folder / "mmlu/anatomy/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["query", "subject", "choices", "answer"]), path)


def damage_row(folder: Path) -> None:
    path = folder / "mmlu/anatomy/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**rows[0], "question": SECRET, "answer": 4}]), path)


def damage_bytes(folder: Path) -> None:
    (folder / "mmlu/anatomy/test-00000-of-00001.parquet").write_bytes(SECRET.encode())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: shutil.rmtree(folder / "mmlu"), "none of the folders mmlu, mmlu_no_train is there"),
        (lambda folder: shutil.rmtree(folder / "mmlu/anatomy"), "has no test split of anatomy"),
        (
            lambda folder: (folder / "mmlu/anatomy/dev-00000-of-00001.parquet").unlink(),
            "has no dev split of anatomy with 5 questions",
        ),
        (damage_column, "it has no column 'question'"),
        (damage_row, "is not a question, four choices and an answer from 0 to 3"),
        (damage_bytes, "cannot be read as a file of MMLU"),
    ],
)
def test_what_is_missing_or_wrong_is_named(hub: Path, tmp_path: Path, damage: Any, said: str) -> None:
    shutil.copytree(hub / "mmlu", tmp_path / "mmlu")
    damage(tmp_path)
    with pytest.raises(InvalidInput) as error:
        read_mmlu(tmp_path)
    assert said in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("name", [name for name in READERS if name != "humaneval"])
def test_an_empty_directory_lacks_everything(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        READERS[name](tmp_path)


def test_a_zip_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cmmlu").mkdir()
    (tmp_path / "cmmlu/cmmlu_v1_0_1.zip").write_bytes(b"not a zip")
    with pytest.raises(InvalidInput, match="is not a zip archive"):
        read_cmmlu(tmp_path)
