"""The options that make a spec, shared by `submit` and `plan`."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jobs.cli.reference import complete_reuse
from jobs.errors import UsageError

if TYPE_CHECKING:
    from jobs.settings import Settings
    from schemas.spec import JobSpec


class Request(NamedTuple):
    """What the options came to."""

    spec: JobSpec
    settings: Settings


class _SpecOption(NamedTuple):
    """One option; `jobs.spec.options.FIELDS` has the field of `JobSpec` that it sets."""

    kind: Any
    flag: str
    help: str
    panel: str


_INPUT, _SAMPLING, _FORM, _ENGINE, _JOB = "Input", "Sampling", "Form of the answer", "Engine", "Job"
_GATES = "Quality gates: shares from 0 to 1; exit 3 and no _SUCCESS if one is crossed"

_OPTIONS = [
    _SpecOption(str, "--prompt-column", "Column of prompt text. Default: `prompt`.", _INPUT),
    _SpecOption(str, "--messages-column", "Chat messages. Default: `messages`.", _INPUT),
    _SpecOption(
        str, "--template", "Jinja text over the columns: 'Summarise: {{ text }}', or {{ row['my column'] }}.", _INPUT
    ),
    _SpecOption(str, "--choices-column", "Choices to score. Default: `choices`.", _INPUT),
    _SpecOption(str, "--system", "System message put before every row.", _INPUT),
    _SpecOption(int, "--max-tokens", "Most tokens to generate per row. Default: 256.", _SAMPLING),
    _SpecOption(int, "--min-tokens", "Least tokens to generate per row.", _SAMPLING),
    _SpecOption(float, "--temperature", "0 (default) is greedy decoding.", _SAMPLING),
    _SpecOption(float, "--top-p", "Nucleus sampling mass, 0 to 1.", _SAMPLING),
    _SpecOption(int, "--top-k", "Sample from the k likeliest tokens; 0: all.", _SAMPLING),
    _SpecOption(float, "--min-p", "Least probability relative to the likeliest.", _SAMPLING),
    _SpecOption(float, "--repetition-penalty", "Above 1 discourages repeats.", _SAMPLING),
    _SpecOption(float, "--presence-penalty", "-2 to 2.", _SAMPLING),
    _SpecOption(float, "--frequency-penalty", "-2 to 2.", _SAMPLING),
    _SpecOption(int, "--seed", "Seed of each row's random generator.", _SAMPLING),
    _SpecOption(list[str], "--stop", "Text that ends the answer; may be repeated.", _SAMPLING),
    _SpecOption(list[str], "--bad-word", "Word never generated; may be repeated.", _SAMPLING),
    _SpecOption(int, "--n", "Completions per row.", _SAMPLING),
    _SpecOption(int, "--logprobs", "Report the likeliest tokens per position.", _SAMPLING),
    _SpecOption(str, "--regex", "Expression that the whole answer matches.", _FORM),
    _SpecOption(list[str], "--choice", "An answer to choose from; repeat it.", _FORM),
    _SpecOption(int, "--tensor-parallel", "GPUs that share a model copy.", _ENGINE),
    _SpecOption(str, "--device", "auto (default), gpu or cpu.", _ENGINE),
    _SpecOption(str, "--dtype", "auto (default), bfloat16, float16 or float32.", _ENGINE),
    _SpecOption(int, "--max-model-len", "Longest prompt plus answer, in tokens.", _ENGINE),
    _SpecOption(int, "--max-num-seqs", "Rows decoded at once by a replica.", _ENGINE),
    _SpecOption(str, "--quantization", "fp8: weights in 8 bits, on GPUs. Changes results.", _ENGINE),
    _SpecOption(str, "--kv-cache-dtype", "fp8: room for twice the tokens, on GPUs. Changes results.", _ENGINE),
    _SpecOption(int, "--speculative-ngram", "Guess so many tokens a step from the row's own text.", _ENGINE),
    _SpecOption(list[str], "--reuse", "Take equal rows' results from this earlier job, or `auto`; repeat it.", _JOB),
    _SpecOption(str, "--task", "generate (default), or score: how likely each of a row's choices is.", _JOB),
    _SpecOption(str, "--name", "Shown in lists and in the dashboard. Default: the dataset's name.", _JOB),
    _SpecOption(float, "--max-error-rate", "Most error rows, of all rows. Default: 0.05.", _GATES),
    _SpecOption(float, "--max-length-finish-rate", "Most answers cut by length.", _GATES),
    _SpecOption(float, "--max-empty-rate", "Most answers without text and tool calls.", _GATES),
    _SpecOption(float, "--min-valid-json-rate", "Least answers that are JSON.", _GATES),
]

_COMPLETIONS = {"--reuse": {"autocompletion": complete_reuse}}


def with_spec(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument DATASET and every spec option; it receives `request` by keyword."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        command(*args, request=_resolve({option.name: kwargs.pop(option.name) for option in extra}), **kwargs)

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "request"]
    extra = _parameters()
    first = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = [p for p in own if p.kind is p.KEYWORD_ONLY]
    wrapper.__signature__ = inspect.Signature([*first, *extra, *rest])  # type: ignore[attr-defined]
    return wrapper


def _parameters() -> list[inspect.Parameter]:
    def option(
        name: str, kind: Any, *flags: str, default: Any = None, panel: str = _JOB, **more: Any
    ) -> inspect.Parameter:
        annotation = Annotated[kind, typer.Option(*flags, rich_help_panel=panel, show_default=False, **more)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    dataset = inspect.Parameter(
        "dataset",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[
            str | None,
            typer.Argument(help="Parquet or JSONL file, directory, glob or s3:// URI.", show_default=False),
        ],
    )
    keep_help = "Input columns carried to the results: a,b."
    return [
        dataset,
        option("spec_file", Path | None, "--spec", help="TOML file with a spec; options override it."),
        option("model", str | None, "--model", help="Model directory.", panel=_ENGINE),
        option("engine", str | None, "--engine", help="vllm (default) or fake.", panel=_ENGINE),
        option("replicas", str | None, "--replicas", help="8 or 2..16. Default: 1.", panel=_ENGINE),
        option("keep", list[str] | None, "--keep", help=keep_help, panel=_INPUT),
        option("no_chat", bool, "--no-chat", default=False, help="Prompts as they are, for base models.", panel=_INPUT),
        option("json_schema", Path | None, "--json-schema", help="File with the answer's JSON schema.", panel=_FORM),
        option("tools", Path | None, "--tools", help="File with a JSON list of the tools to offer.", panel=_INPUT),
        *(
            option(_keyword(o.flag), o.kind | None, o.flag, help=o.help, panel=o.panel, **_COMPLETIONS.get(o.flag, {}))
            for o in _OPTIONS
        ),
        option("output_tokens", bool, "--output-tokens", default=False, help="Add the column generated_tokens."),
        option("keep_staged", bool, "--keep-staged", default=False, help="Keep the staged rows after success."),
        option(
            *("reuse_sampled", bool, "--reuse-sampled"),
            default=False,
            help="With --reuse: take results that were sampled at random, too.",
        ),
        option("assign", list[str] | None, "--set", help="Any field of the spec: engine.max_num_batched_tokens=8192."),
        option("root", str | None, "--root", help="Where job directories live: s3://… or a directory."),
        option("address", str | None, "--address", help="Dashboard of the Ray cluster to use."),
        option("token_path", Path | None, "--token-path", help="File with that cluster's token."),
    ]


def _resolve(given: dict[str, Any]) -> Request:
    """Flags over the spec file over settings over defaults."""
    from jobs import settings as settings_module
    from jobs.spec.build import read_json_file, read_spec_file
    from jobs.spec.options import spec_of

    settings = settings_module.load({name: given[name] for name in ("root", "address", "token_path")})
    file_values = read_spec_file(given["spec_file"]) if given["spec_file"] else {}
    flags: dict[str, Any] = {_keyword(option.flag): given[_keyword(option.flag)] for option in _OPTIONS}
    flags |= {name: given[name] for name in ("model", "engine", "replicas")}
    flags |= {
        "keep": [name for part in given["keep"] for name in part.split(",") if name] if given["keep"] else None,
        "chat": False if given["no_chat"] else None,
        "tools": read_json_file(given["tools"], "--tools") if given["tools"] else None,
        "output_tokens": given["output_tokens"] or None,
        "keep_staged": given["keep_staged"] or None,
        "reuse_sampled": given["reuse_sampled"] or None,
        "fields": dict(assignment(text) for text in given["assign"] or ()),
    }
    if given["json_schema"]:
        flags["json_schema"] = json.dumps(read_json_file(given["json_schema"], "--json-schema"), ensure_ascii=False)
    return Request(spec_of(given["dataset"], flags, settings, file_values), settings)


def _keyword(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def assignment(text: str) -> tuple[str, Any]:
    """The field and the value of `--set FIELD=VALUE`; a value that is not JSON is text."""
    field, separator, value = text.partition("=")
    if not separator or not field:
        raise UsageError(
            f"--set {text} is not an assignment.", "Write --set FIELD=VALUE, for example --set shards.max_rows=500"
        )
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value
