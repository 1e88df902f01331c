"""Real text for the benchmarks of staging: chats of about 220 tokens, as many as wanted, no two the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.models.prepare import write_configs, write_tokenizer
from workers.demo.checkpoint import small_config

SHARED = Path(__file__).parents[3] / "shared" / "data"
CORPUS, TOKENIZER = SHARED / "debian-descriptions-4k.parquet", SHARED / "internlm2-tokenizer.model"

RARE_WORDS = 3
"""Words of random letters per row: prose has about so many that a tokenizer has not seen in the rows before."""

_BATCH = 20_000


def write_model(folder: Path) -> Path:
    """A directory with InternLM2's real tokenizer and chat format, without weights."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, TOKENIZER.read_bytes(), vocab_size=92544, stride=997, num_mixtures=100)
    write_configs(folder, small_config(vocab_size=92544, max_position_embeddings=32768), chat=True)
    return folder


def write_chats(target: Path, rows: int, *, seed: int = 0, files: int = 8) -> Path:
    """A dataset with a column `messages`: the corpus's system messages, and descriptions with their words re-sorted.

    Lines are drawn from all descriptions, so that rows are as long as the real ones, and words as frequent.
    """
    chats = pq.read_table(CORPUS, columns=["messages"])["messages"].to_pylist()
    systems, users = [chat[0] for chat in chats], [chat[1]["content"] for chat in chats]
    lines = [line for text in users for line in text.splitlines(keepends=True)]
    mean_lines = len(lines) / len(users)
    chance = np.random.default_rng([20_261_125, seed])
    target.mkdir(parents=True)
    per_file = -(-rows // files)
    for number, start in enumerate(range(0, rows, per_file)):
        with pq.ParquetWriter(target / f"part-{number:03d}.parquet", _SCHEMA, compression="zstd") as writer:
            stop = min(start + per_file, rows)
            for first in range(start, stop, _BATCH):
                count = min(_BATCH, stop - first)
                writer.write_table(_chats(chance, systems, lines, mean_lines, count))
    return target


_MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
_SCHEMA = pa.schema([pa.field("messages", pa.list_(_MESSAGE))])


def _chats(
    chance: np.random.Generator, systems: list[dict[str, str]], lines: list[str], mean_lines: float, count: int
) -> pa.Table:
    lengths = np.maximum(1, chance.poisson(mean_lines, count))
    picked = chance.integers(0, len(lines), int(lengths.sum()))
    letters = chance.integers(97, 123, (count, RARE_WORDS, 8), dtype=np.uint8)
    system = chance.integers(0, len(systems), count)
    rows, start = [], 0
    for row, length in enumerate(lengths):
        text = "".join([lines[at] for at in picked[start : start + length]])
        rare = " ".join(letters[row, word].tobytes().decode() for word in range(RARE_WORDS))
        rows.append([systems[system[row]], {"role": "user", "content": f"{text} {rare}"}])
        start += length
    return pa.table({"messages": pa.array(rows, pa.list_(_MESSAGE))}, schema=_SCHEMA)
