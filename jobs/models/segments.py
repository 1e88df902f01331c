"""Rendered prompts as runs of trusted and untrusted text, which keeps data from forging markers."""

from __future__ import annotations

from typing import NamedTuple


class Segment(NamedTuple):
    """A run of text that is tokenised by itself.

    Attributes:
        trusted: the text is the format's own, so marker text in it becomes marker tokens. In
            untrusted text (anything that came from a row) marker text stays plain text.
    """

    text: str
    trusted: bool
