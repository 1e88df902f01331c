"""Preparation of an InternLM2/2.5 directory as a snapshot: native, complete, hashed, free of remote code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jobs import signals
from jobs.errors import InvalidModel, UsageError
from jobs.models import internlm2
from jobs.models.config import INTERNLM2, load_info, read_json
from jobs.models.convert import convert_sentencepiece, parse_sentencepiece
from jobs.models.origin import OriginOptions, convert_origin, is_origin
from jobs.models.parity import check_parity
from jobs.models.snapshot import INDEX, Snapshot, check_model, weight_files, write_snapshot

_GENERATION = "generation_config.json"


def prepare(
    source: Path,
    target: Path,
    *,
    chat: bool | None = None,
    copy: bool = False,
    origin: OriginOptions = OriginOptions(),  # noqa: B008 - it is frozen
    report: Callable[[str], None] = lambda _: None,
    finished: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Write a snapshot of `source` to `target`, which must not exist or be empty.

    The tokenizer is converted from `tokenizer.model` and compared with SentencePiece first. Weights are
    hard-linked where the file system allows it, unless `copy`; the rest is small. InternEvo ("Origin") checkpoints
    are converted first, beside the target.

    Args:
        chat: whether answers end at `<|im_end|>` too. None: see `is_chat_model`.
        origin: options for InternEvo checkpoints.
        report: called with each step, for progress on a terminal.
        finished: called once the snapshot is in its place.

    Raises:
        InvalidModel: the source is incomplete, of another kind, or its tokenizer does not convert exactly.
        UsageError: the target is in use, or an option is missing or does not belong to this kind of source.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty.", "Give a new directory.")
    if not is_origin(source):
        if origin != OriginOptions():
            raise UsageError(
                f"{source} is not an InternEvo ('Origin') checkpoint, so its own config.json and tokenizer are used.",
                "Leave out --config, --tokenizer and the other options for such checkpoints.",
            )
        return _prepare(source, target, chat=chat, copy=copy, report=report, finished=finished)
    if chat is None:
        raise UsageError("An InternEvo checkpoint does not say whether it is a chat model.", "Give --chat or --base.")
    with folder_in_progress(target.with_name(f".{target.name}.converted")) as converted:
        convert_origin(source, converted, origin, report=report)
        return _prepare(converted, target, chat=chat, copy=copy, report=report, finished=finished)


def _prepare(
    source: Path,
    target: Path,
    *,
    chat: bool | None,
    copy: bool,
    report: Callable[[str], None],
    finished: Callable[[], None],
) -> Snapshot:
    info = load_info(source)
    if info.model_type != INTERNLM2:
        raise InvalidModel(
            f"Only InternLM2 models are prepared; this is a {info.model_type} model.",
            "Submit with the directory as it is: a native config.json and tokenizer.json need no preparation.",
        )
    weights = weight_files(source)
    tokenizer_path = source / "tokenizer.model"
    if not tokenizer_path.is_file():
        raise InvalidModel(f"{source} has no tokenizer.model.", "Finish the download.")
    with folder_in_progress(target.with_name(f".{target.name}.partial")) as unfinished:
        report("Converting the tokenizer and comparing it with SentencePiece.")
        write_tokenizer(unfinished, tokenizer_path.read_bytes(), vocab_size=info.vocab_size)
        config = read_json(source / "config.json")
        write_configs(unfinished, config, chat=is_chat_model(source) if chat is None else chat)
        for file in [*weights, *source.glob(INDEX)]:
            report(f"Adding {file.name}.")
            _place(file, unfinished / file.name, copy=copy)
        for licence in source.glob("LICENSE*"):
            _place(licence, unfinished / licence.name, copy=True)
        report("Hashing every file.")
        snapshot = write_snapshot(unfinished)
        check_model(unfinished)
        with signals.at_once():
            unfinished.replace(target)
            finished()
    return snapshot


@contextmanager
def folder_in_progress(folder: Path) -> Iterator[Path]:
    """Make a new folder; remove it at the end, also if a signal ends the command."""
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as ending:
        with signals.at_once():
            folder.mkdir(parents=True)
            ending.callback(shutil.rmtree, folder, ignore_errors=True)
            ending.enter_context(signals.leftover(partial(signals.remove_folder, folder)))
        yield folder


def is_chat_model(source: Path) -> bool:
    """Return whether a download is a chat model: it names more than one end token, or has a chat template."""
    tokenizer_config = source / "tokenizer_config.json"
    has_template = tokenizer_config.is_file() and "chat_template" in read_json(tokenizer_config)
    return has_template or len(load_info(source).eos_ids) > 1


def write_tokenizer(
    target: Path, model: bytes, *, vocab_size: int, stride: int = 1, num_mixtures: int = 20_000
) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, compared with SentencePiece by `check_parity`.

    Raises:
        InvalidModel: it does not convert exactly, or has more pieces than the model has embeddings.
    """
    markers = internlm2.markers_of(parse_sentencepiece(model))
    tokenizer = convert_sentencepiece(model, markers)
    if tokenizer.get_vocab_size() > vocab_size:
        raise InvalidModel(
            f"tokenizer.model has {tokenizer.get_vocab_size()} pieces, but the model has {vocab_size} embeddings.",
            "Use the tokenizer.model of the same model.",
        )
    check_parity(tokenizer, model, markers, stride=stride, num_mixtures=num_mixtures)
    tokenizer.save(str(target / "tokenizer.json"), pretty=False)
    write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": internlm2.BOS,
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "</s>",
            "clean_up_tokenization_spaces": False,
            "chat_template": internlm2.CHAT_TEMPLATE,
        },
    )


def write_configs(target: Path, config: Mapping[str, Any], *, chat: bool) -> None:
    """Write `config.json` without remote code and `generation_config.json` with the tokens that end an answer.

    `target` must hold the `tokenizer.json` already: it says which id `<|im_end|>` has.
    """
    native = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    write_json(target / "config.json", native)
    eos = ["</s>", internlm2.IM_END] if chat else ["</s>"]
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(name) for name in (internlm2.BOS, *eos)}
    if None in ids.values():
        raise InvalidModel("The tokenizer has no chat markers, so this is no chat model.", "Prepare it with --base.")
    write_json(
        target / _GENERATION,
        {
            "bos_token_id": ids[internlm2.BOS],
            "pad_token_id": ids["</s>"],
            "eos_token_id": [ids[name] for name in eos],
        },
    )


def _place(source: Path, target: Path, *, copy: bool) -> None:
    real = source.resolve()
    if not copy:
        try:
            os.link(real, target)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return
    shutil.copyfile(real, target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object in readable form; equal objects give equal bytes."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
