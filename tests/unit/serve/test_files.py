"""Files in parts: their bytes come back, cut between lines, and they exist when they are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.dataset import inspect
from jobs.serve import files as files_module
from jobs.serve.errors import ApiError
from jobs.serve.files import Files, new_id
from jobs.store import open_store
from schemas.batches import FILE_ID, StoredFile, job_id_of
from schemas.spec import JOB_ID


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(files_module, "PART_BYTES", 100)
    monkeypatch.setattr(files_module, "MAX_LINE_BYTES", 300)
    return Files(open_store(str(tmp_path)))


def write(files: Files, data: bytes, piece: int, file_id: str | None = None) -> StoredFile:
    writer = files.writer(file_id or new_id("file-"))
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
    return writer.close(filename="f.jsonl", purpose="batch", created_at=5)


@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
@pytest.mark.parametrize("end", [b"\n", b"", b"\n\n"])
def test_bytes_and_lines_come_back(files: Files, piece: int, end: bytes) -> None:
    data = b"\n".join([b'{"prompt": "%d"}' % n if n % 5 else b"" for n in range(60)]) + end
    file = write(files, data, piece)
    assert files.find(file.id) is None, "it does not exist before it is published"
    files.publish(file)
    assert files.find(file.id) == file
    assert b"".join(files.content(file)) == data
    assert (file.size_bytes, file.num_lines) == (len(data), 48)
    lines = list(files.lines(file))
    assert [line for _, line in lines] == [line for line in data.split(b"\n") if line]
    assert [number for number, _ in lines] == [n + 1 for n in range(60) if n % 5]
    assert inspect(files.uri(file)).num_rows == 48
    assert len(inspect(files.uri(file)).files) == file.num_parts > (1 if piece < 5000 else 0)


def test_an_endless_line_is_refused(files: Files) -> None:
    with pytest.raises(ApiError, match="longer than"):
        write(files, b"x" * 1000, 50)


def test_a_second_writer_of_a_file_changes_nothing(files: Files) -> None:
    first, second = write(files, b"one\n", 10, "file-1"), write(files, b"two\n", 10, "file-1")
    files.publish(first)
    files.publish(second)
    found = files.find("file-1")
    assert found is not None
    assert b"".join(files.content(found)) == b"one\n"


def test_deleted_files_are_gone(files: Files) -> None:
    file = write(files, b"a\n" * 200, 50)
    files.publish(file)
    files.delete(file)
    assert files.find(file.id) is None
    with pytest.raises(ApiError, match="deleted"):
        list(files.content(file))


def test_pages(files: Files) -> None:
    made = [f"file-{n}" for n in range(5)]
    for file_id in made:
        files.publish(write(files, b"a\n", 10, file_id))

    def page(after: str | None, limit: int, newest_first: bool = True) -> tuple[list[str], bool]:
        found, more = files.page(after=after, limit=limit, newest_first=newest_first, purpose="batch")
        return [file.id for file in found], more

    assert page(None, 2) == (["file-4", "file-3"], True)
    assert page("file-3", 3) == (["file-2", "file-1", "file-0"], False)
    assert page("file-1", 9, newest_first=False) == (["file-2", "file-3", "file-4"], False)
    assert files.page(after=None, limit=9, newest_first=True, purpose="batch_output") == ([], False)


def test_lists_are_in_the_order_of_creation_whatever_the_ids(files: Files) -> None:
    """The answers of an old batch are younger than an upload that came after the batch."""

    def publish(file_id: str, created_at: float) -> str:
        writer = files.writer(file_id)
        writer.write(b"{}")
        files.publish(writer.close(filename="f", purpose="batch", created_at=created_at))
        return file_id

    def page(after: str | None, newest_first: bool = False, limit: int = 9) -> list[str]:
        found, _ = files.page(after=after, limit=limit, newest_first=newest_first, purpose=None)
        return [file.id for file in found]

    upload = publish("file-0000000003e8aaaaaaaaaaaa", 10.0)
    assert page(None) == [upload]
    output = publish("file-0000000001f4aaaaaaaaaaaa-output", 10.5)
    assert page(upload) == [output], "who follows the list sees it"
    later = publish("file-000000002710aaaaaaaaaaaa", 10.001)
    assert page(None) == [upload, later, output]
    assert page(None, newest_first=True) == [output, later, upload]
    assert page(output, newest_first=True, limit=1) == [later]
    for gone in (later, output):
        found = files.find(gone)
        assert found is not None
        files.delete(found)
        assert page(gone) == [each for each in (output,) if gone == later], "a cursor that is gone still has its place"
    assert page(None) == [upload]
    for unknown in ("x", "file-1", "file-0000000001f4bbbbbbbbbbbb-output"):
        with pytest.raises(ApiError, match="no such file") as refused:
            page(unknown)
        assert refused.value.param == "after"


def test_ids() -> None:
    ids = [new_id("file-") for _ in range(50)]
    assert all(FILE_ID.fullmatch(each) for each in ids)
    assert len(set(ids)) == 50
    assert JOB_ID.fullmatch(job_id_of(new_id("batch_")))
    for odd in ("file-", "file-../x", "file-A", "file-1-other", "x" * 99):
        assert not FILE_ID.fullmatch(odd)
