"""The options that make a spec, shared by `submit`, `plan` and `schedule create`: those that the spec's fields declare.

They are built when a command that has them is used: the fields need pydantic, and `jobs --help` should not wait for it.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand

from jobs.cli.output import with_output
from jobs.cli.reference import complete_reuse
from jobs.errors import UsageError
from jobs.text import quoted

if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.spec.fields import SpecOption
    from schemas.pools import Placement
    from schemas.spec import JobSpec

_OTHERS = "Spec, store and cluster"
_POOL = "Pool"
_WIDEST_CHOICES = 18
"""Most characters of an option's choices in the column of types: it leaves the rest of the line to all help texts."""


_PLACEHOLDER = "input"
"""Input of a spec whose command has no argument DATASET."""


class Request(NamedTuple):
    """The spec, the settings and the claim in a pool, resolved from the command line."""

    spec: JobSpec
    settings: Settings
    placement: Placement | None = None


class Changes(NamedTuple):
    """What the command line changes in a spec that exists: values by dotted field, and what errors call each field.

    Attributes:
        placing: options of a claim in a pool by name; None: not given. An empty `pool` stands for none.
    """

    fields: dict[str, Any]
    labels: dict[str, str]
    placing: dict[str, Any]
    settings: Settings


def add_spec_command(
    app: typer.Typer,
    name: str,
    command: Callable[..., None],
    *,
    only: Collection[str] | None = None,
    changes: bool = False,
) -> None:
    """Add a command that takes the argument DATASET and every option of a spec.

    Args:
        command: takes an `Output` first, then its own arguments, and `request` by keyword.
        only: headings and names of the options of a spec that the command has; it then has no argument DATASET, and
            the spec's input is for the command to replace.
        changes: `request` is what changes in a spec that exists, as `Changes`.
    """

    class Built(_SpecCommand):
        function = staticmethod(command)
        wanted = only
        of_changes = changes

    def later() -> None:
        """Stand for the command until its options are known."""

    later.__doc__ = command.__doc__
    app.command(name, cls=Built)(later)


class _SpecCommand(TyperCommand):
    """A command whose options are built the first time that they are asked for."""

    function: ClassVar[Callable[..., None]]
    wanted: ClassVar[Collection[str] | None]
    of_changes: ClassVar[bool]
    _is_built = False

    def get_params(self, ctx: Any) -> Any:
        self.build()
        return super().get_params(ctx)

    def build(self) -> None:
        """Take over the parameters and the callback of the whole command."""
        if self._is_built:
            return
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(
            with_output(_with_spec(self.function, self.wanted, _resolve_changes if self.of_changes else _resolve))
        )
        whole = typer.main.get_command(app)
        self.params, self.callback, self._is_built = whole.params, whole.callback, True


_COMPLETIONS = {"--reuse": {"autocompletion": complete_reuse}}


