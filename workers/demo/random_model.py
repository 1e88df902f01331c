"""`python -m workers.demo.random_model OUT`: a tiny InternLM2 checkpoint with random weights, for tests.

Its answers mean nothing, but they are the same on every machine, and everything else about it is real:
architecture, tokenizer, chat markers, snapshot.
"""

from __future__ import annotations

import argparse
import random
import string
from pathlib import Path

from workers.demo.checkpoint import random_weights, small_config, train_tokenizer, write_checkpoint

_VOCAB_SIZE = 512


def write_random_model(
    target: Path,
    *,
    tokenizer: Path | None = None,
    hidden_size: int = 128,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    max_position_embeddings: int = 4096,
    seed: int = 0,
) -> None:
    """Write the snapshot, float32.

    Args:
        tokenizer: a SentencePiece model to use, such as InternLM2's. None: a small one of 512 pieces.
    """
    from safetensors.numpy import save_file

    model = tokenizer.read_bytes() if tokenizer else train_tokenizer(_lines(), _VOCAB_SIZE)
    config = small_config(
        vocab_size=_count_pieces(model),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        max_position_embeddings=max_position_embeddings,
    )
    weights = random_weights(config, seed)
    write_checkpoint(target, config, model, lambda path: save_file(weights, path, metadata={"format": "pt"}))


def _count_pieces(model: bytes) -> int:
    from sentencepiece import SentencePieceProcessor

    return int(SentencePieceProcessor(model_proto=model).get_piece_size())


def _lines() -> list[str]:
    chance = random.Random(0)  # noqa: S311 - reproducible text, no secret
    syllables = [c + v for c in string.ascii_lowercase for v in "aeiou"]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 3))) for _ in range(400)]
    return [" ".join(chance.choices(words, k=8)).capitalize() + ", 0123456789.\n" for _ in range(2000)]


def main() -> None:
    """Parse the command line and write the model."""
    parser = argparse.ArgumentParser(prog="python -m workers.demo.random_model", description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--tokenizer", type=Path, help="SentencePiece model to use instead of a small one")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_random_model(arguments.out, tokenizer=arguments.tokenizer, seed=arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
