"""An engine's limits, from the plan's row lengths and the available memory. Pure.

vLLM recompiles the model, which takes half a minute on a GPU, for each new longest sequence, number of sequences, step
size or list of graphs (its configurations' `compute_hash`, 0.26 to 0.32). On GPUs we use few values of these, so that
the next job can use what one job has compiled, whatever its rows are like. Values set by the user are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.rows.prefixes import BLOCK_TOKENS
from schemas.records import LengthBin, Plan
from schemas.spec import EngineSpec

LEAST_MODEL_LEN, UNBOUNDED = 1024, 2**62
COMMON_MODEL_LEN = 8192
"""Longest sequence of a GPU's engine if the rows need less; if they need more, it is the model's longest."""

GPU_NUM_SEQS = 1024
"""Sequences allowed at once; how many are used is decided row by row (see `workers.replica.room`). Allowing 1,024
instead of 256 costs 0.2 % of an H200's KV cache (InternLM2.5-20B, vLLM 0.26)."""

CPU_NUM_SEQS = 64
"""More sequences gain nothing where a step's time goes into computing, not into reading the weights."""

SMALL_GPU_BYTES = 35 * 10**9
GPU_BATCHED_TOKENS, SMALL_GPU_BATCHED_TOKENS, CPU_BATCHED_TOKENS = 8192, 4096, 2048
"""Larger steps do not speed up matrix products: 675 TFLOP/s on an H200 with 8,192 tokens, 678 with half as many."""

SCORE_BATCHED_TOKENS = 2048
"""Scoring can need the logits of a whole batch: 0.8 GB in float32 with InternLM2's vocabulary of 92,544."""

GPU_RESERVE_BYTES = 4 * 10**9
"""For activations and CUDA graphs."""

MOST_GRAPH_TOKENS = 1024
"""Tokens of the largest step that a CUDA graph is captured for; beyond, launching kernels costs next to nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Hardware that one replica computes on.

    Attributes:
        memory_bytes: memory of one GPU; 0 without GPUs.
    """

    on_gpu: bool
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """Memory that a model takes, over all GPUs of a replica.

    Attributes:
        kv_bytes_per_token: keys and values of all layers.
    """

    weight_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits that an engine is started with.

    Attributes:
        max_model_len: longest sequence, prompt and answer, in tokens.
        max_num_seqs: most sequences decoded at once.
        max_num_batched_tokens: tokens of one step.
        graph_sizes: tokens of the steps that CUDA graphs are captured for; empty without graphs.
    """

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    graph_sizes: tuple[int, ...]


def resolve_limits(
    spec: EngineSpec, plan: Plan | None, device: Device, size: ModelSize, *, model_max_len: int, scores: bool = False
) -> Limits:
    """Choose the limits for a job's rows on a device.

    Args:
        plan: None if there is none yet; the limits then suit rows of any length.
        model_max_len: longest sequence that the model takes.
        scores: whether the job scores instead of generating.
    """
    bins = plan.lengths if plan is not None else ()
    num_seqs = spec.max_num_seqs or (GPU_NUM_SEQS if device.on_gpu else CPU_NUM_SEQS)
    if spec.max_num_batched_tokens and not spec.max_num_seqs:  # a step has at least one token of each
        num_seqs = min(num_seqs, spec.max_num_batched_tokens)
    model_len = min(_model_len(bins, scores=scores), model_max_len)
    common_len = COMMON_MODEL_LEN if model_len <= COMMON_MODEL_LEN <= model_max_len else model_max_len
    if device.on_gpu and common_len <= _kv_tokens(spec, device, size) / 2:
        model_len = common_len
    guessed = 1 + (spec.speculative_ngram or 0)
    return Limits(
        max_model_len=spec.max_model_len or model_len,
        max_num_seqs=num_seqs,
        max_num_batched_tokens=max(spec.max_num_batched_tokens or _batched_tokens(device, scores=scores), num_seqs),
        graph_sizes=_graph_sizes(num_seqs * guessed) if device.on_gpu and not spec.enforce_eager else (),
    )


def _model_len(bins: tuple[LengthBin, ...], *, scores: bool) -> int:
    if not bins:
        return UNBOUNDED
    # To score a row, vLLM generates a token after it.
    return max(LEAST_MODEL_LEN, bins[-1].upto_tokens + (BLOCK_TOKENS if scores else 0))


def _kv_tokens(spec: EngineSpec, device: Device, size: ModelSize) -> float:
    """Estimate how many tokens the GPUs' KV cache will hold."""
    taken = size.weight_bytes + GPU_RESERVE_BYTES * spec.tensor_parallel_size
    left = device.memory_bytes * spec.gpu_memory_utilization * spec.tensor_parallel_size - taken
    return max(0.0, left) / size.kv_bytes_per_token


def _batched_tokens(device: Device, *, scores: bool) -> int:
    if scores:
        return SCORE_BATCHED_TOKENS
    if not device.on_gpu:
        return CPU_BATCHED_TOKENS
    return SMALL_GPU_BATCHED_TOKENS if device.memory_bytes < SMALL_GPU_BYTES else GPU_BATCHED_TOKENS


def _graph_sizes(most_tokens: int) -> tuple[int, ...]:
    """Return multiples of 8 up to 64, then eight sizes per doubling: at most an eighth of a large step is padding."""
    top = min(most_tokens, MOST_GRAPH_TOKENS)
    sizes = [1, 2, 4, 8]
    while sizes[-1] < top:
        doubling = 1 << (sizes[-1].bit_length() - 1)
        sizes.append(sizes[-1] + max(8, doubling // 8))
    return (*(size for size in sizes if size < top), top)
