"""How a process of a job came to its first work, phase by phase: for people only, nothing is decided by it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document


class Phase(Document):
    """One phase of a process's start. Phases may lie inside others."""

    name: str = Field(max_length=80)
    begin_s: float = Field(ge=0.0, description="Seconds since the process began, by its monotonic clock.")
    took_s: float = Field(ge=0.0, description="By the same clock.")


class Start(Document):
    """The start of one process: the command that submitted, the driver, or a replica."""

    format_version: int = FORMAT_VERSION
    driver: str = Field(description="Ray submission id of the driver that this start belongs to.")
    process: Literal["command", "driver", "replica"]
    name: str = Field("", description="Of the replica.")
    machine: str = Field("", description="Of the boot and of the process namespace; equal on one machine.")
    began_at: float = Field(description="Seconds since the epoch, by this machine's clock: approximate elsewhere.")
    phases: tuple[Phase, ...] = Field((), max_length=64)
    first_row_s: float | None = Field(None, ge=0.0, description="When a replica's first row left its engine.")
