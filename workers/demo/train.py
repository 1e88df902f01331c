"""`python -m workers.demo.train OUT`: trains the demo model, minutes on a CPU, from a fixed seed.

The checkpoint next to this file (`workers/demo/model/`) came from this recipe with its defaults.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from jobs.models.prompt_encoder import PromptEncoder
from workers.demo.checkpoint import small_config, train_tokenizer, write_checkpoint
from workers.demo.network import Network
from workers.demo.tasks import SYSTEMS, WORDS, is_right, messages, questions

_VOCAB_SIZE = 960
_IGNORE = -100


def build_tokenizer() -> bytes:
    """Train the demo model's tokenizer (SentencePiece) on its own questions and answers. Digits stay single."""
    lines = [*SYSTEMS] * 500 + [word for word in WORDS for _ in range(200)]
    for question in islice(questions(1, held_out=False), 20_000):
        lines += [question.prompt, question.expected]
    return train_tokenizer(lines, _VOCAB_SIZE, pieces=("user", "assistant", "system", "\n"))


def batches(encoder: PromptEncoder, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield endless training batches: ids and targets (batch, length); only the answer's tokens are targets."""
    chance = random.Random(seed)  # noqa: S311 - reproducible training data, no secret
    stream = questions(seed, held_out=False)
    end = encoder.eos_ids[-1]
    while True:
        # Rows of similar length share a batch, so that little of it is padding.
        pool = list(islice(stream, size * 16))
        prompts = encoder.encode_chats([messages(question, chance) for question in pool])
        answers = [ids[1:] for ids in encoder.encode_prompts([question.expected for question in pool])]  # type: ignore[index]
        rows = sorted(zip(prompts, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))  # type: ignore[arg-type]
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        chance.shuffle(groups)
        for group in groups:
            yield _pad([(list(prompt), [*answer, end]) for prompt, answer in group])  # type: ignore[arg-type]


def _pad(rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), _IGNORE)
    for row, (prompt, answer) in enumerate(rows):
        whole = torch.tensor(prompt + answer)
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return ids, targets


def train(config: Mapping[str, Any], encoder: PromptEncoder, *, num_steps: int, seed: int) -> Network:
    """Train from scratch, printing the loss and the share of right answers now and then."""
    torch.manual_seed(seed)
    network = Network(config)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    matrices = [p for p in network.parameters() if p.dim() == 2]
    others = [p for p in network.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=0.0, betas=(0.9, 0.98)
    )
    started = time.monotonic()
    for step, (ids, targets) in enumerate(islice(batches(encoder, 128, seed), num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, num_steps)
        wanted = targets != _IGNORE
        loss = F.cross_entropy(network(ids, wanted), targets[wanted])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            rates = evaluate(network, encoder, num_questions=200, seed=7)
            shown = " ".join(f"{task} {rate:.2f}" for task, rate in rates.items())
            print(f"step {step + 1} loss {loss.item():.4f} {time.monotonic() - started:.0f} s  {shown}", flush=True)
    return network


def _learning_rate(step: int, num_steps: int, peak: float = 2e-3) -> float:
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


@torch.no_grad()
def evaluate(network: Network, encoder: PromptEncoder, *, num_questions: int, seed: int) -> dict[str, float]:
    """Return the share of held-out questions that greedy decoding answers right, per task."""
    chance = random.Random(seed)  # noqa: S311 - reproducible questions, no secret
    right: dict[str, list[bool]] = {}
    for question in islice(questions(seed, held_out=True), num_questions):
        ids = encoder.encode_chat(messages(question, chance))
        answer: list[int] = []
        while len(answer) < 32 and (token := int(network(torch.tensor([ids + answer]))[0, -1].argmax())) not in (
            encoder.eos_ids
        ):
            answer.append(token)
        right.setdefault(question.task, []).append(is_right(question.expected, encoder.decode(answer)))
    return {task: sum(answers) / len(answers) for task, answers in sorted(right.items())}


def main() -> None:
    """Train, round to bfloat16, judge what was written, and write it."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m workers.demo.train", description=__doc__)
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    config = small_config(
        vocab_size=_VOCAB_SIZE, num_layers=4, hidden_size=128, intermediate_size=384, dtype="bfloat16"
    )
    tokenizer = build_tokenizer()
    weights: dict[str, torch.Tensor] = {}
    write_checkpoint(arguments.out, config, tokenizer, lambda path: save_file(weights, path))
    encoder = PromptEncoder.load(arguments.out)
    network = train(config, encoder, num_steps=arguments.steps, seed=0)
    weights = {name: tensor.bfloat16().contiguous() for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    rates = evaluate(network, encoder, num_questions=2000, seed=11)
    print("held out, bfloat16 weights:", " ".join(f"{task} {rate:.4f}" for task, rate in rates.items()))
    write_checkpoint(arguments.out, config, tokenizer, lambda path: save_file(weights, path, metadata={"format": "pt"}))


if __name__ == "__main__":
    main()
