"""InternLM2's chat format, from InternLM's `chat/chat_format.md`.

    <s><|im_start|>{role}[ name={name}]\\n{content}<|im_end|>\\n … <|im_start|>assistant\\n

Everything between two markers is encoded as one run of plain text, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.models.messages import Message, parse_messages
from jobs.models.segments import Segment
from jobs.models.tools import declare_tools, render_call

VOCAB_SIZE = 92544
BOS = "<s>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
ACTION_START, ACTION_END = "<|action_start|>", "<|action_end|>"
INTERPRETER, PLUGIN = "<|interpreter|>", "<|plugin|>"

MARKERS = {
    92538: PLUGIN,
    92539: INTERPRETER,
    92540: ACTION_END,
    92541: ACTION_START,
    92542: IM_END,
    92543: IM_START,
}
"""Ids of the markers in the vocabulary of 92544, where the SentencePiece file calls them `[UNUSED_TOKEN_…]`."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] }}"
    "{% if message['name'] %}{{ ' name=' + message['name'] }}{% endif %}"
    "{{ '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Template for other programs that read the snapshot. We render with `render_chat`, where data cannot forge markers."""

_ROLES = frozenset({"system", "user", "assistant", "environment", "tool"})
_MARKER_NAMES = {"plugin": PLUGIN, PLUGIN: PLUGIN, "interpreter": INTERPRETER, INTERPRETER: INTERPRETER}


def render_chat(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[Segment]:
    """Render the conversation, ending with the generation prompt.

    Tools are declared in a system message of their own, after the first message if that is a system
    message. A `tool` message is an `environment` message named `<|plugin|>`.

    Raises:
        InvalidMessages: see `jobs.models.messages.parse_messages`.
    """
    parsed = parse_messages(messages, _ROLES)
    if tools:
        declaration = Message(role="system", name=PLUGIN, content=declare_tools(tools))
        parsed.insert(1 if parsed[0].role == "system" else 0, declaration)
    segments = [Segment(BOS + IM_START, trusted=True)]
    for message in parsed:
        segments += _turn(message)
        segments.append(Segment(IM_END + "\n" + IM_START, trusted=True))
    segments.append(Segment("assistant\n", trusted=False))
    return segments


def _turn(message: Message) -> list[Segment]:
    role, name = message.role, message.name
    if role == "tool":
        role, name = "environment", PLUGIN
    if name is None:
        segments = [Segment(f"{role}\n{message.content}", trusted=False)]
    elif role in ("system", "environment") and name in _MARKER_NAMES:
        segments = [
            Segment(f"{role} name=", trusted=False),
            Segment(_MARKER_NAMES[name], trusted=True),
            Segment(f"\n{message.content}", trusted=False),
        ]
    else:
        segments = [Segment(f"{role} name={name}\n{message.content}", trusted=False)]
    for call in message.tool_calls:
        segments += [
            Segment(ACTION_START + PLUGIN, trusted=True),
            Segment(f"\n{render_call(call)}", trusted=False),
            Segment(ACTION_END, trusted=True),
        ]
    return segments


def markers_of(proto: Any) -> dict[int, str]:
    """Return ids and texts of the chat markers in a parsed SentencePiece model.

    Small models of our own name them outright; the public model does not, and is recognised by its size.
    """
    wanted = set(MARKERS.values())
    named = {index: piece.piece for index, piece in enumerate(proto.pieces) if piece.piece in wanted}
    if named:
        return named
    return dict(MARKERS) if len(proto.pieces) == VOCAB_SIZE else {}
