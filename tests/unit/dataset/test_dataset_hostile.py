"""Bad and hostile files: refused by name or paid for by their own rows, in bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import decoder, failures_of, guarded, inspect, read_slice, slices
from jobs.dataset.decoder import DecoderEnded, stream
from jobs.dataset.finding import find_sources
from jobs.dataset.sources import open_source
from jobs.errors import Exit, InvalidInput
from tests.support.hostile import GIB, dictionary_bomb, large_cell, large_list, read_all, small_file, watched

ROOT = Path(__file__).parents[3]


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return tmp_path / "bad.parquet"


# -- damage -------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_by_name(bad: Path) -> None:
    data = small_file(bad, checksums=True)
    for length in [*range(0, len(data), 97), len(data) - 1]:
        bad.write_bytes(data[:length])
        with pytest.raises(InvalidInput, match=r"bad\.parquet") as caught:
            read_all(str(bad))
        assert caught.value.hint
        assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_flipped_byte_of_a_page_is_noticed(bad: Path, compression: str) -> None:
    """With checksums. The bytes of the footer have none: there other rules than ours decide what is noticed."""
    data = small_file(bad, checksums=True, compression=compression)
    _, rows, _ = read_all(str(bad))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    refused = 0
    for at in range(0, footer, 7):
        bad.write_bytes(flipped(data, at, at % 8))
        try:
            _, found, _ = read_all(str(bad))
        except InvalidInput:
            refused += 1
        else:
            # In a page's header: a statistic, or another thing that no reader goes by.
            assert found == rows
    assert refused > footer / 7 / 2


def test_a_flipped_byte_without_checksums_costs_no_row_silently(bad: Path) -> None:
    data = small_file(bad, checksums=False)
    outcomes = set()
    for at in range(0, len(data), 11):
        bad.write_bytes(flipped(data, at, at % 8))
        try:
            read_all(str(bad))
            outcomes.add("read")
        except InvalidInput:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# -- bombs --------------------------------------------------------------------------------------


def rows_of(path: Path) -> Iterator[pa.RecordBatch]:
    for piece in slices(inspect(str(path))):
        yield from read_slice(piece)


MIB = 2**20


@pytest.mark.parametrize("size_bytes", [100 * MIB, pytest.param(GIB, marks=pytest.mark.nightly)])
def test_a_large_cell_costs_its_row(bad: Path, size_bytes: int) -> None:
    make(large_cell, bad, size_bytes)
    with watched() as memory:
        batches = list(rows_of(bad))
    table = pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in batches])
    assert table.to_pydict() == {"prompt": ["before", None, "after"], "custom_id": ["a", "b", "c"]}
    [fault] = [fault for batch in batches for fault in failures_of(batch).values()]
    assert fault.code == "ROW_TOO_LARGE"
    assert memory.own_growth_bytes < GIB / 4
    assert memory.children_bytes < GIB / 2 + 4 * size_bytes


def test_a_large_list_costs_its_row(bad: Path) -> None:
    make(large_list, bad, 80 * MIB)
    with watched() as memory:
        [batch] = rows_of(bad)
    assert batch.to_pylist() == [{"prompt": "a", "kept": None}]
    assert failures_of(batch)[0].code == "ROW_TOO_LARGE"
    assert memory.own_growth_bytes < GIB / 4


@pytest.mark.parametrize("size_bytes", [100 * MIB, pytest.param(GIB, marks=pytest.mark.nightly)])
def test_more_than_a_decoder_may_have_is_refused_by_name(
    bad: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(large_cell, bad, size_bytes)
    monkeypatch.setattr(decoder, "MEMORY_BYTES", size_bytes)
    small_file(fine := bad.with_name("fine.parquet"), checksums=True)
    assert sum(map(len, rows_of(fine))) == 60, "an ordinary file needs less"
    with watched() as memory, pytest.raises(InvalidInput, match=r"bad\.parquet needs more than") as caught:
        list(rows_of(bad))
    assert caught.value.hint
    assert memory.own_growth_bytes < size_bytes / 2
    assert memory.children_bytes < GIB / 2 + size_bytes


def test_a_dictionary_of_large_cells_comes_in_small_batches(bad: Path) -> None:
    dictionary_bomb(bad)
    with watched() as memory:
        rows = rows_of(bad)
        sizes = [next(rows).nbytes for _ in range(4)]
        rows.close()  # type: ignore[attr-defined]
    assert max(sizes) <= 65 * 2**20
    assert memory.own_growth_bytes < GIB
    assert memory.children_bytes < GIB


def make(function: Callable[[Path, int], Path], path: Path, size_bytes: int) -> None:
    """In a process of its own: what making the file takes must not count."""
    name = function.__name__
    code = (
        f"from pathlib import Path; from tests.support.hostile import {name}; {name}(Path({str(path)!r}), {size_bytes})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=240)


# -- the decoder's walls ------------------------------------------------------------------------


def crash() -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGSEGV)


def compute() -> Iterator[int]:
    while True:
        pass
    yield 1


def hoard() -> Iterator[int]:
    held = []
    while True:
        held.append(bytearray(2**28))
    yield len(held)


def wait_for_ever() -> Iterator[int]:
    yield 1
    threading.Event().wait()


def wait_with_a_sign_of_life(seconds: float) -> Iterator[int]:
    """As one does that waits for a store: a thread that is not the main one asks now and then."""
    done = threading.Event()

    def ask() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
        done.set()

    decoder.threads.submit(ask)
    done.wait()
    yield 1


def own_pid(count: int) -> Iterator[int]:
    for _ in range(count):
        yield os.getpid()


def fail() -> Iterator[int]:
    yield 1
    raise InvalidInput("what", "hint")


@pytest.mark.parametrize(
    ("function", "cpu_s", "sentence"),
    [(crash, 60, "crash"), (compute, 1, "too long"), (hoard, 60, "more than 1 GiB of memory")],
)
def test_a_decoder_that_dies_is_told(
    function: Callable[[], Iterator[int]], cpu_s: float, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "MEMORY_BYTES", GIB)
    with pytest.raises(DecoderEnded, match=sentence):
        list(stream(function, cpu_s=cpu_s))
    assert len(set(stream(own_pid, 3))) == 1, "the next one works"


def test_a_decoder_that_stands_still_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    work = stream(wait_for_ever)
    next(work)
    monkeypatch.setattr(decoder, "STILL_S", 0.5)
    with pytest.raises(DecoderEnded, match=r"stand still: it has not computed for 0\.5 s"):
        next(work)
    assert list(stream(wait_with_a_sign_of_life, 3.0)) == [1], "one that waits for a store is not"


def test_looking_with_hardly_any_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is started under the limit: one that dies as it starts is waited for for ever."""
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    hoarded = stream(hoard_and_look, str(tmp_path / "a.parquet"))
    monkeypatch.setattr(decoder, "STILL_S", 10.0)
    monkeypatch.setattr(decoder, "MEMORY_BYTES", 2**26)
    assert next(hoarded) in ("looked", "no memory")


