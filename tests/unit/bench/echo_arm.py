"""An arm that takes no time, for the tests of what asks it. `exit` ends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.bench.arms import serve


def answer(arm: str, dataset: Path) -> dict[str, Any]:
    if arm == "exit":
        os._exit(3)
    print("an engine talks")
    return {"said": f"{arm} of {dataset}"}


if __name__ == "__main__":
    serve({"start_s": 1.5}, answer)
