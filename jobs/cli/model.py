"""`jobs model`: make and check model snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.output import Output, with_output

if TYPE_CHECKING:
    from jobs.models.snapshot import Snapshot

_ORIGIN = "InternEvo ('Origin') checkpoints"

app = typer.Typer(help="Model snapshots: self-contained, hashed, free of remote code.", no_args_is_help=True)


@app.command("prepare")
@with_output
def prepare_model(
    out: Output,
    source: Annotated[Path, typer.Argument(help="Directory of an InternLM2/2.5 model.", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="New directory for the snapshot.", metavar="DST")],
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--base", help="End answers at <|im_end|> or not. Default: as the download says."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights even where they could be linked.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="config.json of the same model.", rich_help_panel=_ORIGIN)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="tokenizer.model of the same model.", rich_help_panel=_ORIGIN)
    ] = None,
    qk_interleaved: Annotated[
        bool | None,
        typer.Option(
            "--qk-interleaved/--no-qk-interleaved",
            help="Rows of q and k are interleaved in pairs. Default: as model_config.pt says.",
            rich_help_panel=_ORIGIN,
        ),
    ] = None,
    norm_head: Annotated[
        bool | None,
        typer.Option(
            "--norm-head/--no-norm-head",
            help="The output layer is normalised. Default: as model_config.pt says.",
            rich_help_panel=_ORIGIN,
        ),
    ] = None,
    qkv_fusion: Annotated[
        bool | None,
        typer.Option(
            "--qkv-fusion/--no-qkv-fusion",
            help="Trained with one matrix for q, k and v. Only for files with wq, wk and wv. "
            "Default: as model_config.pt says.",
            rich_help_panel=_ORIGIN,
        ),
    ] = None,
) -> None:
    """Turn an InternLM2/2.5 model into a snapshot that needs none of its code.

    The tokenizer is converted and compared with SentencePiece. Other models that vLLM supports need no preparation.
    SRC is a download from Hugging Face or ModelScope, or an InternEvo ("Origin") checkpoint (model_tp*_pp*.pt), which
    is merged and converted; nothing that its pickle files might hold is run.

    Examples:

      jobs model prepare ./internlm2_5-20b-chat ./models/internlm2_5-20b-chat

      jobs model prepare ./origin DST --chat --config config.json --tokenizer tokenizer.model
    """
    from jobs.models.origin import OriginOptions
    from jobs.models.prepare import prepare

    signals.stands(f"Nothing was written to {target}.")
    snapshot = prepare(
        source,
        target,
        chat=chat,
        copy=copy,
        origin=OriginOptions(
            config=config,
            tokenizer=tokenizer,
            qk_interleaved=qk_interleaved,
            norm_head=norm_head,
            qkv_fusion=qkv_fusion,
        ),
        report=out.note,
        finished=lambda: signals.stands(f"The snapshot {target} is whole."),
    )
    _show_snapshot(out, target, snapshot)


@app.command("fetch")
@with_output
def fetch_model(
    out: Output,
    source: Annotated[str, typer.Argument(help="A snapshot: s3://bucket/prefix, or a directory.", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="Directory for the copy.", metavar="DST")],
) -> None:
    """Copy a snapshot to a disk of this machine, and check every hash.

    DST appears whole or not at all. If it is that snapshot already, its hashes are checked and nothing is copied: the
    command may run before each start of a node. SRC is what `jobs model prepare` has made, uploaded as it is.

    Example:

      jobs model fetch s3://bucket/models/internlm2_5-20b-chat /models/internlm2_5-20b-chat
    """
    from jobs import settings
    from jobs.models.fetch import fetch

    signals.stands(f"Nothing was written to {target}; the same command again starts anew.")
    snapshot = fetch(
        source,
        target,
        allowed_buckets=settings.load({}).allowed_buckets,
        report=out.note,
        finished=lambda: signals.stands(f"The snapshot {target} is whole."),
    )
    _show_snapshot(out, target, snapshot)


@app.command("verify")
@with_output
def verify_model(
    out: Output, model_dir: Annotated[Path, typer.Argument(help="Directory of a snapshot.", metavar="DIR")]
) -> None:
    """Compare every file of a snapshot with its hash, and show what would run.

    Example:

      jobs model verify /models/internlm2_5-20b-chat
    """
    from jobs.models.snapshot import check_model, fingerprint, verify

    snapshot = verify(model_dir)
    info = check_model(model_dir)
    out.record(
        {
            "path": str(model_dir),
            "fingerprint": fingerprint(model_dir),
            "files": len(snapshot.files),
            "architecture": info.architecture,
            "max_model_len": info.max_model_len,
            "vocab_size": info.vocab_size,
            "eos_ids": list(info.eos_ids),
            "dtype": info.dtype,
        }
    )


@app.command("warm-up")
@with_output
def warm_up_model(
    out: Output,
    model_dir: Annotated[Path, typer.Argument(help="Directory of a model.", metavar="DIR")],
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs of one replica.")] = 1,
    dtype: Annotated[str, typer.Option("--dtype", help="As of the jobs: auto, bfloat16, float16, float32.")] = "auto",
    assign: Annotated[list[str] | None, typer.Option("--set", help="Any engine.FIELD=VALUE that the jobs set.")] = None,
) -> None:
    """Compile a model for this machine's kind of GPU, once for all nodes, and keep the code in DIR.compiled.

    Jobs that are submitted where DIR.compiled is seen pin its hash, and their replicas load what has that hash instead
    of compiling: a new node starts its first engine sooner. Run it again for another GPU, another version of vLLM, or
    other options; what is there stays.

    Examples:

      jobs model warm-up /models/internlm2_5-20b-chat

      jobs model warm-up /models/internlm2_5-20b-chat --set engine.max_model_len=32768
    """
    from jobs import settings
    from jobs.cli.options import assignment
    from jobs.models.compiled import folder_of, manifest_digest
    from jobs.models.warming import warm_up
    from jobs.spec.options import spec_of

    given = {"engine": "vllm", "model": str(model_dir), "tensor_parallel": tensor_parallel, "dtype": dtype}
    given["fields"] = dict(assignment(text) for text in assign or ())
    engine = spec_of("unused", given, settings.load({})).engine
    signals.stands(f"Nothing was added to {folder_of(model_dir)}.")
    out.note("Starting an engine with empty caches …")
    made = warm_up(model_dir, engine)
    out.record({"path": str(folder_of(model_dir)), **made, "manifest": manifest_digest(model_dir)})
    out.hint(f"Jobs of this model load it from now on: jobs submit dataset.parquet --model {model_dir}")


def _show_snapshot(out: Output, target: Path, snapshot: Snapshot) -> None:
    from jobs.models.snapshot import fingerprint

    out.record(
        {
            "path": str(target),
            "fingerprint": fingerprint(target),
            "files": len(snapshot.files),
            "size_bytes": sum(file.size_bytes for file in snapshot.files),
        }
    )
    out.hint(f"Submit with `jobs submit dataset.parquet --model {target}`.")
