"""Encoder of prompts as token ids, for one model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from jobs.errors import InvalidModel, UsageError
from jobs.models import internlm2
from jobs.models.config import INTERNLM2, ModelInfo, load_info, read_json
from jobs.models.errors import InvalidMessages, InvalidText
from jobs.models.segments import Segment
from jobs.models.template import ChatTemplate
from jobs.models.words import WordTokenizer, pack, unpack
from jobs.values.cells import is_encodable


class PromptEncoder:
    """Encoder of prompts and conversations, as the model was trained to read them.

    Special-token text inside a prompt or a message is encoded as plain text. Safe to use from many
    threads; pickles as its directory's path. `encode_*s` use every core the `tokenizers` library is
    allowed (`TOKENIZERS_PARALLELISM`, `RAYON_NUM_THREADS`).

    Attributes:
        info: facts from the model's configuration.
        has_chat_format: whether `encode_chat` works: InternLM2, or a chat template in the directory.
    """

    def __init__(self, model_dir: str | Path) -> None:
        """See `load`."""
        self._dir = Path(model_dir)
        self.info: ModelInfo = load_info(self._dir)
        document = _tokenizer_json(self._dir)
        template = None if self.info.model_type == INTERNLM2 else _template_source(self._dir)
        markers = _markers(document, template or "")
        for token in document.get("added_tokens") or ():
            token["special"] = token["content"] in markers
        text = json.dumps(document)
        self._marked, self._plain = _tokenizer(text, self._dir), _tokenizer(text, self._dir)
        self._plain.encode_special_tokens = True
        self._special_ids = frozenset(t["id"] for t in document.get("added_tokens") or () if t["special"])
        self._words = WordTokenizer.of(document, self._plain)
        self._template = ChatTemplate(template, markers, _variables(self._dir)) if template else None
        self.has_chat_format = self.info.model_type == INTERNLM2 or self._template is not None
        bos = self._marked.token_to_id(internlm2.BOS) if self.info.model_type == INTERNLM2 else None
        self.bos_id: int | None = self.info.bos_id if bos is None else bos

    @classmethod
    def load(cls, model_dir: str | Path) -> Self:
        """Load the tokenizer and the chat format of a model directory.

        Raises:
            InvalidModel: no or damaged tokenizer.json, or a configuration that `load_info` refuses.
        """
        return cls(model_dir)

    def __reduce__(self) -> tuple[type[PromptEncoder], tuple[Path]]:
        return type(self), (self._dir,)

    @property
    def model_type(self) -> str:
        """`model_type` of config.json."""
        return self.info.model_type

    @property
    def max_model_len(self) -> int:
        """Longest supported sequence, prompt and output, in tokens."""
        return self.info.max_model_len

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix; every id is below it."""
        return self.info.vocab_size

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""
        return self.info.eos_ids

    @property
    def tool_call_id(self) -> int | None:
        """The token that starts a tool call; None for models other than InternLM2."""
        return self._marked.token_to_id(internlm2.ACTION_START) if self.model_type == INTERNLM2 else None

    @property
    def prefix_id(self) -> int:
        """The token before a text of which every token is scored: BOS, or the first end token of a model without it."""
        return self.eos_ids[0] if self.bos_id is None else self.bos_id

    def marked_length(self, ids: Sequence[int]) -> int:
        """Count the tokens up to and including the last special token; 0 if there is none."""
        return next((at for at in range(len(ids), 0, -1) if ids[at - 1] in self._special_ids), 0)

    def encode_prompt(self, text: str) -> list[int]:
        """Encode the text, after BOS if the model has one.

        Raises:
            InvalidText: the text holds a lone surrogate.
        """
        return _value(self.encode_prompts([text])[0])

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int] | InvalidText]:
        """Apply `encode_prompt` to each text, in order; a text that cannot be encoded gives its error."""
        return self._encode_plain(texts, bos=True)

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int] | InvalidText]:
        """Encode each text as it continues a prompt: no BOS, markers as plain text; errors as in `encode_prompts`."""
        return self._encode_plain(texts, bos=False)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Encode the conversation in the model's chat format, ending with the generation prompt.

        Raises:
            InvalidMessages: the conversation breaks the rules of `jobs.models.messages`.
            UsageError: the model has no chat format.
        """
        return _value(self.encode_chats([messages], [tools])[0])

    def encode_chats(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    ) -> list[list[int] | InvalidMessages]:
        """Apply `encode_chat` to each conversation, in order; an invalid one gives its error instead of ids.

        Text that several conversations share (a system message, say) is tokenised once.

        Raises:
            UsageError: the model has no chat format.
        """
        given = tools if tools is not None else [None] * len(conversations)
        rendered = [self._render(messages, of) for messages, of in zip(conversations, given, strict=True)]
        good = [segments for segments in rendered if not isinstance(segments, InvalidMessages)]
        ids = self._encode({segment for segments in good for segment in segments})
        return [
            segments if isinstance(segments, InvalidMessages) else unpack(b"".join([ids[one] for one in segments]))
            for segments in rendered
        ]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Decode token ids to text, without special tokens unless asked for."""
        return self._marked.decode(list(ids), skip_special_tokens=skip_special)

    def _render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> list[Segment] | InvalidMessages:
        try:
            if self._template is not None:
                segments = self._template.render(messages, tools)
            elif self.model_type == INTERNLM2:
                segments = internlm2.render_chat(messages, tools)
            else:
                raise UsageError("The model has no chat template.", "Use --no-chat with a column of prompts.")
        except InvalidMessages as error:
            return error
        return segments if all(is_encodable(segment.text) for segment in segments) else _invalid_text()

    def _encode_plain(self, texts: Sequence[str], *, bos: bool) -> list[list[int] | InvalidText]:
        encoded = iter(self._packed([text for text in texts if is_encodable(text)], bos=bos))
        return [unpack(next(encoded)) if is_encodable(text) else _invalid_text() for text in texts]

    def _packed(self, texts: Sequence[str], *, bos: bool) -> Iterable[bytes]:
        if self._words is None:
            return (pack(found.ids) for found in self._plain.encode_batch_fast(texts, add_special_tokens=bos))
        head = pack(self._plain.encode("", add_special_tokens=bos).ids)
        return (head + ids for ids in self._words.encode(texts))

    def _encode(self, segments: set[Segment]) -> dict[Segment, bytes]:
        trusted = [segment for segment in segments if segment.trusted]
        untrusted = [segment for segment in segments if not segment.trusted]
        marked = self._marked.encode_batch_fast([segment.text for segment in trusted], add_special_tokens=False)
        plain = self._packed([segment.text for segment in untrusted], bos=False)
        ids = {segment: pack(found.ids) for segment, found in zip(trusted, marked, strict=True)}
        return ids | dict(zip(untrusted, plain, strict=True))


