"""`python -m workers.origin SRC DST OPTIONS`: the program behind `jobs model prepare` for Origin checkpoints.

OPTIONS is a JSON object of `Meaning`'s attributes, null where `model_config.pt` is to say it. Each line of output is a
JSON object: `{"step": …}`, or last `{"error": …, "hint": …}` with exit code 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jobs.errors import InvalidModel
from workers.origin.convert import convert
from workers.origin.settings import Meaning


def _say(**line: str) -> None:
    print(json.dumps(line), flush=True)


def main() -> int:
    """Convert; return the exit code."""
    source, target = map(Path, sys.argv[1:3])
    try:
        meaning = Meaning.of(source, **json.loads(sys.argv[3]))
        convert(source, target, meaning=meaning, report=lambda step: _say(step=step))
    except InvalidModel as error:
        _say(error=str(error.args[0]), hint=error.hint)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
