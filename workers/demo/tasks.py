"""Questions with one right answer, used to train and to judge the demo model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = _words(
    "apple arrow baker beach bell bird boat bread brick brush cabin candle castle chair cloud coffee corn crown "
    "daisy desk door dragon drum eagle engine fence field flute forest garden ghost glass grape hammer harbor honey "
    "island jacket kettle ladder lemon mirror monkey needle ocean orange paper pencil piano queen rabbit river saddle "
    "silver spider table tiger tunnel violin window"
)
NAMES = _words(
    "Ada Ben Carla David Emma Felix Grace Hugo Ines Jonas Kira Leo Maya Nora Oscar Petra Quinn Rosa Sam Tara"
)
CITIES = _words("Athens Berlin Cairo Dublin Geneva Hanoi Lima London Madrid Nairobi Oslo Paris Quito Rome Seoul Tokyo")
SYSTEMS = (
    "You are a careful assistant. Give only the answer.",
    "Answer briefly and correctly.",
    "You work through a batch of small questions. Reply with the answer and nothing else.",
)

_HELD_OUT_IN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question.

    Attributes:
        prompt: what the user asks.
        expected: the right answer; see `is_right`.
        held_out: never used in training, however it is phrased.
    """

    task: str
    prompt: str
    expected: str
    held_out: bool


def _add(chance: random.Random) -> tuple[str, str, str]:
    a, b = chance.randint(0, 99), chance.randint(0, 99)
    prompt = chance.choice(("What is {a} + {b}?", "Add {a} and {b}.", "Compute {a} + {b}."))
    return prompt.format(a=a, b=b), str(a + b), f"{a} {b}"


def _compare(chance: random.Random) -> tuple[str, str, str]:
    a, b = chance.sample(range(1000), 2)
    word, best = chance.choice((("larger", max), ("smaller", min)))
    return f"Which number is {word}, {a} or {b}?", str(best(a, b)), f"{a} {b}"


def _reverse(chance: random.Random) -> tuple[str, str, str]:
    words = chance.sample(WORDS, chance.randint(2, 5))
    prompt = chance.choice(("Reverse the order of these words: {}", "Write these words backwards, last word first: {}"))
    return prompt.format(" ".join(words)), " ".join(reversed(words)), " ".join(words)


def _sort(chance: random.Random) -> tuple[str, str, str]:
    words = chance.sample(WORDS, chance.randint(2, 4))
    prompt = chance.choice(("Sort these words alphabetically: {}", "Put these words in alphabetical order: {}"))
    return prompt.format(" ".join(words)), " ".join(sorted(words)), " ".join(words)


def _extract(chance: random.Random) -> tuple[str, str, str]:
    facts = {"name": chance.choice(NAMES), "age": chance.randint(10, 99), "city": chance.choice(CITIES)}
    field = chance.choice(tuple(facts))
    sentence = chance.choice(("{name} is {age} years old and lives in {city}.", "In {city} lives {name}, aged {age}."))
    prompt = f"Extract the {field} as JSON: " + sentence.format(**facts)
    return prompt, json.dumps({field: facts[field]}), " ".join(map(str, facts.values()))


TASKS: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    "add": _add,
    "compare": _compare,
    "reverse": _reverse,
    "sort": _sort,
    "extract": _extract,
}
"""Question generators by task. Each returns the prompt, the expected answer, and what the question is about (the key by
which it is held out)."""


def questions(seed: int, *, held_out: bool) -> Iterator[Question]:
    """Yield an endless, seeded stream of questions, either for training or never seen in training."""
    chance = random.Random(seed)  # noqa: S311 - reproducible questions, no secret
    names = tuple(TASKS)
    while True:
        task = chance.choice(names)
        prompt, expected, key = TASKS[task](chance)
        if _is_held_out(f"{task} {key}") == held_out:
            yield Question(task=task, prompt=prompt, expected=expected, held_out=held_out)


def messages(question: Question, chance: random.Random) -> list[dict[str, str]]:
    """Return the question as a conversation; half of the conversations start with a system message."""
    system = [{"role": "system", "content": chance.choice(SYSTEMS)}] if chance.random() < 0.5 else []
    return [*system, {"role": "user", "content": question.prompt}]


def is_right(expected: str, generated_text: str) -> bool:
    """Return whether the answer is right: equal as JSON if an object is expected, else equal as text."""
    answer = generated_text.strip()
    if not expected.startswith("{"):
        return answer == expected
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except ValueError:
        return False


def _is_held_out(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] % _HELD_OUT_IN == 0