def hoard_and_look(path: str) -> Iterator[str]:
    """Takes what memory there is, down to single pages, and looks at a file."""
    held = []
    for size in (2**24, 2**20, 2**16, 2**12, 2**8):
        with suppress(MemoryError):
            while True:
                held.append(bytearray(size))
    try:
        list(guarded._looks([find_sources(path)[0][0]]))
        yield "looked"
    except MemoryError:
        held.clear()
        yield "no memory"


def test_a_decoder_is_used_again_and_errors_come_through() -> None:
    [first], [second] = set(stream(own_pid, 1)), set(stream(own_pid, 1))
    assert first == second != os.getpid()
    with pytest.raises(InvalidInput, match="what") as caught:
        list(stream(fail))
    assert caught.value.hint == "hint"
    assert set(stream(own_pid, 1)) == {first}
    one, other = stream(own_pid, 2), stream(own_pid, 2)
    assert next(one) != next(other), "two at once are two processes"


def test_an_abandoned_decoder_ends() -> None:
    work = stream(own_pid, 10**9)
    pid = next(work)
    work.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(pid)


def test_the_file_that_breaks_its_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcde":
        pq.write_table(pa.table({"prompt": [name]}), tmp_path / f"{name}.parquet")
    monkeypatch.setattr(guarded, "_looks", crash_at_d)
    with pytest.raises(InvalidInput, match=r"d\.parquet makes its decoder crash"):
        inspect(str(tmp_path))


def crash_at_d(sources: list[object]) -> Iterator[object]:
    if any("d.parquet" in str(source) for source in sources):
        os.kill(os.getpid(), signal.SIGSEGV)
    yield from decoder_looks(sources)


