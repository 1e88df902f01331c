"""`jobs model prepare` of InternEvo ("Origin") checkpoints, cut from a small model in every way that InternEvo does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from jobs.cli.model import app
from jobs.errors import InvalidModel, UsageError
from jobs.models.config import read_json
from jobs.models.origin import OriginOptions
from jobs.models.prepare import prepare
from jobs.models.prompt_encoder import PromptEncoder
from jobs.models.snapshot import verify, weight_files
from workers.demo.random_model import write_random_model
from workers.origin.convert import convert
from workers.origin.reading import load_config
from workers.origin.settings import Meaning

HEADS, KV_HEADS, HIDDEN, LAYERS = 8, 4, 128, 3
HEAD, QUERIES = HIDDEN // HEADS, HEADS // KV_HEADS
Weights = dict[str, torch.Tensor]
MEANING = ("qk_interleaved", "norm_head", "qkv_fusion")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small snapshot with the tokenizer of the real layout, bfloat16, with its tokenizer.model."""
    from safetensors.torch import save_file

    target = tmp_path_factory.mktemp("origin") / "model"
    sizes = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS, "num_kv_heads": KV_HEADS}
    write_random_model(target, **sizes)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(target / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors")
    (target / "tokenizer.model").write_bytes(_tokenizer())
    return target


def _tokenizer() -> bytes:
    from workers.demo.checkpoint import train_tokenizer
    from workers.demo.random_model import _VOCAB_SIZE, _lines

    return train_tokenizer(_lines(), _VOCAB_SIZE)


@dataclass(frozen=True)
class Cut:
    """One way in which InternEvo stores a model."""

    tp: int = 1
    wp: int = 0
    pp: tuple[int, ...] = (LAYERS,)
    dp: int = 0
    names: Callable[[int, int, int, int], str] = lambda tp, wp, pp, dp: f"model_tp{tp}_pp{pp}.pt"
    embed_dim: int = 1
    prefix: str = ""
    interleaved: bool = False
    apart: str = ""
    config: dict[str, Any] | None = field(default_factory=lambda: {"adapt_hf": True, "norm_head": False})


def named(pattern: str) -> Callable[[int, int, int, int], str]:
    return lambda tp, wp, pp, dp: pattern.format(tp=tp, wp=wp, pp=pp, dp=dp)


ISP, ISP_LATER, FSDP = "model_tp{tp}_wp{wp}_pp{pp}.pt", "model_wp{wp}_pp{pp}.pt", "model_tp{tp}_pp{pp}_dp{dp}.pt"

CUTS = {
    "whole": Cut(),
    "tp 2": Cut(tp=2),
    "tp 4": Cut(tp=4),
    "tp 2, embedding by words": Cut(tp=2, embed_dim=0),
    "pp 2": Cut(pp=(1, 2)),
    "tp 2, pp 3": Cut(tp=2, pp=(1, 1, 1)),
    "prefix": Cut(tp=2, prefix="model."),
    "older embedding": Cut(prefix="model.tok_embeddings.word_embeddings."),
    "interleaved": Cut(tp=2, interleaved=True, config={"adapt_hf": False, "norm_head": False}),
    "interleaved, later": Cut(interleaved=True, config={"qk_interleaved": True, "norm_head": False}),
    "apart": Cut(tp=2, apart="heads", config={"adapt_hf": True, "enable_qkv_fusion": False}),
    "apart, trained fused": Cut(tp=2, apart="rows", config={"adapt_hf": True, "enable_qkv_fusion": True}),
    "apart, interleaved": Cut(
        tp=2, apart="heads", interleaved=True, config={"qk_interleaved": True, "enable_qkv_fusion": False}
    ),
    "isp": Cut(tp=2, wp=4, names=named(ISP)),
    "isp, as many": Cut(tp=2, wp=2, names=named(ISP)),
    "isp without tp": Cut(tp=1, wp=2, pp=(2, 1), names=named(ISP)),
    "isp, later": Cut(wp=4, names=named(ISP_LATER)),
    "fsdp": Cut(tp=2, dp=3, names=named(FSDP)),
}


def cut_into(weights: Weights, target: Path, cut: Cut) -> Path:
    """Write the files of a checkpoint."""
    target.mkdir()
    first = 0
    for stage, count in enumerate(cut.pp):
        whole = dict(_stage(weights, cut, first, count, stage == 0, stage == len(cut.pp) - 1))
        first += count
        for rank in range(max(cut.tp, cut.wp)):
            tp, wp = rank % cut.tp, rank % max(cut.wp, 1)
            state = OrderedDict(_of_rank(whole, cut, tp, wp))
            for dp in range(cut.dp or 1):
                held = {name: _sharded(tensor, dp, cut.dp) for name, tensor in state.items()} if cut.dp else state
                torch.save(held, target / cut.names(tp, wp, stage, dp))
    if cut.config is not None:
        torch.save(cut.config, target / "model_config.pt")
    (target / "topo_tp0_pp0.json").write_bytes(pickle.dumps({"anything": 1}))
    return target


def _stage(
    weights: Weights, cut: Cut, first: int, count: int, head: bool, tail: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    if head:
        yield "tok_embeddings.weight", weights["model.tok_embeddings.weight"]
    for index in range(count):
        for name, tensor in weights.items():
            if name.startswith(start := f"model.layers.{first + index}."):
                yield f"layers.{index}.{name.removeprefix(start)}", tensor
        yield f"layers.{index}.attention.rotary_emb.inv_freq", torch.ones(HEAD // 2)
    if tail:
        yield "norm.weight", weights["model.norm.weight"]
        yield "output.weight", weights["output.weight"]


def _of_rank(whole: Weights, cut: Cut, tp: int, wp: int) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in whole.items():
        of_layer = name.startswith("layers.")
        ranks, rank = (
            (cut.wp, wp) if cut.wp and (of_layer or cut.names(0, 0, 0, 0).startswith("model_wp")) else (cut.tp, tp)
        )
        dim = 0
        if name.endswith(("wo.weight", "w2.weight")) and not cut.wp:
            dim = 1
        elif name == "tok_embeddings.weight":
            dim = cut.embed_dim
        stored = name
        if cut.prefix:
            stored = f"{cut.prefix}weight" if cut.prefix.endswith("dings.") and "tok_" in name else f"model.{name}"
        if name.endswith("wqkv.weight"):
            yield from _wqkv(stored, tensor, cut, ranks, rank)
        elif tensor.ndim == 1:
            yield stored, tensor
        else:
            yield stored, tensor.chunk(ranks, dim)[rank].clone()


def _wqkv(name: str, fused: torch.Tensor, cut: Cut, ranks: int, rank: int) -> Iterator[tuple[str, torch.Tensor]]:
    grouped = fused.view(KV_HEADS, QUERIES + 2, HEAD, HIDDEN)
    if cut.interleaved:
        pairs = torch.stack(grouped[:, :-1].chunk(2, dim=2), dim=3).flatten(2, 3)
        grouped = torch.cat((pairs, grouped[:, -1:]), dim=1)
    rows = grouped.reshape(-1, HIDDEN)
    if not cut.apart:
        yield name, rows.chunk(ranks)[rank].clone()
        return
    if cut.apart == "heads":
        parts = [part.reshape(-1, HIDDEN).chunk(ranks)[rank] for part in grouped.split((QUERIES, 1, 1), dim=1)]
    else:
        sizes = [size * HEAD // ranks for size in (HEADS, KV_HEADS, KV_HEADS)]
        parts = list(rows.chunk(ranks)[rank].split(sizes))
    for kind, part in zip(("wq", "wk", "wv"), parts, strict=True):
        yield name.replace("wqkv", kind), part.clone()


@pytest.fixture(autouse=True, scope="module")
def process_group() -> Iterator[None]:
    """Torch pickles a sharded tensor only within a process group; nothing is sent in this one."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=3, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


def _sharded(tensor: torch.Tensor, rank: int, ranks: int) -> Any:
    """Return a rank's part of a tensor as FSDP saves it."""
    from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata, TensorProperties
    from torch.distributed._shard.sharding_spec import ShardMetadata

    pieces = tensor.chunk(ranks)
    offsets = [sum(len(piece) for piece in pieces[:n]) for n in range(len(pieces))]
    # The group's own rank is 0, so the others count from the rank that holds this part.
    metadata = [
        ShardMetadata([offset, *[0] * (tensor.ndim - 1)], list(piece.shape), placement=f"rank:{(n - rank) % ranks}/cpu")
        for n, (offset, piece) in enumerate(zip(offsets, pieces, strict=True))
    ]
    of_all = ShardedTensorMetadata(metadata, tensor.shape, TensorProperties(dtype=tensor.dtype))
    held = [Shard(pieces[rank].clone(), metadata[rank])] if rank < len(pieces) else []
    return ShardedTensor._init_from_local_shards_and_global_metadata(held, of_all)


def options(model: Path, **more: Any) -> OriginOptions:
    return OriginOptions(config=model / "config.json", tokenizer=model / "tokenizer.model", **more)


def weights_of(folder: Path) -> Weights:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def converted(model: Path, source: Path, target: Path, **said: bool) -> Path:
    """Convert in this process."""
    target.mkdir()
    shutil.copy(model / "config.json", target)
    convert(source, target, meaning=Meaning.of(source, **(dict.fromkeys(MEANING) | said)))
    return target


@pytest.mark.parametrize("name", CUTS)
def test_every_layout_comes_back_with_equal_tensors(model: Path, tmp_path: Path, name: str) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", CUTS[name])
    target = converted(model, source, tmp_path / "target")
    back, weights = weights_of(target), weights_of(model)
    assert back.keys() == weights.keys()
    assert [key for key in weights if not torch.equal(back[key], weights[key])] == []
    assert [file.name for file in weight_files(target)] == sorted(file.name for file in target.glob("*.safetensors"))
    assert read_json(target / "config.json")["torch_dtype"] == "bfloat16"


def test_a_normalised_head(model: Path, tmp_path: Path) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(tp=2, config={"adapt_hf": True, "norm_head": True}))
    output = weights_of(converted(model, source, tmp_path / "target"))["output.weight"]
    assert torch.equal(output, torch.nn.functional.normalize(weights_of(model)["output.weight"], dim=-1))


def test_options_stand_in_for_a_missing_configuration(model: Path, tmp_path: Path) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(apart="rows", interleaved=True, config=None))
    target = converted(model, source, tmp_path / "target", qk_interleaved=True, norm_head=False, qkv_fusion=True)
    back, weights = weights_of(target), weights_of(model)
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_a_configuration_as_the_trainer_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary of a class that is not there when it is read."""
    module = types.ModuleType("internlm.core.context.parallel_context")
    module.Config = type("Config", (dict,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    with monkeypatch.context() as there:
        for name in ("internlm", "internlm.core", "internlm.core.context"):
            there.setitem(sys.modules, name, types.ModuleType(name))
        there.setitem(sys.modules, module.__name__, module)
        torch.save(module.Config(adapt_hf=False, dtype=torch.bfloat16), tmp_path / "model_config.pt")
    assert load_config(tmp_path / "model_config.pt") == {"adapt_hf": False, "dtype": torch.bfloat16}


class Evil:
    """Runs a command when it is unpickled the plain way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["model_tp0_pp0.pt", "model_config.pt"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(model: Path, tmp_path: Path, name: str) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut())
    mark = tmp_path / "ran"
    torch.save({"norm.weight": Evil(mark)}, source / name)
    with pytest.raises(InvalidModel, match=r"system") as caught:
        converted(model, source, tmp_path / "target")
    assert "nothing of this one was run" in caught.value.hint
    assert not mark.exists()


def remove(name: str) -> Callable[[Path, Path], object]:
    return lambda source, config: (source / name).unlink()


def say(**values: Any) -> Callable[[Path, Path], object]:
    """Change the model's config.json."""
    return lambda source, config: config.write_text(json.dumps(read_json(config) | values))


def store(name: str, **tensors: torch.Tensor) -> Callable[[Path, Path], object]:
    """Add tensors to a file."""

    def change(source: Path, config: Path) -> None:
        torch.save(
            torch.load(source / name) | {key.replace("__", "."): value for key, value in tensors.items()}, source / name
        )

    return change


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a rank is missing": (remove("model_tp1_pp0.pt"), "lacks the file of rank tp 1"),
    "a rank in the middle is missing": (
        lambda s, c: [remove(f"model_tp0_pp{n}.pt")(s, c) for n in (0, 1)],
        "no file of tp rank 0",
    ),
    "the last stage is missing": (
        lambda s, c: [remove(f"model_tp{n}_pp1.pt")(s, c) for n in (0, 1)],
        "2 layers, but .* means 3|no output",
    ),
    "experts": (lambda s, c: (s / "model_moe_layer0_expert0_tp0.pt").touch(), "mixture of experts"),
    "another vocabulary": (say(vocab_size=1024), "do not make up|has parts of shape"),
    "more layers": (say(num_hidden_layers=4), "3 layers, but config.json means 4"),
    "a bias": (
        store("model_tp0_pp0.pt", layers__0__attention__wo__bias=torch.ones(4)),
        "wo.bias, which InternLM2 has not",
    ),
    "chunks": (
        store("model_tp0_pp0.pt", **{"0__layers__0__ffn_norm__weight": torch.ones(4)}),
        "several pipeline chunks",
    ),
    "two data types": (store("model_tp0_pp1.pt", norm__weight=torch.ones(HIDDEN)), "mixes bfloat16, float32"),
    "norms that differ": (
        store("model_tp1_pp1.pt", norm__weight=torch.zeros(HIDDEN, dtype=torch.bfloat16)),
        "norm.weight is not the same",
    ),
    "a truncated file": (
        lambda s, c: (s / "model_tp0_pp0.pt").write_bytes((s / "model_tp0_pp0.pt").read_bytes()[:5000]),
        "cannot be read",
    ),
    "no configuration": (remove("model_config.pt"), "is not known: .* is missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_converted_is_refused_by_name(model: Path, tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(tp=2, pp=(2, 1)))
    target = tmp_path / "target"
    target.mkdir()
    shutil.copy(model / "config.json", target)
    change(source, target / "config.json")
    with pytest.raises(InvalidModel, match=message) as caught:
        convert(source, target, meaning=Meaning.of(source, **dict.fromkeys(MEANING)))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"norm_head": False}, "does not say it"),
        ({"adapt_hf": True, "qk_interleaved": True}, "contradict"),
        ({"adapt_hf": True, "rope_base": 1_000_000}, "rope_base 1000000, but config.json means"),
        ({"adapt_hf": True, "hidden_size": 6144}, "hidden_size 6144"),
        ({"adapt_hf": True, "num_chunks": 2}, "2 pipeline chunks"),
        ({"adapt_hf": True, "no_bias": False}, "biases"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    model: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(config=config))
    with pytest.raises(InvalidModel, match=message):
        converted(model, source, tmp_path / "target")


def test_apart_needs_to_know_how_it_was_trained(model: Path, tmp_path: Path) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(apart="rows"))
    with pytest.raises(InvalidModel, match="enable_qkv_fusion") as caught:
        converted(model, source, tmp_path / "target")
    assert "--no-qkv-fusion" in caught.value.hint