def _value(result: list[int] | InvalidMessages) -> list[int]:
    if isinstance(result, InvalidMessages):
        raise result
    return result


def _invalid_text() -> InvalidText:
    return InvalidText("the text holds a lone surrogate, which is not a character")


def _tokenizer_json(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer.json"
    if path.is_file():
        return read_json(path)
    raise InvalidModel(
        f"{model_dir} has no tokenizer.json, so its tokenizer needs conversion or code of the model's own.",
        "Run `jobs model prepare` on an InternLM2 download; other models need a native tokenizer.json.",
    )


def _tokenizer(document: str, model_dir: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(document)
    except Exception as error:  # the library raises bare Exception
        raise InvalidModel(f"{model_dir / 'tokenizer.json'} is damaged.", "Download the model again.") from error
    # Some files carry the settings of a training run, which would silently cut long prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _markers(document: Mapping[str, Any], template: str) -> tuple[str, ...]:
    """List special tokens and added tokens that the chat template writes (`<tool_call>`): data must forge neither."""
    return tuple(
        token["content"]
        for token in document.get("added_tokens") or ()
        if token["special"] or (token["content"].strip() and token["content"] in template)
    )


def _template_source(model_dir: Path) -> str | None:
    path = model_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _tokenizer_config(model_dir).get("chat_template")
    if isinstance(template, list):
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _variables(model_dir: Path) -> dict[str, str]:
    variables: dict[str, str] = {}
    for key, value in _tokenizer_config(model_dir).items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            variables[key] = text
    return variables


def _tokenizer_config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}
