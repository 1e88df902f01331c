"""Prompts from `--template`: the columns that a template reads, and its prompt for a row.

Each column is a variable of its name. `row` is the whole row, unless a column has that name: `row['my column']` reads
a column whose name is not an identifier.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError, UndefinedError, meta, nodes

from jobs.errors import UsageError
from jobs.templates.reasons import MISSING, reason
from jobs.templates.sandbox import Null, PromptEnvironment
from jobs.templates.work import LEAST_BUDGET, Meter, TemplateFault, meter
from jobs.text import columns_there
from jobs.values.cells import RowFailure
from jobs.values.text import NoText
from schemas.codes import RowError

_ROW = "row"
_MISPLACED = {
    nodes.Extends: "extends",
    nodes.FromImport: "from",
    nodes.Import: "import",
    nodes.Include: "include",
    nodes.ScopedEvalContextModifier: "autoescape",
}
"""Tags that prompts do not have: they load other files, or escape for web pages."""

_BUDGET_PER_BYTE = 16
"""Work budget for each byte that a prompt may have."""

_environment = PromptEnvironment()


def template_columns(template: str, names: Collection[str]) -> tuple[str, ...]:
    """Return the dataset's columns that a template reads.

    Raises:
        UsageError: it does not parse, names no column or a missing one, or uses a tag that prompts do not have.
    """
    try:
        tree = _environment.parse(template)
        used = meta.find_undeclared_variables(tree)
        _compiled(template)
    except TemplateSyntaxError as error:
        raise UsageError(f"The template does not parse: {error.message}.", _correct(names)) from error
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise UsageError("The template is nested too deeply.", "Write it with fewer levels.") from error
    for kind, tag in _MISPLACED.items():
        if tree.find(kind) is not None:
            raise UsageError(f"The template has `{tag}`, which prompts do not have.", "Write it without.")
    if _ROW in used and _ROW not in names:
        used = (used - {_ROW}) | _of_row(tree, names)
    _check_own_words(tree, names)
    if not used:
        raise UsageError(
            "The template refers to no column, so every row would get the same prompt.",
            f"Use a column, such as {{{{ {_reference(next(iter(names)))} }}}}." if names else "",
        )
    for name in sorted(used):
        if name not in names:
            raise UsageError(f"There is no column {name!r}; {columns_there(name, names)}", _correct(names))
    return tuple(sorted(used))


def render(template: str, row: Mapping[str, Any], max_bytes: int) -> str | RowFailure:
    """Render the prompt of a row that has the template's columns.

    Args:
        max_bytes: most bytes of the prompt; the work budget of rendering follows from it.
    """
    values = {name: Null(f"column `{name}`") if value is None else value for name, value in row.items()}
    budget = max(LEAST_BUDGET, _BUDGET_PER_BYTE * max_bytes)
    token = meter.set(Meter(budget, template))
    try:
        return _rendered(_compiled(template), {_ROW: values, **values}, max_bytes)
    except TemplateFault as error:
        why = str(error)
    except NoText as error:
        why = _why_no_text(str(error), row)
    except UndefinedError as error:
        why = _why_undefined(error, template)
    except Exception as error:  # noqa: BLE001 - a template can raise anything on a row's values
        why = reason(error)
    finally:
        meter.reset(token)
    return RowFailure(code=RowError.TEMPLATE_ERROR, message=f"template: {why}")


def _rendered(template: Template, values: Mapping[str, Any], max_bytes: int) -> str | RowFailure:
    parts: list[str] = []
    size = 0
    for part in template.root_render_func(template.new_context(dict(values))):
        size += len(part)
        if size > max_bytes:
            return RowFailure(code=RowError.ROW_TOO_LARGE, message=f"the prompt has over {max_bytes} bytes, the limit")
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _environment.from_string(template)


def _of_row(tree: nodes.Template, names: Collection[str]) -> set[str]:
    """Return the columns read through `row`: all of them where it is unclear which."""
    found: set[str] = set()
    plain = sum(name.name == _ROW for name in tree.find_all(nodes.Name))
    for node in _lookups(tree):
        name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if name is None or (name not in names and hasattr(dict, name)):
            continue
        found.add(name)
        plain -= 1
    return found | set(names) if plain else found


def _lookups(tree: nodes.Template) -> Iterable[nodes.Getattr | nodes.Getitem]:
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        assert isinstance(node, nodes.Getattr | nodes.Getitem)
        if isinstance(node.node, nodes.Name) and node.node.name == _ROW:
            yield node


def _constant(node: nodes.Expr) -> str | None:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _check_own_words(tree: nodes.Template, names: Collection[str]) -> None:
    """Refuse columns named like one of Jinja's functions: a template would not print the column."""
    own = {*_environment.globals, "self"}.intersection(names)
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    for name in tree.find_all(nodes.Name):
        if name.name in own and name.ctx == "load" and id(name) not in called:
            raise UsageError(
                f"`{name.name}` is a word of templates, so it does not name the column.",
                f"Write {{{{ {_ROW}['{name.name}'] }}}}.",
            )


def _correct(names: Collection[str]) -> str:
    odd = next((name for name in names if not name.isidentifier()), "my column")
    return f"Correct --template. A column whose name is no word is written {{{{ {_ROW}[{odd!r}] }}}}."


def _reference(name: str) -> str:
    return name if name.isidentifier() else f"{_ROW}[{name!r}]"


def _why_no_text(why: str, row: Mapping[str, Any]) -> str:
    """Name the column in the reason, if a column holds the NaN or infinity."""
    odd = [name for name, value in row.items() if isinstance(value, float) and value - value != 0]
    return f"column `{odd[0]}` is NaN or infinite" if odd and "NaN" in why else why


def _why_undefined(error: UndefinedError, template: str) -> str:
    """Return Jinja's message if the names that it quotes are in the template: others could come from the row."""
    message = error.message or ""
    quoted = message.split("'")[1::2]
    return message if quoted and all(part in template or part.endswith("object") for part in quoted) else MISSING
