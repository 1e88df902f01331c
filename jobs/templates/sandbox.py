"""A Jinja sandbox for prompts that meters its work and prints values by `jobs.values.text`, never in Python's form.

Filters that are random, write for web pages, or show Python's form of a value are removed: a prompt must be the same
each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import update_wrapper
from html import unescape
from typing import Any

from jinja2 import StrictUndefined, Undefined, UndefinedError, nodes, pass_context, pass_environment
from jinja2.filters import make_attrgetter
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from markupsafe import escape

from jobs.templates.names import ABSENT, COMPARING, FREE, OF_ELEMENTS, OF_NULL, OF_TEXT
from jobs.templates.reasons import reason
from jobs.templates.work import (
    OPERATION,
    Counted,
    TemplateFault,
    bits_of,
    check_bits,
    foresee,
    meter,
    number_of,
    size_of,
)
from jobs.values.text import NoText, as_json, text_of

MAX_CALLS = 40
"""Most nested macros, blocks and recursive loops: Python's own limit would depend on the caller's stack."""

_WIDTH = re.compile(r"\d+")
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")


class Null:
    """A null that knows its name: it can be tested, replaced and passed on; other uses raise an error with it."""

    is_null = True

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TemplateFault(f"{self._name} is null")

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    __str__ = __format__ = __iter__ = __len__ = __getitem__ = __contains__ = __call__ = __int__ = __float__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __pow__ = __rpow__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __neg__ = __pos__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __index__ = __abs__ = __round__ = _refuse


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Environment whose templates count their work in `meter`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        # Nothing is computed while a template is compiled: there is no meter then.
        super().__init__(
            undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, optimized=False, finalize=_printed
        )
        del self.globals["lipsum"]
        own: dict[str, Callable[..., Any]] = {
            "e": _escape,
            "escape": _escape,
            "forceescape": _escape,
            "join": _join,
            "safe": _text,
            "string": _text,
            "striptags": _striptags,
            "sum": _sum,
            "tojson": _tojson,
        }
        filters = {name: each for name, each in {**self.filters, **own}.items() if name not in ABSENT}
        self.filters = {name: _metered(name, each) for name, each in filters.items()}
        self.filters |= {"_counted": Counted, "_weighed": _weighed, "_slice": slice}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _metered_test(name, each) for name, each in tests.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _count(super()._parse(source, name, filename))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a struct's field in preference to a dictionary's method: data may have a field `items`."""
        if isinstance(obj, dict) and attribute in obj:
            return _named(obj[attribute], attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an element, a field or a slice."""
        counter = meter.get()
        counter.weigh(argument)
        found = super().getitem(obj, argument)
        if isinstance(argument, slice):
            counter.charge(size_of(found))
        return _named(found, argument) if isinstance(obj, dict) else found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator after counting its work."""
        counter = meter.get()
        counter.charge(OPERATION + size_of(left) + size_of(right))
        if operator == "%" and isinstance(left, str):
            return _percent(left, right)
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(many, int | float | Decimal):
                    counter.charge(max(0, times) * max(1, size_of(many)))
            check_bits(bits_of(left) + bits_of(right))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_bits(bits_of(left) * max(0, right) if abs(left) > 1 else 0)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        """Call an object after counting the call's work."""
        counter = meter.get()
        counter.charge(OPERATION)
        if isinstance(__obj, Macro | BlockReference | LoopContext):
            work = OPERATION + len(counter.source)
            counter.charge(work)
            if isinstance(__obj, LoopContext):
                args = (Counted(args[0], work), *args[1:]) if args else args
            if counter.calls >= MAX_CALLS:
                raise TemplateFault(f"its calls are nested over {MAX_CALLS} deep")
            counter.calls += 1
            try:
                return super().call(__context, __obj, *args, **kwargs)
            finally:
                counter.calls -= 1
        subject = getattr(__obj, "__self__", None)
        args = tuple(_drawn(arg) for arg in args)
        for part in (subject, *args, *kwargs.values()):
            counter.weigh(part)
        if isinstance(subject, str | bytes | int):
            foresee(str(getattr(__obj, "__name__", "")), subject, args, kwargs)
        return _paid(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `str.format` with our text of values and with widths counted as work."""
        if super().wrap_str_format(value) is None:
            return None
        pattern, name = value.__self__, value.__name__

        def formatted(*args: Any, **kwargs: Any) -> str:
            if name == "format_map":
                [kwargs], args = args, ()
            return _Formatter(self).vformat(pattern, args, kwargs)

        return update_wrapper(formatted, value)


def _count(tree: nodes.Template) -> nodes.Template:
    """Rewrite the tree so that loops and comparisons count their work and `~` joins our text of values."""
    for loop in list(tree.find_all(nodes.For)):
        static = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
        loop.iter = _filtered(loop.iter, "_counted", nodes.Const(OPERATION + static))
    for comparison in list(tree.find_all(nodes.Compare)):
        comparison.expr = _filtered(comparison.expr, "_weighed")
        for operand in comparison.ops:
            operand.expr = _filtered(operand.expr, "_weighed")
    for concat in list(tree.find_all(nodes.Concat)):
        concat.nodes = [_filtered(part, "string") for part in concat.nodes]
    for lookup in list(tree.find_all(nodes.Getitem)):
        if isinstance(part := lookup.arg, nodes.Slice):
            # The compiler would otherwise slice without asking the sandbox.
            ends: list[nodes.Expr] = [end or nodes.Const(None) for end in (part.stop, part.step)]
            lookup.arg = _filtered(part.start or nodes.Const(None, lineno=part.lineno), "_slice", *ends)
    for pair in list(tree.find_all(nodes.Pair)):
        pair.key = _filtered(pair.key, "_weighed")
    return tree


def _filtered(value: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno, environment=value.environment)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        for width in _WIDTH.findall(format_spec):
            meter.get().charge(number_of(width))
        number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        plain = not format_spec or not (number or hasattr(value, "strftime"))
        found = format(_text(value) if plain else value, format_spec)
        meter.get().charge(OPERATION + len(found))
        return found

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion not in (None, "s"):
            raise TemplateFault("a format asks for what Python would print")
        return value if conversion is None else _text(value)


@pass_context
def _printed(context: Context, value: Any) -> str:
    """Return the text that `{{ … }}` prints. It takes the context so that constants, too, print only at run time."""
    found = _text(value)
    meter.get().charge(OPERATION + len(found))
    return found


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that it counts its work and names itself when it fails."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    def run(*args: Any, **kwargs: Any) -> Any:
        counter = meter.get()
        counter.charge(OPERATION)
        first, (value, *rest) = args[:skipped], args[skipped:]
        try:
            if isinstance(value, Null) and name not in OF_NULL:
                str(value)
            if name in OF_TEXT and not isinstance(value, str):
                value = _text(value)
            if name == "replace":
                rest = [_text(part) if index < 2 else part for index, part in enumerate(rest)]
                kwargs = {key: part if key == "count" else _text(part) for key, part in kwargs.items()}
            if name == "format":
                return _percent(value, kwargs or tuple(rest))
            if name not in FREE:
                for part in (value, *rest, *kwargs.values()):
                    counter.weigh(part)
            if name in OF_ELEMENTS and hasattr(value, "__len__") and not isinstance(value, Counted):
                counter.charge(OPERATION * len(value))
            foresee(name, value, tuple(rest), kwargs)
            return _paid(function(*first, value, *rest, **kwargs))
        except (TemplateFault, UndefinedError):
            raise
        except NoText as error:
            raise TemplateFault(f"the filter `{name}` was given no text: {error}") from error
        except Exception as error:
            raise TemplateFault(f"the filter `{name}` failed: {reason(error)}") from error

    return update_wrapper(run, function)


def _metered_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        counter = meter.get()
        counter.charge(OPERATION)
        if name in COMPARING:
            for part in args:
                counter.weigh(part)
        return function(*(None if isinstance(arg, Null) else arg for arg in args))

    return update_wrapper(run, function)


def _percent(pattern: str, values: Any) -> str:
    """Return `pattern % values` with our text of values and with widths counted as work."""
    for match in _PERCENT.finditer(pattern):
        for width in match.groups(default=""):
            if width == "*":
                raise TemplateFault("a width of a format must be written in it")
            meter.get().charge(number_of(width))
    if isinstance(values, dict):
        return pattern % {key: _formattable(value) for key, value in values.items()}
    return pattern % (tuple(map(_formattable, values)) if isinstance(values, tuple) else _formattable(values))


class _Digits(Decimal):
    """A decimal that `%s` prints with all its digits, as `%d` and `%f` do."""

    def __str__(self) -> str:
        return format(self, "f")


def _formattable(value: Any) -> Any:
    found = _text(value)
    if isinstance(value, Decimal):
        return _Digits(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else found


def _text(value: Any) -> str:
    """Return the text of a value; nulls and undefined names raise an error with their name."""
    if isinstance(value, Counted):
        raise TemplateFault("it prints values that come one by one; add `|list` or `|join`")
    if isinstance(value, str | Null | Undefined):
        return str(value)
    meter.get().weigh(value)
    return text_of(value)


def _weighed(value: Any) -> Any:
    meter.get().weigh(value)
    return value


def _drawn(value: Any) -> Any:
    """Return an argument of a call, as a list if it is a counted iterator."""
    return list(value) if isinstance(value, Counted) else value


def _paid(result: Any) -> Any:
    """Return the result after counting its size; an iterator is counted as it is consumed."""
    if isinstance(result, Iterator):
        return Counted(result)
    meter.get().charge(size_of(result))
    if isinstance(result, int):
        check_bits(result.bit_length())
    return result


def _named(found: Any, name: Any) -> Any:
    """Wrap a null with its name if the template holds that name: other names could be the row's data."""
    if found is not None:
        return found
    said = isinstance(name, str) and name in meter.get().source
    return Null(f"`{name}`" if said else "a value")


# -- replaced filters ----------------------------------------------------------------------------


def _escape(value: Any) -> str:
    return str(escape(_text(value)))


@pass_environment
def _join(environment: PromptEnvironment, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    texts = [_text(item) for item in items]
    between = _text(d)
    meter.get().charge(len(between) * len(texts))
    return between.join(texts)


@pass_environment
def _sum(environment: PromptEnvironment, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    items = iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)
    total = start
    for item in items:
        meter.get().charge(OPERATION + size_of(total) + size_of(item))
        total = total + item
    return total


def _striptags(value: Any) -> str:
    """Return the text without comments and tags, each removed in one pass, with runs of white space made single."""
    text = _without(_without(_text(value), "<!--", "-->"), "<", ">")
    return unescape(" ".join(text.split()))


def _without(text: str, opening: str, closing: str) -> str:
    parts, at = [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        parts.append(text[at:start])
        at = end + len(closing)
    return "".join([*parts, text[at:]])


def _tojson(value: Any, indent: int | None = None) -> str:
    if indent is None:
        return as_json(value)
    meter.get().charge(size_of(value) * max(0, indent))
    return json.dumps(json.loads(as_json(value)), ensure_ascii=False, indent=indent)
