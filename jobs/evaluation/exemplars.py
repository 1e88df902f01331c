"""Worked examples of BBH and MATH: found in the user's OpenCompass or lm-evaluation-harness, and checked by their hash.

Their texts are not part of this program. Nothing of those packages is imported or run: their files are read.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.errors import InvalidInput
from jobs.evaluation.questions import ALL
from jobs.evaluation.suites import exemplar_hashes

_PACKAGES = ("opencompass", "lm_eval")
_BBH = "configs/datasets/bbh/lib_prompt"
_MATH = "configs/datasets/math/math_4shot_example_from_google_research.py"
_HARNESS_BBH = "tasks/bbh/cot_fewshot"
_OPENER = "A: Let's think step by step."


def read_exemplars(kind: str, data: Path, given: Path | None = None) -> Mapping[str, str]:
    """Return the worked examples of a benchmark by subject, each with the SHA-256 that the suites are pinned to.

    Args:
        data: data directory; `lib_prompt/` and OpenCompass' file for MATH are looked for there, too.
        given: directory of the package `opencompass` or `lm_eval`, or of the files; default: the installed packages.

    Raises:
        InvalidInput: a text is found nowhere, or only with another hash.
    """
    wanted = exemplar_hashes(kind)
    places = [given] if given else [data, *_installed()]
    found: dict[str, str] = {}
    different: set[str] = set()
    for place in places:
        for subject, text in _of_bbh(place, wanted) if kind == "bbh" else _of_math(place):
            if hashlib.sha256(text.encode()).hexdigest() == wanted[subject]:
                found.setdefault(subject, text)
            else:
                different.add(subject)
    if missing := [subject for subject in wanted if subject not in found]:
        title = kind.upper()
        what = title if missing[0] == ALL else f"{title}'s {missing[0]}"
        looked = ", ".join(map(str, places))
        how = "are other ones than the suite is pinned to" if missing[0] in different else "are not there"
        raise InvalidInput(
            f"The worked examples of {what} {how}; looked in {looked}.",
            "pip install --no-deps opencompass, or give the directory of that package with --exemplars.",
        )
    return found


def _installed() -> Iterator[Path]:
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        for location in (found.submodule_search_locations or ()) if found else ():
            yield Path(location)


def _of_bbh(place: Path, subjects: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield texts for subjects: OpenCompass has each as a file, the harness has its parts."""
    for folder in (place / _BBH, place / "lib_prompt", place / "bbh" / "lib_prompt", place):
        for subject in subjects:
            if (text := _text(folder / f"{subject}.txt")) is not None:
                yield subject, text
    for folder in (place / _HARNESS_BBH, place):
        for subject in subjects:
            if (text := _text(folder / f"{subject}.yaml")) is not None:
                yield from ((subject, joined) for joined in _joined(text))


def _joined(text: str) -> Iterator[str]:
    """Yield the texts that the parts in a task file of the harness can stand for."""
    import yaml

    try:
        # Plain text for every value: `no` and `12` are answers here.
        values = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - the base loader makes text, lists and mappings
        description, samples = values["description"], values["fewshot_config"]["samples"]
        parts = [(sample["input"], sample["target"]) for sample in samples]
    except (yaml.YAMLError, KeyError, TypeError):
        return
    for gap in ("\n", " "):
        yield description + "\n\n".join(f"Q: {asked}\n{_OPENER}{gap}{answer}" for asked, answer in parts)


def _of_math(place: Path) -> Iterator[tuple[str, str]]:
    """Yield the text of OpenCompass' file, which assigns it to `prompt`; the file is parsed, not run."""
    for path in (place / _MATH, place / Path(_MATH).name, place / "math" / Path(_MATH).name):
        if (source := _text(path)) is not None and (value := _assigned(source)) is not None:
            yield ALL, value.strip()


def _assigned(source: str) -> str | None:
    try:
        nodes: list[Any] = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return None
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return max(texts, key=len, default=None)


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError):
        return None
