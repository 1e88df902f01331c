"""Structured outputs: the form that a row or a job asks for, and whether the engine can compile it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from schemas.sampling import ANY_OBJECT, StructuredOutputs

_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def of_response_format(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's `response_format` as values of `StructuredOutputs`; None for plain text.

    Raises:
        ValueError: neither text, json_object nor json_schema with a schema.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_schema": ANY_OBJECT}
    described = response_format.get("json_schema")
    schema = described.get("schema") if kind == "json_schema" and isinstance(described, Mapping) else None
    if schema is None:
        raise ValueError("response_format is neither text, json_object nor json_schema with a schema")
    return {"json_schema": schema}


def guided_schema(json_schema: str) -> str:
    """The schema with the separators that the compiler is to write between values: those of `json.dumps`.

    Where white space is free, a model that keeps choosing it fills the answer with blanks to its last token.
    """
    schema = json.loads(json_schema)
    if not isinstance(schema, dict):
        return json_schema
    return json.dumps({"x-guidance": _SEPARATORS, **schema}, ensure_ascii=False)


@lru_cache(maxsize=1024)
def compile_error(form: StructuredOutputs) -> str | None:
    """Why the engine cannot enforce this form, or None.

    Asks the compiler that the engine uses (llguidance), so that a job does not start with a form that it
    cannot finish. Never reads from the network: references to other documents are errors.
    """
    from llguidance import LLMatcher, grammar_from

    if form.json_schema is not None:
        try:
            grammar = LLMatcher.grammar_from_json_schema(guided_schema(form.json_schema))
        except (ValueError, RecursionError):
            return "json_schema is not JSON"
    elif form.regex is not None:
        grammar = grammar_from("regex", form.regex)
    else:
        # The same alternatives that the compiler makes of a list, whose annotation knows text only.
        grammar = "start: " + " | ".join(json.dumps(text) for text in form.choice or ())
    error = LLMatcher.validate_grammar(grammar, None)
    if not error:
        return None
    kind = next(name for name in ("json_schema", "regex", "choice") if getattr(form, name) is not None)
    # The compiler prints the whole expression first, and the grammar around it last.
    reason = error.partition("error: ")[2] or error
    return f"{kind} cannot be compiled: {reason.splitlines()[0][:300]}"
