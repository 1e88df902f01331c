"""Examples for Airflow, Dagster and Slurm: what can be seen without these, and more where they are installed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jobs
from jobs.spec.options import SubmitOptions
from tests.support.deploy_commands import DEPLOY

EXAMPLES = [DEPLOY / "airflow/nightbatch_reviews.py", DEPLOY / "dagster/nightbatch_reviews.py"]
SLURM = DEPLOY / "slurm/nightbatch.sbatch"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_use_options_and_names_that_the_client_has(path: Path) -> None:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    (submit,) = [call for call in calls if call.func.attr == "submit"]  # type: ignore[attr-defined]
    given = {keyword.arg for keyword in submit.keywords}
    assert given <= {"job_id", *SubmitOptions.__annotations__}
    assert "job_id" in given, "a retry attaches by the id"
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "jobs"]
    named = {alias.name for each in imports for alias in each.names}
    assert named
    assert named <= set(jobs.__all__)


def test_airflow_loads_the_dag() -> None:
    pytest.importorskip("airflow.sdk", reason="needs apache-airflow 3, which takes minutes to install")
    from airflow.sdk import DAG

    module = load(EXAMPLES[0])
    dag: Any = module.nightbatch_reviews()
    assert isinstance(dag, DAG)
    assert set(dag.task_ids) == {"submit", "results", "publish"}
    assert dag.get_task("results").reschedule is True, "a wait of hours holds no worker slot"


def test_dagster_loads_the_asset() -> None:
    dagster = pytest.importorskip("dagster", reason="needs dagster, which takes minutes to install")
    module = load(EXAMPLES[1])
    dagster.Definitions.validate_loadable(module.defs)
    assert module.reviews.partitions_def is not None


def test_bash_accepts_the_slurm_script() -> None:
    done = subprocess.run(["bash", "-n", str(SLURM)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    directives = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH ")]
    # Together they make a job that is out of time save its rows and go on later, under the same log.
    assert {"#SBATCH --signal=B:TERM@300", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(directives)
