"""OpenCompass' own code as the oracle, where its package is: `pip install --no-deps opencompass==0.3.0`.

Its modules are not imported, since they want dozens of packages: single functions and classes are taken out of their
sources and run as they are.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

VERSION = "0.3.0"
VARIABLE = "OPENCOMPASS_DIR"
"""Directory of the package, if it is not installed."""


def package() -> Path:
    """Return the package's directory; skip the test if this version is not there."""
    given = os.environ.get(VARIABLE)
    found = importlib.util.find_spec("opencompass")
    places = (
        [Path(given)] if given else [Path(each) for each in (found.submodule_search_locations or ())] if found else []
    )
    for place in places:
        if VERSION in (place / "__init__.py").read_text():
            return place
    pytest.skip(f"needs opencompass {VERSION}: pip install --no-deps, or its directory in {VARIABLE}")


def taken(path: Path, *names: str, **known: Any) -> dict[str, Any]:
    """Run the named functions and classes of a source file, without decorators; return its names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if getattr(node, "name", None) in names]
    assert {node.name for node in nodes} == set(names)
    for node in nodes:
        node.decorator_list = []
    space: dict[str, Any] = {
        "re": re,
        "deepcopy": deepcopy,
        "copy": SimpleNamespace(deepcopy=deepcopy),
        **_TYPING,
        **known,
    }
    exec(compile(ast.fix_missing_locations(ast.Module(nodes, [])), str(path), "exec", flags=_ANNOTATIONS), space)
    return space


_ANNOTATIONS = __import__("__future__").annotations.compiler_flag
_TYPING = {
    name: getattr(__import__("typing"), name) for name in ("Dict", "List", "Optional", "Union", "Hashable", "Tuple")
}
_TYPING |= {"PromptType": Any, "abstractmethod": lambda function: function}


class Renderer:
    """Renders questions with a configuration of OpenCompass."""

    def __init__(self, root: Path) -> None:
        prompts = taken(root / "utils/prompt.py", "safe_format", "PromptList")
        self._types = taken(root / "utils/types.py", "_check_type_list")
        self._template = taken(root / "openicl/icl_prompt_template.py", "PromptTemplate", **self._types | prompts)[
            "PromptTemplate"
        ]
        self._retriever = taken(
            root / "openicl/icl_retriever/icl_base_retriever.py",
            "BaseRetriever",
            **_TYPING,
            PromptTemplate=self._template,
            PromptList=prompts["PromptList"],
            DatasetReader=object,
            Dataset=object,
        )["BaseRetriever"]
        self._plain = taken(root / "models/base.py", "LMTemplateParser", PromptList=prompts["PromptList"])[
            "LMTemplateParser"
        ]
        self._chat = taken(root / "models/base_api.py", "APITemplateParser", PromptList=prompts["PromptList"])[
            "APITemplateParser"
        ]
        above = taken(
            root / "models/huggingface_above_v4_33.py",
            "_convert_chat_messages",
            "_get_meta_template",
            APITemplateParser=self._chat,
        )
        self._meta, self._messages = above["_get_meta_template"], above["_convert_chat_messages"]
        self._root = root

    def configurations(self, source: str) -> list[dict[str, Any]]:
        """Return the data sets of a configuration file."""
        path = self._root.parent / source
        text = re.sub(r"^from (?:opencompass|mmengine).*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        text = re.sub(
            r"with read_base\(\):\n    from \.(\w+) import prompt",
            lambda found: (path.parent / f"{found[1]}.py").read_text(encoding="utf-8"),
            text,
        )

        class Names(dict[str, Any]):
            def __missing__(self, name: str) -> str:
                if name in dir(__builtins__) or name in __builtins__:
                    raise KeyError(name)
                return name

        names = Names(__file__=str(path))
        exec(compile(text, str(path), "exec"), names)
        return next(value for name, value in names.items() if name.endswith("_datasets"))

    def render(self, configuration: dict[str, Any], question: dict[str, str], shots: list[dict[str, str]]) -> Any:
        """Return what a model is given: the prompt with each label, the prompt, or the messages."""
        infer = configuration["infer_cfg"]
        ice, prompt = (self._of(infer.get(name)) for name in ("ice_template", "prompt_template"))
        output = configuration["reader_cfg"]["output_column"]
        reader = SimpleNamespace(output_column=output)
        fixed = infer["retriever"]["type"] == "FixKRetriever"
        retriever = SimpleNamespace(
            index_ds=shots,
            test_ds=[question],
            dataset_reader=reader,
            ice_separator="\n" if fixed else "",
            ice_eos_token="\n" if fixed else "",
        )
        solved = self._retriever.generate_ice(retriever, list(range(len(shots))), ice_template=ice)
        if infer["inferencer"]["type"] == "PPLInferencer":
            labels = [
                self._retriever.generate_label_prompt(
                    retriever, 0, solved, label, ice_template=ice, prompt_template=prompt
                )
                for label in "ABCD"
            ]
            return [self._plain().parse_template(each, mode="ppl") for each in labels]
        asked = self._retriever.generate_prompt_for_generate_task(
            retriever, 0, solved, gen_field_replace_token="", ice_template=ice, prompt_template=prompt
        )
        if isinstance(asked, str):
            return self._plain().parse_template(asked, mode="gen")
        return self._messages([self._meta(None).parse_template(asked, mode="gen")])[0]

    def _of(self, template: dict[str, Any] | None) -> Any:
        return template and self._template(**{name: value for name, value in template.items() if name != "type"})
