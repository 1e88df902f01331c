"""Answers to MATH: where they stand in a text, and when two of them count as equal.

Equality is that of OpenCompass 0.3.0, `MATHEvaluator(version="v2")`: both texts are rewritten by the steps of
`data/rules.toml` and compared; no algebra is done. `data/rules.toml` names the sources of the steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from jobs.evaluation.suites import rules

_BOX = "\\boxed{"
_SENTENCE = re.compile("final answer|answer is")


def boxed_answer(text: str) -> str | None:
    """Return what stands in the last box of a solution; None if there is none, or it is not closed."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                box = text[start : place + 1]
                return box[len(_BOX) : -1] if box.startswith(_BOX) else None
    return None


def find_answer(text: str) -> tuple[str, bool]:
    """Return the answer in a model's text, and whether the text says that it is one.

    The last box counts; else the first sentence that speaks of an answer; else, as a guess, the first sentence.
    """
    box = boxed_answer(text)
    if box is not None and (inner := re.match(r"^\{(.*)\}$", box)):
        box = inner[1]
    if box:
        return box, True
    sentences = text.split(".")
    for sentence in sentences:
        if _SENTENCE.search(sentence.lower()):
            return normalised(sentence), True
    return normalised(sentences[0]), False


def are_equal(answer: str, reference: str) -> bool:
    """Return whether an answer counts as the reference."""
    try:
        stripped, wanted = _rewritten("strip", answer), _rewritten("strip", reference)
        if stripped == wanted or normalised(stripped) == normalised(wanted):
            return True
    except _NotComparable:
        pass
    return normalised(answer) == normalised(reference) or answer == reference


def normalised(text: str) -> str:
    """Rewrite an answer: no units, no articles, no markup around it."""
    return _rewritten("normalise", text)


class _NotComparable(Exception):
    """A step of `strip` gives up on the text; the comparison goes on without these steps."""


class _Done(Exception):
    """A step has found that the text is complete as it is."""


def _rewritten(name: str, text: str) -> str:
    for step in _steps(name):
        try:
            text = step(text)
        except _Done:
            return text
    return text


@cache
def _steps(name: str) -> Sequence[Callable[[str], str]]:
    return [_step(kind, *arguments) for kind, *arguments in rules()["math"][name]]


def _step(kind: str, *arguments: str) -> Callable[[str], str]:
    """Return the function of one step of `data/rules.toml`."""
    match kind, arguments:
        case "replace", (old, new):
            return lambda text: text.replace(old, new)
        case "replace-unless", (there, old, new):
            return lambda text: text if there in text else text.replace(old, new)
        case "sub", (pattern, new):
            search = re.compile(pattern)
            return lambda text: search.sub(new, text)
        case "last", (pattern,):
            search = re.compile(pattern)
            return lambda text: next(reversed(search.findall(text)), text)
        case "strip", ():
            return str.strip
        case "rstrip", (characters,):
            return lambda text: text.rstrip(characters)
        case "drop-unit", (pattern,):
            search = re.compile(pattern)
            return lambda text: search.sub("", text).strip() or text
        case _:
            return _NAMED[kind]


def _join_thousands(text: str) -> str:
    bare = text.replace(",", "")
    return bare if bare.isdigit() else text


def _leading_zero(text: str) -> str:
    if not text:
        raise _Done
    return f"0{text}" if text.startswith(".") else text


def _drop_name(text: str) -> str:
    """Return the right side of `k = 3`; a longer left side is part of the answer."""
    sides = text.split("=")
    return sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text


def _braced_fractions(text: str) -> str:
    r"""Write `\frac12` and `\frac1{2}` with braces; a fraction that is cut short leaves the whole text as it is."""
    first, *rest = text.split("\\frac")
    written = [first]
    for part in rest:
        if part.startswith("{"):
            written.append(part)
        elif len(part) < 2:
            return text
        else:
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            written.append(f"{{{part[0]}}}{below}")
    return "\\frac".join(written)


def _slash_fraction(text: str) -> str:
    r"""Write `3/4` as `\frac{3}{4}`.

    Raises:
        _NotComparable: there is one slash, and not two whole numbers around it.
    """
    parts = text.split("/")
    if len(parts) != 2:
        return text
    try:
        above, below = map(int, parts)
    except ValueError:
        raise _NotComparable from None
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


_NAMED: dict[str, Callable[[str], str]] = {
    "join-thousands": _join_thousands,
    "leading-zero": _leading_zero,
    "drop-name": _drop_name,
    "braced-fractions": _braced_fractions,
    "slash-fraction": _slash_fraction,
}