decoder_looks = guarded._looks


# -- shapes -------------------------------------------------------------------------------------


def test_zero_columns_and_zero_row_groups_are_refused(bad: Path) -> None:
    pq.write_table(pa.table({}), bad)
    with pytest.raises(InvalidInput, match=r"bad\.parquet has no rows"):
        inspect(str(bad))
    pq.ParquetWriter(bad, pa.schema([("prompt", pa.string())])).close()
    with pytest.raises(InvalidInput, match=r"bad\.parquet has no rows"):
        inspect(str(bad))


def test_an_encrypted_file_is_refused(bad: Path) -> None:
    data = small_file(bad, checksums=True)
    bad.write_bytes(b"PARE" + data[4:-4] + b"PARE")
    with pytest.raises(InvalidInput, match=r"bad\.parquet is an encrypted Parquet file"):
        inspect(str(bad))


# -- links, pipes and addresses -----------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "data"
    inside.mkdir()
    pq.write_table(pa.table({"prompt": ["a"]}), inside / "a.parquet")
    pq.write_table(pa.table({"prompt": ["secret"]}), tmp_path / "outside.parquet")
    return inside


def link_out(folder: Path) -> None:
    (folder / "b.parquet").symlink_to("../outside.parquet")


def link_to_nothing(folder: Path) -> None:
    (folder / "b.parquet").symlink_to("nowhere")


def link_to_itself(folder: Path) -> None:
    (folder / "b.parquet").symlink_to("b.parquet")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "b.parquet")


def device(folder: Path) -> None:
    (folder / "b.parquet").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("trick", "sentence"),
    [
        (link_out, "is a link that leads out of"),
        (link_to_nothing, "is a link to nothing"),
        (link_to_itself, "is a link to nothing"),
        (pipe, "is not a regular file"),
        (device, "is not a regular file"),
    ],
)
def test_what_is_no_file_of_the_directory_is_refused(
    folder: Path, trick: Callable[[Path], None], sentence: str
) -> None:
    trick(folder)
    with pytest.raises(InvalidInput, match=rf"b\.parquet {sentence}") as caught:
        inspect(str(folder))
    assert "glob" in caught.value.hint


def test_a_link_out_is_read_where_it_is_named(folder: Path) -> None:
    link_out(folder)
    assert inspect(str(folder / "*.parquet")).num_rows == 2
    assert inspect(str(folder / "b.parquet")).num_rows == 1


def test_links_in_circles_end(folder: Path) -> None:
    for name in "xyz":
        (folder / name).symlink_to(".", target_is_directory=True)
    assert inspect(str(folder)).num_rows == 1
    assert inspect(str(folder / "**" / "*.parquet")).num_rows == 1


def test_a_pipe_in_the_place_of_a_file_does_not_hang(folder: Path) -> None:
    source = inspect(str(folder)).files[0].source
    (folder / "a.parquet").unlink()
    pipe(folder)
    (folder / "b.parquet").rename(folder / "a.parquet")
    with pytest.raises(InvalidInput, match="has changed"):
        open_source(source)


@pytest.mark.parametrize(
    "uri",
    [
        "/dev/zero",
        "/dev/../dev/stdin",
        "file://elsewhere/etc/passwd",
        "file://",
        "file://[/x",
        "file:///%00",
        "/a\x00b.parquet",
        "/a\udcff.parquet",
        "s3://",
        "s3:///key",
        "s3://[/x",
        "s3://../../etc",
        "s3://user:secret-word@bucket/x",
        "s3://bucket\x1b/x",
        "s3://bucket/\udcff",
        "S3://bucket/x",
        "http://169.254.169.254/latest",
        "ftp://x/y",
        "://",
    ],
)
def test_tricks_with_addresses_are_refused(uri: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inspect(uri)
    assert caught.value.hint
    assert "secret-word" not in str(caught.value)


def test_percent_signs_are_read_once_and_only_in_file_addresses(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a%2f..%2fb.parquet")
    assert inspect(str(tmp_path / "a%2f..%2fb.parquet")).num_rows == 1
    assert inspect(f"file://{tmp_path}/a%252f..%252fb.parquet").num_rows == 1
    with pytest.raises(InvalidInput, match="no file or directory"):
        inspect(f"file://{tmp_path}/a%2f..%2fb.parquet")
