"""`jobs model`: make and check model snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Output, with_output

app = typer.Typer(help="Model snapshots: self-contained, hashed, free of remote code.", no_args_is_help=True)


@app.command("prepare")
@with_output
def prepare_model(
    out: Output,
    source: Annotated[Path, typer.Argument(help="Downloaded InternLM2/2.5 directory.", metavar="SRC")],
    target: Annotated[Path, typer.Argument(help="New directory for the snapshot.", metavar="DST")],
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--base", help="End answers at <|im_end|> or not. Default: as the download says."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights even where they could be linked.")] = False,
) -> None:
    """Turn a downloaded InternLM2/2.5 model into a snapshot that needs none of its code.

    The tokenizer is converted and compared with SentencePiece. Other models that vLLM supports need no preparation.

    Example:

      jobs model prepare ./internlm2_5-20b-chat ./models/internlm2_5-20b-chat
    """
    from jobs.models.prepare import prepare
    from jobs.models.snapshot import fingerprint

    signals.stands(f"Nothing was written to {target}.")
    snapshot = prepare(
        source,
        target,
        chat=chat,
        copy=copy,
        report=out.note,
        finished=lambda: signals.stands(f"The snapshot {target} is whole."),
    )
    out.record(
        {
            "path": str(target),
            "fingerprint": fingerprint(target),
            "files": len(snapshot.files),
            "size_bytes": sum(file.size_bytes for file in snapshot.files),
        }
    )
    out.hint(f"Submit with `jobs submit dataset.parquet --model {target}`.")


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
