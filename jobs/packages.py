"""Packages that a Python lacks, and the extra of nightbatch that brings each."""

from __future__ import annotations

import zoneinfo
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from jobs import __version__
from jobs.errors import MissingPackage

NAME = "nightbatch"

_EXTRAS = {
    "vllm": f"`pip install '{NAME}[gpu]'`, or '{NAME}[cpu]' where there are no GPUs",
    "deltalake": f"`pip install '{NAME}[delta]'`",
    "obstore": f"`pip install '{NAME}[cloud]'`",
    "pyiceberg": f"`pip install '{NAME}[iceberg]'`",
    "sqlalchemy": f"`pip install '{NAME}[iceberg]'`",
    "duckdb": f"`pip install '{NAME}[sql]'`",
    "fastapi": f"`pip install '{NAME}[serve]'`",
    "uvicorn": f"`pip install '{NAME}[serve]'`",
    "python_multipart": f"`pip install '{NAME}[serve]'`",
}
"""Modules that the base installation does not have, and how to install each."""


@cache
def lacking() -> tuple[str, ...]:
    """Return the distributions that the base installation asks for and this Python does not have, in name order.

    Empty if nothing is known of the installation: the program runs from a source tree.
    """
    return tuple(sorted(set(_lacking(NAME, ""))))


def _lacking(name: str, extra: str) -> list[str]:
    """Return what a distribution asks for and is missing: with an extra, only what that adds."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []
    missing = []
    for each in wanted:
        if each.marker is None:
            applies = not extra
        else:
            applies = each.marker.evaluate({"extra": extra}) and not (extra and each.marker.evaluate({"extra": ""}))
        if not applies:
            continue
        if each.name == "tzdata" and zoneinfo.available_timezones():
            continue  # the system's own time zones serve as well
        try:
            version(each.name)
        except PackageNotFoundError:
            missing.append(each.name)
            continue
        for further in each.extras:
            missing += _lacking(each.name, further)
    return missing


def has_engine(engine: str) -> bool:
    """Return whether this Python has what an engine needs beside the base installation."""
    return engine != "vllm" or find_spec("vllm") is not None


def check_packages(engine: str) -> None:
    """Check that this Python can run jobs of an engine: the embedded cluster runs in it.

    Raises:
        MissingPackage: names what is missing, and how to install it.
    """
    if missing := lacking():
        raise MissingPackage(
            f"This Python cannot run jobs: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            install_hint(missing[0]),
        )
    if not has_engine(engine):
        raise MissingPackage(
            "This Python cannot run jobs with vLLM: it is not installed.",
            f"{install_hint('vllm')} Or name a cluster that has it: --address http://HOST:8265.",
        )


def install_hint(module: str) -> str:
    """Return how to install a module or distribution that is missing."""
    command = _EXTRAS.get(module.partition(".")[0].replace("-", "_"))
    return f"Install it: {command}." if command else f"Install all that it needs: `pip install {NAME}=={__version__}`."


def failed_import(error: ImportError) -> MissingPackage:
    """Return an import that failed as an error in words. Both have the module's name and nothing else of the error."""
    module = (error.name or "").partition(".")[0]
    if not module:
        return MissingPackage("A package that the job needs cannot be imported.", "See: jobs doctor")
    if isinstance(error, ModuleNotFoundError):
        return MissingPackage(
            f"The package {module!r} is missing in the Python that runs the job.", install_hint(module)
        )
    return MissingPackage(
        f"The package {module!r} cannot be used in the Python that runs the job: its version does not fit, or the "
        "system lacks a library.",
        install_hint(module),
    )
