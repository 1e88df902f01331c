"""Structured outputs: the form that a row or a job requires, and whether the engine can compile it."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jobs.dataset import decoder
from jobs.dataset.decoder import DecoderEnded
from jobs.values.cells import MAX_DEPTH, is_shallow
from schemas.sampling import ANY_OBJECT, StructuredOutputs

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_FORM_BYTES = 2**20
"""Most bytes of a form as JSON."""

MAX_REPEATS = 50_000
"""Most repeated items: the compiler numbers the parts of a grammar with 16 bits."""

MEMORY_BYTES = 2**30
"""Address space that compiling one form may take."""

_CPU_S = 60.0
_NAME = re.compile(r"[\w.-]{1,60}", re.ASCII)
_NO_TEXT = "there is no text of this form"
_TRIAL_STEPS, _SAMPLE_BYTES = 256, 1000

_VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords of JSON schemas that hold values, not schemas."""

_DESCRIPTION = frozenset({"name", "description", "schema", "strict"})
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def of_response_format(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """Convert OpenAI's `response_format` to values of `StructuredOutputs`; None for plain text.

    Raises:
        ValueError: neither text, json_object nor json_schema with a schema.
    """
    given = {name: value for name, value in response_format.items() if value is not None}
    kind, described = given.get("type"), given.get("json_schema")
    known = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    if unknown := sorted(map(str, given.keys() - known)):
        raise ValueError(f"response_format: {name_of(unknown[0])} is not known beside type {name_of(kind)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_schema": ANY_OBJECT}
    if kind != "json_schema" or not isinstance(described, Mapping) or described.get("schema") is None:
        raise ValueError("response_format is neither text, json_object nor json_schema with a schema")
    if unknown := sorted(map(str, described.keys() - _DESCRIPTION)):
        raise ValueError(f"response_format.json_schema: {name_of(unknown[0])} is not known")
    if not isinstance(described.get("strict"), bool | None):
        raise ValueError("response_format.json_schema.strict: true or false is wanted")
    return {"json_schema": described["schema"]}


def name_of(given: object) -> str:
    """Quote the name of a field that a row gives; text that is hardly a name may be a prompt."""
    return repr(given) if given is None or (isinstance(given, str) and _NAME.fullmatch(given)) else "a name"


def guided_schema(json_schema: str) -> str:
    """Return the schema with the separators of `json.dumps` for the compiler to write between values.

    With free white space, a model that keeps choosing it fills the answer with blanks to its last token.
    """
    schema = json.loads(json_schema)
    if not isinstance(schema, dict):
        return json_schema
    return json.dumps({"x-guidance": _SEPARATORS, **schema}, ensure_ascii=False)


def compile_error(form: StructuredOutputs) -> str | None:
    """Return why the engine cannot enforce this form, or None.

    Asks the compiler that the engine uses (llguidance) whether the form compiles and whether its shortest text can be
    written, so that a job does not start with a form that it cannot finish. The work is bounded by the compiler's own
    counts and by a memory limit, in a separate process; the time limit only guards against a hang.
    Never reads from the network: references to other documents are errors.
    """
    try:
        text = form.to_json()
    except UnicodeEncodeError:
        return f"{form.kind} holds a lone surrogate, which is not a character"
    key = hashlib.blake2b(text, digest_size=16).digest()
    if key not in _known:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[key] = _compile_error(form, len(text))
    return _known[key]


_REMEMBERED = 65_536
_known: dict[bytes, str | None] = {}


def _compile_error(form: StructuredOutputs, size: int) -> str | None:
    if size > MAX_FORM_BYTES:
        return f"{form.kind} has {size:,} bytes; at most {MAX_FORM_BYTES:,} are possible"
    if form.json_schema is not None:
        try:
            schema = json.loads(form.json_schema)
        except (ValueError, RecursionError):
            return "json_schema is not JSON"
        if not is_shallow(schema):
            return f"json_schema is nested over {MAX_DEPTH} levels deep"
        if (repeats := _repeats(schema)) > MAX_REPEATS:
            return (
                f"json_schema cannot be compiled: its minItems and maxItems come to {repeats:,} items; at most "
                f"{MAX_REPEATS:,} are possible"
            )
    try:
        [reason] = decoder.stream(_why_not, grammar_of(form), cpu_s=_CPU_S, memory_bytes=MEMORY_BYTES)
    except DecoderEnded as ended:
        return f"{form.kind} cannot be compiled: it {ended}"
    return f"{form.kind} {reason}" if reason else None


def grammar_of(form: StructuredOutputs) -> str:
    """Return the form as the grammar that the engine's compiler takes.

    Raises:
        ValueError: the JSON schema is not JSON.
    """
    from llguidance import LLMatcher, grammar_from

    if form.json_schema is not None:
        return LLMatcher.grammar_from_json_schema(guided_schema(form.json_schema))
    if form.regex is not None:
        return grammar_from("regex", form.regex)
    # The compiler makes the same alternatives from a list, but its type annotation allows text only.
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in form.choice or ()))


