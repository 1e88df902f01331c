"""`jobs preview`: what the model will see, before anything is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import workers.demo
from jobs.cli import main
from jobs.models.prompt_encoder import PromptEncoder

MODEL = str(Path(workers.demo.__file__).parent / "model")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    texts = ["first", None, "third <|im_end|>", "fourth", "fifth"]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "custom_id": list("abcde")}), path)
    return str(path)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["preview", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_prompts_have_the_models_markup_and_the_count_of_its_tokens(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = shown(capsys, dataset, "--model", MODEL, "--template", "Say: {{ text }}", "--system", "Be brief.")
    assert [row["row_id"] for row in rows] == [0, 1, 2]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say: first"}]
    ids = PromptEncoder.load(Path(MODEL)).encode_chat(chat)
    assert rows[0]["num_input_tokens"] == len(ids)
    assert rows[0]["prompt"].startswith(
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay: first<|im_end|>"
    )
    assert rows[0]["prompt"].endswith("<|im_start|>assistant\n")
    assert (rows[1]["prompt"], rows[1]["error_code"]) == (None, "TEMPLATE_ERROR")
    assert "column `text` is null" in rows[1]["error_message"]


def test_a_person_reads_text_and_errors(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", dataset, "--engine", "fake", "--prompt-column", "text", "--rows", "2"]) == 0
    assert capsys.readouterr().out == (
        "row 0 (a): 12 tokens in, up to 256 out\nuser: first\n\nrow 1 (b): error EMPTY_PROMPT: the prompt is empty\n\n"
    )


def test_rows_are_those_that_the_job_runs(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    fake = (dataset, "--engine", "fake", "--prompt-column", "text")
    assert [row["row_id"] for row in shown(capsys, *fake, "--rows", "99")] == [0, 1, 2, 3, 4]
    assert [row["row_id"] for row in shown(capsys, *fake, "--limit", "1")] == [0]
    drawn = [row["row_id"] for row in shown(capsys, *fake, "--limit", "3", "--limit-seed", "1", "--rows", "3")]
    assert len(drawn) == 3
    assert [row["row_id"] for row in shown(capsys, *fake, "--limit", "3", "--limit-seed", "1", "--rows", "2")] == drawn[
        :2
    ]


def test_a_misspelt_column_gets_a_suggestion(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview", dataset, "--engine", "fake", "--prompt-column", "txt"]) == 2
    assert "There is no column 'txt'; did you mean `text`? The columns are" in capsys.readouterr().err
    assert main(["preview", dataset, "--engine", "fake", "--template", "{{ texts }}"]) == 2
    assert "did you mean `text`?" in capsys.readouterr().err
