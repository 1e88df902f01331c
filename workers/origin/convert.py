"""Conversion of an InternEvo checkpoint to safetensors files with Hugging Face's names for InternLM2.

Rules of merging: InternEvo's `transformers/convert2hf_internlm2.py` at c628a8c. Along which dimension ranks have cut a
tensor follows from the shapes, which `config.json` gives: no flag of the trainer is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from jobs.errors import InvalidModel
from jobs.models.config import read_json
from jobs.models.prepare import write_json
from jobs.models.snapshot import INDEX
from workers.origin.files import find_stages
from workers.origin.settings import Meaning, Shape, check_config
from workers.origin.stage import Stage

_QKV = ("wq", "wk", "wv")


def convert(source: Path, target: Path, *, meaning: Meaning, report: Callable[[str], None] = lambda _: None) -> None:
    """Write weights and their index to `target`, which has the model's `config.json`; correct its data type there.

    One file has one layer, or the embeddings, or the output layer: memory holds about two copies of the largest of
    these at once.

    Raises:
        InvalidModel: the checkpoint is incomplete, is not the model of `config.json`, or needs code to be loaded.
    """
    shape = Shape.of(target)
    check_config(source, target, shape)
    stages = [Stage(parts) for parts in find_stages(source)]
    if (found := sum(stage.num_layers for stage in stages)) != shape.layers:
        raise InvalidModel(
            f"{source} has {found} layers, but config.json means {shape.layers}.",
            "Give the config.json of the same model, and all files of the checkpoint.",
        )
    dtypes = {dtype for stage in stages for dtype in stage.dtypes()}
    if len(dtypes) != 1:
        raise InvalidModel(
            f"{source} mixes {', '.join(sorted(map(_name, dtypes)))}.", "Save all weights with one data type."
        )
    files: dict[str, str] = {}
    total_size = 0
    for number, tensors in enumerate(_files(stages, shape, meaning), 1):
        file = f"model-{number:05}-of-{shape.layers + 2:05}.safetensors"
        report(f"Writing {file}.")
        save_file({name: one.contiguous() for name, one in tensors.items()}, target / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
        total_size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(target / INDEX, {"metadata": {"total_size": total_size}, "weight_map": files})
    config = {key: value for key, value in read_json(target / "config.json").items() if key != "dtype"}
    write_json(target / "config.json", config | {"torch_dtype": _name(dtypes.pop())})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _files(stages: list[Stage], shape: Shape, meaning: Meaning) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each file to write."""
    first, last = stages[0], stages[-1]
    yield {"model.tok_embeddings.weight": first.join("tok_embeddings.weight", (shape.vocab, shape.hidden))}
    number = 0
    for stage in stages:
        for index in range(stage.num_layers):
            layer = _layer(stage, f"layers.{index}", shape, meaning)
            yield {f"model.layers.{number}.{name}.weight": tensor for name, tensor in layer.items()}
            number += 1
    output = last.join("output.weight", (shape.vocab, shape.hidden))
    if meaning.norm_head:
        output = torch.nn.functional.normalize(output, dim=-1)
    yield {"model.norm.weight": last.join("norm.weight", (shape.hidden,)), "output.weight": output}


def _layer(stage: Stage, layer: str, shape: Shape, meaning: Meaning) -> dict[str, torch.Tensor]:
    square, up, row = (shape.hidden, shape.hidden), (shape.ffn, shape.hidden), (shape.hidden,)
    shapes = {
        "attention.wo": square,
        "feed_forward.w1": up,
        "feed_forward.w3": up,
        "feed_forward.w2": up[::-1],
        "attention_norm": row,
        "ffn_norm": row,
    }
    tensors = {name: stage.join(f"{layer}.{name}.weight", wanted) for name, wanted in shapes.items()}
    return tensors | {"attention.wqkv": _wqkv(stage, f"{layer}.attention", shape, meaning)}


def _wqkv(stage: Stage, attention: str, shape: Shape, meaning: Meaning) -> torch.Tensor:
    """Return the fused matrix: for each key-value head its heads of q, then its k, then its v."""
    queries, head, hidden = shape.heads // shape.kv_heads, shape.head, shape.hidden
    rows = (shape.heads + 2 * shape.kv_heads) * head
    apart = [f"{attention}.{name}.weight" for name in _QKV]
    if apart[0] not in stage:
        fused = stage.join(f"{attention}.wqkv.weight", (rows, hidden))
    elif meaning.qkv_fusion is None:
        raise InvalidModel(
            f"{attention} has wq, wk and wv apart, and model_config.pt does not say enable_qkv_fusion.",
            "Give --qkv-fusion if the model was trained with one matrix for them (InternEvo's default), else "
            "--no-qkv-fusion.",
        )
    elif meaning.qkv_fusion:
        # InternEvo's hook cuts the grouped rows of each rank into pieces of these sizes: `modules/mha.py`, 08eaa9a on.
        fused = stage.join_by_rank(apart, (rows, hidden))
    else:
        sizes = (shape.heads * head, shape.kv_heads * head, shape.kv_heads * head)
        q, k, v = (
            stage.join(name, (size, hidden)).view(shape.kv_heads, -1, head, hidden)
            for name, size in zip(apart, sizes, strict=True)
        )
        fused = torch.cat((q, k, v), dim=1).view(rows, hidden)
    if not meaning.qk_interleaved:
        return fused
    grouped = fused.view(shape.kv_heads, queries + 2, head, hidden)
    turned, values = grouped[:, :-1], grouped[:, -1:]
    halves = torch.cat((turned[:, :, 0::2], turned[:, :, 1::2]), dim=2)
    return torch.cat((halves, values), dim=1).view(rows, hidden)
