"""Code that an engine has compiled for a model, kept beside the snapshot so that other nodes need not compile it."""

from __future__ import annotations

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document


class CompiledFor(Document):
    """What compiled code depends on, beside the engine's options, which the engine's own cache tells apart."""

    model: str = Field(description="Fingerprint of the model directory.")
    engine: str = Field(description="Name and version of the engine, such as `vllm 0.32.0`.")
    torch: str
    python: str = Field(description="Major and minor version.")
    machine: str = Field(description="Processor's architecture.")
    device: str = Field(description="Kind of the GPU; of a CPU, its instruction sets.")


class CompiledPack(Document):
    """One archive of compiled code."""

    file: str = Field(pattern=r"^[0-9a-f]{64}\.tar$", description="Name of the archive: its SHA-256.")
    size_bytes: int = Field(ge=0)
    made_for: CompiledFor


class CompiledManifest(Document):
    """`manifest.json` beside the archives. A job's spec pins its SHA-256: what it does not name is never loaded."""

    format_version: int = FORMAT_VERSION
    packs: tuple[CompiledPack, ...] = ()
