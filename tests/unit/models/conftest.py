"""A snapshot with InternLM2's real tokenizer (no weights), and one with a small tokenizer (random weights)."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.models.prepare import write_configs, write_tokenizer
from jobs.models.prompt_encoder import PromptEncoder
from tests.support.samples import tokenizer_model
from workers.demo.checkpoint import small_config
from workers.demo.random_model import write_random_model


@pytest.fixture(scope="session")
def sentencepiece_model() -> bytes:
    """Bytes of InternLM2's tokenizer.model, or of a small one with its properties."""
    return tokenizer_model()


@pytest.fixture(scope="session")
def chat_dir(tmp_path_factory: pytest.TempPathFactory, sentencepiece_model: bytes) -> Path:
    """Config and tokenizer of InternLM2.5-chat."""
    target = tmp_path_factory.mktemp("internlm2-chat")
    write_tokenizer(target, sentencepiece_model, vocab_size=92544)
    write_configs(target, small_config(vocab_size=92544, max_position_embeddings=32768), chat=True)
    return target


@pytest.fixture(scope="session")
def encoder(chat_dir: Path) -> PromptEncoder:
    return PromptEncoder.load(chat_dir)


@pytest.fixture(scope="session")
def random_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small snapshot. Read only: tests that change it copy it."""
    target = tmp_path_factory.mktemp("random") / "model"
    write_random_model(target)
    return target