def _with_spec(
    command: Callable[..., None], only: Collection[str] | None, resolve: Callable[[dict[str, Any]], Any]
) -> Callable[..., None]:
    """Give a command the argument DATASET and options of a spec, see `add_spec_command`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        command(*args, request=resolve({option.name: kwargs.pop(option.name) for option in extra}), **kwargs)

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "request"]
    extra = list(_parameters(only))
    first = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = [p for p in own if p.kind is p.KEYWORD_ONLY]
    wrapper.__signature__ = inspect.Signature([*first, *extra, *rest])  # type: ignore[attr-defined]
    return wrapper


def _parameters(only: Collection[str] | None) -> Iterator[inspect.Parameter]:
    from jobs.spec.fields import spec_options

    if only is None:
        yield inspect.Parameter(
            "dataset",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Argument(
                    help="Parquet, JSON, CSV or Arrow file, directory, glob, s3:// (gs://, abfss://) URI, Delta or "
                    "Iceberg table; or several of them.",
                    show_default=False,
                ),
            ],
        )
    if only is None or _POOL in only:
        yield _option("pool", str, "--pool", "Compute in this pool of engines that stay loaded.", _POOL)
        yield _option("no_pool", bool, "--no-pool", "Start engines of the job's own, whatever jobs.toml says.", _POOL)
        yield _option(
            "priority", Literal["urgent", "normal", "bulk"], "--priority", "Class in the pool. Default: normal.", _POOL
        )
        yield _option("weight", float, "--weight", "Share of the tokens within the class. Default: 1.", _POOL)
        yield _option("isolated", bool, "--isolated", "Share no cached prefix with other jobs of the pool.", _POOL)
    for option in spec_options().values():
        if only is not None and not {option.declared.panel, option.name} & {*only}:
            continue
        yield _option(option.name, _kind(option), option.flag, option.help, option.declared.panel)
    yield _option("spec_file", Path, "--spec", "TOML file with a spec; options override it.", _OTHERS)
    set_help = "Any field of the spec: engine.max_num_batched_tokens=8192."
    yield _option("assign", list[str], "--set", set_help, _OTHERS)
    yield _option("root", str, "--root", "Where job directories live: s3://… or a directory.", _OTHERS)
    yield _option("address", str, "--address", "Dashboard of the Ray cluster to use.", _OTHERS)
    yield _option("token_path", Path, "--token-path", "File with that cluster's token.", _OTHERS)


def _option(name: str, kind: Any, flag: str, text: str, panel: str) -> inspect.Parameter:
    more: dict[str, Any] = dict(_COMPLETIONS.get(flag, {}))
    if get_origin(kind) is Literal:
        # Taken as text: the spec says what is wrong with it in the same words as for a file and for the client.
        choices, kind = get_args(kind), str
        more["autocompletion"] = _completion(choices)
        more["metavar"] = f"<{'|'.join(choices)}>"
        if len(more["metavar"]) > _WIDEST_CHOICES:
            more["metavar"], text = "<choice>", f"{text} One of {', '.join(choices)}."
    is_flag = kind is bool
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_flag else None,
        annotation=Annotated[
            kind if is_flag else kind | None,
            typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more),
        ],
    )


def _completion(choices: Sequence[str]) -> Callable[[str], list[str]]:
    def beginning(incomplete: str) -> list[str]:
        return [each for each in choices if each.startswith(incomplete)]

    return beginning


def _kind(option: SpecOption) -> Any:
    """Return the type that an option has on the command line."""
    match option.declared.form:
        case "text" | "json_or_off":
            return str
        case "names":
            return list[str]
        case "json_file":
            return Path
        case "negated":
            return bool
        case "value":
            return list[str] if option.type == tuple[str, ...] else option.type


def _resolve(given: dict[str, Any]) -> Request:
    """Flags over the spec file over settings over defaults."""
    from jobs import settings as settings_module
    from jobs.pools.book import pool_of
    from jobs.pools.placing import placement_of
    from jobs.spec.build import read_spec_file
    from jobs.spec.fields import spec_options
    from jobs.spec.options import spec_of

    settings = settings_module.load({name: given[name] for name in ("root", "address", "token_path")})
    file_values = read_spec_file(given["spec_file"]) if given["spec_file"] else {}
    flags = {name: _value(option, given[name]) for name, option in spec_options().items() if name in given}
    flags["fields"] = dict(assignment(text) for text in given["assign"] or ())
    placement = None
    if "pool" in given:
        placement = placement_of(_placing(given), file_values, settings, lambda name: f"--{name}")
    spec = spec_of(
        given.get("dataset", _PLACEHOLDER),
        flags,
        settings,
        file_values,
        file=str(given["spec_file"] or ""),
        as_flags=True,
        pool=pool_of(settings.root, placement),
    )
    return Request(spec, settings, placement)


def _resolve_changes(given: dict[str, Any]) -> Changes:
    """Return the fields that the flags set, and nothing else: a spec file and settings say how new jobs are."""
    from jobs import settings as settings_module
    from jobs.spec.fields import spec_options

    if given["spec_file"] is not None:
        raise UsageError("--spec has no use here: the spec is that of the job.", "Change single values by options.")
    fields: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for name, option in spec_options().items():
        if name in given and (value := _value(option, given[name])) is not None:
            if option.declared.form == "json_file":
                value = json.dumps(value, ensure_ascii=False)
            fields[option.field], labels[option.field] = value, option.flag
    for text in given["assign"] or ():
        field, value = assignment(text)
        fields[field], labels[field] = value, f"--set {field}"
    settings = settings_module.load({name: given[name] for name in ("root", "address", "token_path")})
    return Changes(fields, labels, _placing(given), settings)


def _placing(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "pool": "" if given["no_pool"] else given["pool"],
        "priority": given["priority"],
        "weight": given["weight"],
        "isolated": given["isolated"] or None,
    }


def _value(option: SpecOption, given: Any) -> Any:
    """Return the value that the client takes for this option; None if it is not given."""
    from jobs.spec.build import read_json_file

    if given is None or given is False:
        return None
    match option.declared.form:
        case "names":
            return [name for part in given for name in part.split(",") if name]
        case "json_file":
            return read_json_file(given, option.flag)
        case "json_or_off":
            return _json_or_off(given, option.flag)
        case "negated":
            return False
        case _:
            return given


def _json_or_off(text: str, flag: str) -> Any:
    if text == "off":
        return "off"
    try:
        return json.loads(text)
    except ValueError:
        raise UsageError(
            f"{flag} {quoted(text)} is neither `off` nor JSON.",
            f"""For example: {flag} '{{"max_pattern_size": 32, "min_count": 8}}'""",
        ) from None


def assignment(text: str) -> tuple[str, Any]:
    """Return the field and the value of `--set FIELD=VALUE`; a value that is not JSON is text."""
    field, separator, value = text.partition("=")
    if not separator or not field:
        raise UsageError(
            f"--set {quoted(text)} is not an assignment.",
            "Write --set FIELD=VALUE, for example --set shards.max_rows=500",
        )
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value
