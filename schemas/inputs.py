"""Where a job's rows are, how they are read, and which columns make a prompt."""

from __future__ import annotations

import codecs
import json
import re
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from schemas.base import Document
from schemas.columns import RESERVED_COLUMNS, TRUNCATED
from schemas.options import Option, Panel

_NO_ENCODINGS = frozenset(
    {"idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"}
)
"""Names that Python knows as encodings of text, and no CSV file has."""


class InputSpec(Document):
    """Where the rows are and which columns make a prompt."""

    uri: str = Field(min_length=1, description="Absolute path, directory, glob, s3:// URI or table.")
    more_uris: tuple[str, ...] = Field((), description="Further inputs; their rows follow in this order.")
    prompt_column: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="Column of prompt text. Default: `prompt`."
    )
    messages_column: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="Column of chat messages. Default: `messages`."
    )
    template: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None,
        description="Jinja template that makes the prompt of a row's columns: 'Summarise: {{ text }}', or "
        "{{ row['my column'] }}.",
    )
    system: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="System message put before every row's messages."
    )
    chat: Annotated[
        bool, Option(panel=Panel.INPUT, form="negated", help="Send prompts as they are, for base models.")
    ] = Field(True, description="Wrap prompts in the model's chat format; false for base models.")
    tools: Annotated[
        tuple[str, ...],
        Option(panel=Panel.INPUT, form="json_file", help="File with a JSON list of the tools to offer."),
    ] = Field((), description="Tools of rows without any of their own: JSON text of each.")
    choices_column: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="Column of choices to score. Default: `choices`."
    )
    keep: Annotated[
        tuple[str, ...], Option(panel=Panel.INPUT, form="names", help="Input columns carried to the results: a,b.")
    ] = Field((), description="Input columns carried to the results.")
    limit: Annotated[int | None, Option(panel=Panel.INPUT)] = Field(
        None, ge=1, description="Run only this many rows, the first ones: a trial."
    )
    limit_seed: Annotated[int | None, Option(panel=Panel.INPUT)] = Field(
        None, ge=0, lt=2**63, description="With `limit`: draw the rows from the whole dataset by this seed."
    )
    at: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, min_length=1, description="Version of a Delta table or snapshot of an Iceberg table. Default: the newest."
    )
    since: Annotated[tuple[str, ...], Option(panel=Panel.INPUT)] = Field(
        (),
        description="Run only rows appended to a table after this version or snapshot: 17, or TABLE=17 of several; "
        "job:ID for what that job has read, and in a schedule last-good.",
    )
    where: Annotated[tuple[str, ...], Option(panel=Panel.INPUT)] = Field(
        (), description="Run only rows that meet this: lang=de, n>=5. May be given several times; then all must hold."
    )
    truncate: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None,
        description="Cut a column's text where the prompt is too long: text=tail drops its end, head its beginning, "
        "middle its middle.",
    )
    csv_delimiter: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None,
        description="What separates the fields of CSV files: ';', tab. Default: what the header leaves no doubt of.",
    )
    csv_encoding: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="Encoding of CSV files: cp1252. Default: UTF-8, or that of the mark at their start."
    )
    csv_escape: Annotated[str | None, Option(panel=Panel.INPUT)] = Field(
        None, description="Character that escapes quotes in CSV files, or none. Default: quotes are doubled."
    )
    max_row_bytes: int = Field(4 * 2**20, ge=1, description="A row whose prompt is larger becomes an error row.")

    @property
    def uris(self) -> tuple[str, ...]:
        """All inputs, in the order of their rows."""
        return (self.uri, *self.more_uris)

    @property
    def shown(self) -> str:
        """The inputs, for people."""
        more = len(self.more_uris)
        return f"{self.uri} and {more:,} more" if more else self.uri

    @property
    def truncated(self) -> tuple[str, str] | None:
        """The column that is cut in rows that are too long, and the part of its text that is dropped."""
        if self.truncate is None:
            return None
        column, _, part = self.truncate.rpartition("=")
        return column, part

    @property
    def csv_escape_character(self) -> str | None:
        """The character that escapes in CSV files; "" if there is none, None if the files must tell."""
        return "" if self.csv_escape == "none" else self.csv_escape

    @field_validator("since", mode="before")
    @classmethod
    def _one_or_many(cls, versions: Any) -> Any:
        return (versions,) if isinstance(versions, str) else versions

    @field_validator("since")
    @classmethod
    def _are_versions(cls, versions: tuple[str, ...]) -> tuple[str, ...]:
        bare = [text for text in versions if "=" not in text]
        if len(bare) > 1 or (bare and len(versions) > 1):
            raise ValueError("of several tables each has a version of its own: s3://bucket/table=17")
        if any(not text.strip("=") or text.startswith("=") or text.endswith("=") for text in versions):
            raise ValueError("it is a version or a snapshot, or a table and one: s3://bucket/table=17")
        return versions

    @field_validator("truncate")
    @classmethod
    def _names_column_and_part(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"(?s).+=(head|tail|middle)", text):
            raise ValueError("it is a column and the part to drop: text=tail, or head or middle")
        return text

    @field_validator("csv_delimiter")
    @classmethod
    def _is_delimiter(cls, text: str | None) -> str | None:
        """Take the names of delimiters that are hard to type, too."""
        character = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(text or "", text)
        if character is not None and (len(character) != 1 or character in '"\r\n'):
            raise ValueError("a delimiter is one character, such as ';', or the word tab")
        return character

    @field_validator("csv_escape")
    @classmethod
    def _is_escape(cls, text: str | None) -> str | None:
        if text is not None and text != "none" and (len(text) != 1 or text in '"\r\n'):
            raise ValueError("it is one character, such as a backslash, or the word none")
        return text

    @field_validator("csv_encoding")
    @classmethod
    def _is_encoding(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            "".encode(text)
            known = codecs.lookup(text).name
        except (LookupError, ValueError):
            known = ""
        if not known or known in _NO_ENCODINGS:
            raise ValueError(f"{text[:40]!r} is not an encoding of text; write utf-8, cp1252, utf-16 or the like")
        return text

    @field_validator("tools", mode="before")
    @classmethod
    def _as_text(cls, tools: Any) -> Any:
        """Takes tools as objects too. Text keeps the order of their keys, which the model reads."""
        if not isinstance(tools, list | tuple):
            return tools
        return tuple(tool if isinstance(tool, str) else json.dumps(tool, ensure_ascii=False) for tool in tools)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [n for n in ("messages_column", "prompt_column", "template") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: a row has one prompt")
        if self.system is not None and not self.chat:
            raise ValueError("a system message needs the chat format; drop --system or --no-chat")
        if self.tools and not self.chat:
            raise ValueError("tools need the chat format; drop --tools or --no-chat")
        if clash := sorted(RESERVED_COLUMNS.intersection(self.keep) - {"custom_id"}):
            raise ValueError(f"cannot keep column {clash[0]!r}: the results have a column of that name")
        if self.truncate is not None and TRUNCATED in self.keep:
            raise ValueError(f"cannot keep column {TRUNCATED!r}: the results have a column of that name")
        if self.limit_seed is not None and self.limit is None:
            raise ValueError("a seed draws so many rows as the limit says; add --limit")
        if len(set(self.keep)) != len(self.keep):
            raise ValueError("a column is kept twice")
        return self