def test_from_the_command_line_to_a_verified_snapshot(model: Path, tmp_path: Path) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(tp=2))
    target, given = (
        tmp_path / "snapshot",
        ["--config", str(model / "config.json"), "--tokenizer", str(model / "tokenizer.model")],
    )
    result = CliRunner().invoke(app, ["prepare", str(source), str(target), "--chat", "-q", *given])
    assert result.exit_code == 0, result.output
    verify(target)
    back, weights = weights_of(target), weights_of(model)
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    assert PromptEncoder.load(target).eos_ids == PromptEncoder.load(model).eos_ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin", "snapshot"], "nothing is left beside it"


def test_a_failure_in_the_program_reaches_the_caller(model: Path, tmp_path: Path) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut(config=None))
    with pytest.raises(InvalidModel, match="interleaved is not known"):
        prepare(source, tmp_path / "t", chat=True, origin=options(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["origin"]


@pytest.mark.parametrize(
    ("given", "chat", "message"),
    [
        ({}, True, "neither a config.json nor a tokenizer"),
        ({"config": Path("nope.json"), "tokenizer": Path("nope.model")}, True, "no file nope.json"),
        ({}, None, "whether it is a chat model"),
    ],
)
def test_options_that_are_missing(
    model: Path, tmp_path: Path, given: dict[str, Any], chat: bool | None, message: str
) -> None:
    source = cut_into(weights_of(model), tmp_path / "origin", Cut())
    with pytest.raises(UsageError, match=message):
        prepare(source, tmp_path / "t", chat=chat, origin=OriginOptions(**given))
    assert not (tmp_path / "t").exists()


def test_options_for_origin_with_another_kind_of_directory(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an InternEvo"):
        prepare(model, tmp_path / "t", origin=options(model))