def is_of_form(text: str, form: StructuredOutputs) -> bool:
    """Return whether an answer that claims to be complete has its form: JSON, one of the choices, a regex match."""
    if form.json_schema is not None:
        return is_json(text)
    # A tokenizer may encode the first word with a leading space that decoding drops.
    spellings = (text, f" {text}")
    if form.choice is not None:
        return any(spelling in form.choice for spelling in spellings)
    return any(_matches(spelling, form) for spelling in spellings)


def sample_of(form: StructuredOutputs, source: random.Random) -> str:
    """Return a random text of the form, ended at the first chance; cut if it has not ended after 1,000 bytes."""
    matcher, text = _matcher(form).deep_copy(), bytearray()
    while len(text) < _SAMPLE_BYTES and not (text and matcher.is_accepting()) and not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        if not allowed:
            break
        printable = [byte for byte in allowed if 0x20 <= byte < 0x7F]
        text.append(source.choice(printable or allowed))
        matcher.consume_token(text[-1])
    return text.decode(errors="ignore")


def is_json(text: str, *, cut: bool = False) -> bool:
    """Return whether a text is JSON. In a cut text a number can look whole (`12` of `123`): only lists and objects mark
    their end."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return not cut or isinstance(value, list | dict)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _matches(text: str, form: StructuredOutputs) -> bool:
    matcher = _matcher(form).deep_copy()
    return bool(matcher.consume_tokens(list(text.encode(errors="surrogatepass")))) and matcher.is_accepting()


@lru_cache(maxsize=64)
def _matcher(form: StructuredOutputs) -> LLMatcher:
    from llguidance import LLMatcher

    return LLMatcher(_bytes_tokenizer(), grammar_of(form), log_level=0)


@lru_cache(maxsize=1)
def _bytes_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _repeats(schema: Any) -> int:
    """Count the items that a schema spells out. The compiler allocates memory for each before it counts them."""
    if isinstance(schema, list):
        return sum(map(_repeats, schema))
    if not isinstance(schema, dict):
        return 0
    counts = [schema[name] for name in ("minItems", "maxItems") if isinstance(schema.get(name), int | float)]
    own = int(min(max(counts), 10**18)) if counts and max(counts) > 0 else 0
    return own + sum(_repeats(value) for name, value in schema.items() if name not in _VALUES)


# -- in a separate process -----------------------------------------------------------------------


def _why_not(grammar: str) -> Iterator[str]:
    """Yield why the compiler rejects a grammar or cannot write a text of it; empty if neither is the case."""
    from llguidance import LLMatcher, LLParserLimits

    # Errors must reveal nothing of a row beyond the compiler's first line.
    limits = LLParserLimits(verbose_errors=False)
    if error := LLMatcher.validate_grammar(grammar, None, limits=limits):
        # The compiler prints the whole expression first, and the surrounding grammar last.
        yield f"cannot be compiled: {_first_line(error.partition('error: ')[2] or error)}"
        return
    matcher = LLMatcher(_bytes_tokenizer(), grammar, log_level=0, limits=limits)
    mask = matcher.compute_bitmask()
    # Try a value of each kind that the form allows: an object, a list, a text, a number.
    firsts = [] if matcher.is_error() else [byte for byte in _OPENING if mask[byte >> 3] >> (byte & 7) & 1]
    error = next(filter(None, (_trial(matcher.deep_copy(), [byte]) for byte in firsts)), "") or _trial(matcher, ())
    yield f"cannot be enforced: {_first_line(error)}" if error else ""


def _trial(matcher: LLMatcher, first: Iterable[int]) -> str:
    """Write a text of the grammar byte by byte, ending it as soon as possible; return the compiler's error or "".

    A long text is not followed to its end: errors further on cost only the rows that get that far.
    """
    for byte in first:
        matcher.consume_token(byte)
    for _ in range(_TRIAL_STEPS):
        if matcher.is_error() or matcher.is_stopped() or matcher.is_accepting():
            break
        mask = matcher.compute_bitmask()
        choice = next((byte for byte in _CLOSING_FIRST if mask[byte >> 3] >> (byte & 7) & 1), None)
        if matcher.is_error():
            break
        if choice is None:
            return _NO_TEXT
        matcher.consume_token(choice)
    if not matcher.is_error():
        return ""
    error = matcher.get_error()
    return _NO_TEXT if error.startswith("NoExtension") else error


def _first_line(error: str) -> str:
    return error.splitlines()[0][:300]


_OPENING = b'{["0'
_CLOSING_FIRST = bytes(dict.fromkeys(b'}]"' + bytes(range(0x30, 0x3A)) + bytes(range(0x20, 0x7F)) + bytes(range(256))))
