"""Chat templates (Jinja) of models other than InternLM2, rendered so that rows cannot forge markers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jobs.errors import InvalidModel
from jobs.models.errors import InvalidMessages
from jobs.models.messages import parse_messages
from jobs.models.segments import Segment

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_STAND_IN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class ChatTemplate:
    """A compiled chat template.

    Before rendering, marker text in a row's strings is swapped for stand-ins (noncharacters of Unicode);
    after it, the stand-ins become untrusted segments. So the template sees the text it was written for,
    and no marker in the rendered prompt came from a row.
    """

    def __init__(self, source: str, markers: Sequence[str], variables: Mapping[str, str]) -> None:
        """Compile the template.

        Args:
            source: the template.
            markers: texts that the tokenizer turns into special tokens.
            variables: `bos_token`, `eos_token` and the like.

        Raises:
            InvalidModel: the template does not compile.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise InvalidModel(
                f"The model's chat template does not compile: {error.message}.", "Download tokenizer_config.json again."
            ) from error
        longest_first = sorted({*markers, _OPEN, _CLOSE}, key=len, reverse=True)
        self._markers = re.compile("|".join(re.escape(marker) for marker in longest_first))
        self._variables = dict(variables)
        # Most templates do not know the role, and silently leave its messages out.
        self._roles = _ROLES | {"developer"} if "developer" in source else _ROLES

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[Segment]:
        """Render the conversation, ending with the generation prompt.

        Raises:
            InvalidMessages: see `parse_messages`; or the template refuses the conversation.
        """
        parsed = parse_messages(messages, self._roles)
        escaped: list[str] = []
        conversation = [
            self._escape(
                {
                    **{key: value for key, value in message.items() if value is not None},
                    "role": checked.role,
                    "content": checked.content,
                },
                escaped,
            )
            for message, checked in zip(messages, parsed, strict=True)
        ]
        try:
            text = self._template.render(
                messages=conversation,
                tools=self._escape(tools, escaped) if tools else None,
                add_generation_prompt=True,
                **self._variables,
            )
        except InvalidMessages:
            raise
        except Exception as error:  # noqa: BLE001 - templates fail in every way Python can, and quote the row
            raise InvalidMessages(
                f"the model's chat template refuses the conversation ({type(error).__name__})"
            ) from None
        return _segments(text, escaped)

    def _escape(self, value: Any, escaped: list[str]) -> Any:
        if isinstance(value, str):
            return self._markers.sub(lambda match: _stand_in(match[0], escaped), value)
        if isinstance(value, Mapping):
            return {self._escape(key, escaped): self._escape(item, escaped) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._escape(item, escaped) for item in value]
        return value


def _stand_in(text: str, escaped: list[str]) -> str:
    escaped.append(text)
    return f"{_OPEN}{len(escaped) - 1}{_CLOSE}"


def _segments(text: str, escaped: Sequence[str]) -> list[Segment]:
    segments: list[Segment] = []
    for position, part in enumerate(_STAND_IN.split(text)):
        stands_in = position % 2 == 1
        if part:
            segments.append(Segment(escaped[int(part)] if stands_in else part, trusted=not stands_in))
    return segments


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise InvalidMessages("the model's chat template refuses the conversation")
