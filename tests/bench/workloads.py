"""The benchmark's datasets, by seed: the same rows everywhere, for every arm.

Prompts are words that are one token each in the model's tokenizer, so that a prompt of n words has n tokens or a few
more. `python -m tests.bench.workloads W7 MODEL OUT.parquet [--rows N] [--shrink F]` writes one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20_261_124


@dataclass(frozen=True)
class Lengths:
    """Tokens of one row: its prompt, of which the first `shared` are those of its prefix `group`, and its answer."""

    prompt: int
    output: int
    shared: int = 0
    group: int = 0


Draw = Callable[[np.random.Generator, int], list[Lengths]]


@dataclass(frozen=True)
class Workload:
    """One dataset.

    Attributes:
        rows: at full size.
    """

    title: str
    rows: int
    draw: Draw


def _fixed(prompt: int, output: int) -> Draw:
    return lambda _, rows: [Lengths(prompt, output)] * rows


def _chat_like(chance: np.random.Generator, rows: int) -> list[Lengths]:
    """Lognormal lengths with the medians and the spread of public chat logs (ShareGPT): about 160 in, 200 out."""
    prompts = np.clip(chance.lognormal(5.1, 1.1, rows), 8, 4096).astype(int)
    outputs = np.clip(chance.lognormal(5.3, 0.8, rows), 8, 1024).astype(int)
    return [Lengths(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)]


def _long_tail(chance: np.random.Generator, rows: int) -> list[Lengths]:
    outputs = np.clip(chance.lognormal(6.5, 0.6, rows), 256, 2048).astype(int)
    return [Lengths(256, int(o)) for o in outputs]


def _one_prefix(_: np.random.Generator, rows: int) -> list[Lengths]:
    return [Lengths(2100, 64, shared=2000, group=0)] * rows


def _many_prefixes(chance: np.random.Generator, rows: int) -> list[Lengths]:
    """Groups of six rows that share 1,500 tokens, in random order."""
    return [Lengths(1600, 64, shared=1500, group=int(row) // 6) for row in chance.permutation(rows)]


def _mix(chance: np.random.Generator, rows: int) -> list[Lengths]:
    half = rows // 2
    found = [Lengths(4096, 128)] * half + _long_tail(chance, rows - half)
    return [found[int(row)] for row in chance.permutation(rows)]


def _unshared(chance: np.random.Generator, rows: int) -> list[Lengths]:
    prompts, outputs = chance.integers(32, 3000, rows), chance.integers(16, 512, rows)
    return [Lengths(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)]


WORKLOADS = {
    "W1": Workload("1024 in, 256 out", 800, _fixed(1024, 256)),
    "W2": Workload("256 in, 256 out", 1280, _fixed(256, 256)),
    "W3": Workload("4096 in, 128 out", 256, _fixed(4096, 128)),
    "W4": Workload("chat-like lengths", 1000, _chat_like),
    "W5": Workload("256 in, 256 to 2048 out", 800, _long_tail),
    "W6": Workload("one prefix of 2,000", 960, _one_prefix),
    "W7": Workload("groups of 6 share 1,500, shuffled", 1920, _many_prefixes),
    "W8": Workload("W3 and W5 mixed", 400, _mix),
    "W9": Workload("32 to 3,000 in, nothing shared", 500, _unshared),
    "W11": Workload("256 in, 2,048 out", 300, _fixed(256, 2048)),
    "W10": Workload("package descriptions", 1000, lambda *_: []),
}

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "debian-descriptions-4k.parquet"
"""Real text for W10. No part of the repository: without it there is no W10."""


def single_token_words(tokenizer: Path, most: int = 4000) -> list[str]:
    """Words that are one token after a space, from a `tokenizer.json`."""
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text())["model"]["vocab"]
    words = [p[1:] for p in vocabulary if p[:1] == "▁" and p[1:].isascii() and p[1:].isalpha() and len(p) > 2]
    return sorted(words)[:: max(1, len(words) // most)]


def build(name: str, words: Sequence[str], *, rows: int | None = None, shrink: float = 1.0) -> pa.Table:
    """The rows of a workload: `prompt` and `max_tokens`.

    Args:
        shrink: factor on all lengths, for small machines.
    """
    workload = WORKLOADS[name]
    if name == "W10":
        return _descriptions(rows or workload.rows, shrink)
    chance = np.random.default_rng([SEED, int(name[1:])])
    lengths = workload.draw(chance, rows or workload.rows)

    def text(count: int, source: np.random.Generator) -> list[str]:
        return [words[i] for i in source.integers(0, len(words), count)]

    prompts = []
    for row in lengths:
        shared = int(row.shared * shrink)
        prefix = text(shared, np.random.default_rng([SEED, 1000, row.group])) if shared else []
        prompts.append(" ".join([*prefix, *text(max(1, int(row.prompt * shrink) - shared), chance)]))
    outputs = [max(1, int(row.output * shrink)) for row in lengths]
    return pa.table({"prompt": prompts, "max_tokens": pa.array(outputs, pa.int32())})


def _descriptions(rows: int, shrink: float) -> pa.Table:
    """The first rows of the corpus: system message and description, cut to so large a part; 128 tokens out."""
    chats = pq.read_table(CORPUS, columns=["messages"])["messages"].slice(0, rows).to_pylist()
    texts = ["\n\n".join(message["content"] for message in chat) for chat in chats]
    prompts = [text[: max(1, int(len(text) * shrink))] for text in texts]
    return pa.table({"prompt": prompts, "max_tokens": pa.array([max(1, int(128 * shrink))] * len(prompts), pa.int32())})


def rows_of(text: str) -> tuple[str, int]:
    """A workload and its number of rows from `W1=2400`, for command lines.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    name, _, rows = text.partition("=")
    if name not in WORKLOADS or not rows.isdecimal() or not int(rows):
        raise argparse.ArgumentTypeError(f"{text}: WORKLOAD=ROWS, a workload from {', '.join(WORKLOADS)}")
    return name, int(rows)


def main() -> None:
    """Parse the command line and write the dataset."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.workloads", description=__doc__)
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--shrink", type=float, default=1.0)
    given = parser.parse_args()
    words = single_token_words(given.model / "tokenizer.json")
    pq.write_table(build(given.name, words, rows=given.rows, shrink=given.shrink), given.out)


if __name__ == "__main__":
    main()
