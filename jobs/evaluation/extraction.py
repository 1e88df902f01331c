"""Extraction: the answer in a model's text, by the rule that a benchmark names, and whether it is right.

The rules are those of OpenCompass 0.3.0, the release at the time of the model card, so that scores can be compared with
the card's. Later releases have changed some of them: the list of expressions of `first-option` (2024-08-12 and later),
the last instead of the first answer in BBH's free-form tasks, folded case and commas there (2026-07-20), and an answer
of HumanEval that loses its indentation (2025-05-19).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from jobs.evaluation import mathematics
from jobs.evaluation.suites import RuleName, rules

_SAYS = "answer is "
_BRACKETED = re.compile(r"\(([A-Z])\)*")
_CAPITAL = re.compile("[A-Z]")
_BOLD = re.compile(r"\*\*(.*?)\*\*")
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule has made of an output.

    Attributes:
        answer: the answer, as it is compared.
        certain: whether the output holds an answer in the form that the rule looks for. If not, `answer` is what the
            rule falls back to, and the row counts as not extracted.
    """

    answer: str
    certain: bool


def extract(rule: RuleName, text: str) -> Found:
    """Return the answer in a text that a model has generated."""
    return _RULES[rule](text)


def is_right(rule: RuleName, found: Found, reference: str | None) -> bool:
    """Return whether an answer is right; without a reference none is. Programs are judged by running them, not here."""
    if reference is None:
        return False
    if rule == "math":
        return mathematics.are_equal(found.answer, reference)
    if rule == "bbh-choice":
        return found.answer == _bbh_choice(reference).answer
    return found.answer == reference


def _first_option(text: str) -> Found:
    options, patterns = _first_option_rules()
    for pattern in patterns:
        if match := pattern.search(text):
            for option in options:
                if option in match[0]:
                    return Found(option, True)
    return Found("", False)


@cache
def _first_option_rules() -> tuple[str, list[re.Pattern[str]]]:
    rule = rules()["first-option"]
    return rule["options"], [re.compile(pattern, re.DOTALL) for pattern in rule["patterns"]]


def _first_capital(text: str) -> Found:
    first = next((character for character in text if character.isupper()), "")
    return Found(first, bool(first))


def _bbh_choice(text: str) -> Found:
    said = _said(text)
    if match := _BRACKETED.search(said):
        return Found(match[1], True)
    if match := _CAPITAL.search(said):
        return Found(match[0], True)
    return Found(said, False)


def _bbh_free(text: str) -> Found:
    answer = _said(text).split("\n")[0].strip()
    if answer.endswith("."):
        answer = answer[:-1].strip()
    if match := _BOLD.search(answer):
        answer = match[1]
    return Found(answer, _SAYS in text)


def _said(text: str) -> str:
    """Return what stands behind the first "answer is", up to the next one; else the whole text."""
    parts = text.split(_SAYS)
    return parts[1].strip() if len(parts) > 1 else text


def _math(text: str) -> Found:
    return Found(*mathematics.find_answer(text))


def _code(text: str) -> Found:
    """Take the first fenced block, else the whole text with its indentation."""
    block = _FENCED.search(text)
    code = block[1] if block else text
    return Found(code, bool(code.strip()))


_RULES: Mapping[RuleName, Callable[[str], Found]] = {
    "first-option": _first_option,
    "first-capital": _first_capital,
    "bbh-choice": _bbh_choice,
    "bbh-free": _bbh_free,
    "math": _math,
    "code": _code,
}
