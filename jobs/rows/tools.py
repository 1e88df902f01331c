"""The tools that rows declare to the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.values.cells import MAX_DEPTH, RowFailure, is_shallow, parsed, values
from schemas.codes import RowError

MAX_TOOLS = 1024
"""Most tools of one row. Their bytes are bounded too."""


def row_tools(table: pa.Table, column: str | None, defaults: Sequence[str]) -> list[Any]:
    """Return each row's list of tools (the job's if it has none of its own), None for no tools, or a RowFailure.

    Tools, and the `parameters` in them, may be JSON text: one Arrow type rarely fits the schemas of many tools.

    Args:
        defaults: JSON text of each of the job's tools.
    """
    shared = [_tool(tool) for tool in defaults] or None
    return [shared if value is None else _tools(value) for value in values(table, column)]


def _tools(value: Any) -> Any:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_MESSAGES)
    if isinstance(found, RowFailure):
        return found
    if not isinstance(found, list):
        return RowFailure(code=RowError.INVALID_MESSAGES, message="tools: not a list")
    if len(found) > MAX_TOOLS:
        return RowFailure(
            code=RowError.INVALID_MESSAGES, message=f"tools: {len(found):,} are given, at most {MAX_TOOLS}"
        )
    try:
        tools = [_tool(tool) for tool in found]
    except (ValueError, RecursionError):
        return RowFailure(code=RowError.INVALID_MESSAGES, message="tools: a tool is not JSON")
    if not is_shallow(tools):
        return RowFailure(
            code=RowError.INVALID_MESSAGES, message=f"tools: a tool is nested over {MAX_DEPTH} levels deep"
        )
    return tools


def _tool(tool: Any) -> Any:
    """Return the tool with JSON text in it parsed to objects."""
    if isinstance(tool, str):
        tool = json.loads(tool)
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return {**tool, "function": _tool(tool["function"])}
    parameters = tool.get("parameters")
    return {**tool, "parameters": json.loads(parameters)} if isinstance(parameters, str) else tool
