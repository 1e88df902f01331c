"""Token ids of the texts that lm-evaluation-harness asks about, some of which are rendered chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import UsageError
from jobs.models.encoding import Encoder
from jobs.models.errors import InvalidMessages
from jobs.rows.boundaries import Context, chat_context


class Texts:
    """Encoder of the harness' texts.

    The harness renders a chat to a text and hands that back. Only text that was rendered here has marker tokens:
    elsewhere marker text is plain text, so no data set can forge a turn.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._chats: dict[str, Context] = {}
        self._refused: dict[str, str] = {}
        self._latest: tuple[str, list[int]] | None = None

    def render(self, messages: Sequence[Mapping[str, Any]], *, prefill: bool) -> str:
        """Render a chat and remember its tokens.

        A chat that does not fit the model's format is refused when its text is encoded: the harness also renders empty
        chats for perplexities, and does not use them.

        Args:
            prefill: the last message is the beginning of the assistant's answer.

        Raises:
            UsageError: the model has no chat format.
        """
        given, begun = (messages[:-1], str(messages[-1]["content"])) if prefill else (messages, "")
        (ids,) = self._encoder.encode_chats([given])
        if isinstance(ids, InvalidMessages):
            refused = f"a chat that cannot be rendered: {ids}"
            self._refused[refused] = str(ids)
            return refused
        text = self._encoder.decode(ids, skip_special=False) + begun
        context = chat_context(ids, self._encoder)
        self._chats[text.rstrip()] = Context(context.head, (context.text + begun).rstrip())
        return text

    def encode(self, text: str, continuation: str = "") -> list[int]:
        """Return the token ids of a text and what continues it, encoded as one.

        Raises:
            UsageError: the text is not Unicode, or a chat that does not fit the model's format.
        """
        if (why := self._refused.get(text)) is not None:
            raise UsageError(f"A chat of the task does not fit the model's chat format: {why}.", "Change the task.")
        if not continuation and self._latest is not None and self._latest[0] == text:
            return self._latest[1]
        stripped = text.rstrip()
        if (chat := self._chats.get(stripped)) is not None:
            (ids,) = self._encoder.encode_continuations([chat.text + text[len(stripped) :] + continuation])
            head = chat.head
        else:
            (ids,) = self._encoder.encode_prompts([text + continuation])
            head = ()
        if isinstance(ids, InvalidMessages):
            raise UsageError(f"A text of the task cannot be encoded: {ids}.", "Correct the task's data.")
        whole = [*head, *ids]
        if not continuation:
            self._latest = text, whole  # asked for again with each of its continuations
        return whole

    def encode_alone(self, text: str) -> list[int]:
        """Return the token ids of a text without the token that begins a sequence. Raises like `encode`."""
        (ids,) = self._encoder.encode_continuations([text])
        if isinstance(ids, InvalidMessages):
            raise UsageError(f"A text of the task cannot be encoded: {ids}.", "Correct the task's data.")
        return ids
