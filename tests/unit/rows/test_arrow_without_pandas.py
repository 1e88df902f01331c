"""Our processes make Arrow's arrays without importing pandas, which works as ever for whoever wants it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import pyarrow as pa
from jobs.values.arrow import leave_pandas_out

finder = sys.meta_path[0]
leave_pandas_out()
assert sys.meta_path[0] is finder
assert pa.array([1, None]).null_count == 1
assert "pandas" not in sys.modules, "an array needs no pandas"

frame = pa.table({"a": [1.5, None]}).to_pandas()
import pandas as pd

assert pa.array(pd.Series([1.5, None])).null_count == 1, "pandas' objects are known again"
assert pa.Table.from_pandas(frame)["a"].null_count == 1
"""


def test_arrays_are_made_without_pandas_and_frames_with_it() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_a_frame_that_comes_first_is_converted_as_ever() -> None:
    first = SCRIPT.replace("finder =", "import pandas; pa.array([1]); finder =").replace(
        'assert "pandas" not in sys.modules', "assert True"
    )
    subprocess.run([sys.executable, "-c", first], check=True, timeout=60)
