"""The system calls that a program in the sandbox may not make, as a filter for `bwrap --seccomp`.

A filter is a classic BPF program over `struct seccomp_data` (kernel, `Documentation/userspace-api/seccomp_filter.rst`):
it refuses calls by number with EPERM. Without calls that make processes or threads, a program stays one process with
one thread; a limit on a user's processes does not hold for root, as whom containers often run.
"""

from __future__ import annotations

import errno
import platform
import struct

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4
"""Offsets in `struct seccomp_data`."""

_X32 = 0x40000000
"""Calls of the x32 ABI have this bit: the same calls under other numbers."""

_CLONE3 = 435
_ARCHITECTURES: dict[str, tuple[int, tuple[int, ...]]] = {
    # clone, fork, vfork; ptrace, unshare, setns, mount, add_key, request_key, keyctl, bpf, userfaultfd,
    # perf_event_open, io_uring_setup
    "x86_64": (0xC000003E, (56, 57, 58, 101, 272, 308, 165, 248, 249, 250, 321, 323, 298, 425)),
    # clone; then the same
    "aarch64": (0xC00000B7, (220, 117, 97, 268, 40, 217, 218, 219, 280, 282, 241, 425)),
}


def is_known(machine: str | None = None) -> bool:
    """Return whether there is a filter for this kind of processor."""
    return (machine or platform.machine()) in _ARCHITECTURES


def filter_bytes(machine: str | None = None) -> bytes:
    """Return the compiled filter for this kind of processor.

    Raises:
        KeyError: there is none.
    """
    architecture, refused = _ARCHITECTURES[machine or platform.machine()]
    numbers = [*refused, _CLONE3]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    steps += [(_LOAD, 0, 0, _NUMBER), (_JUMP_AT_LEAST, len(numbers) + 1, 0, _X32)]
    # Each comparison jumps to the last step, over those that are left and the one that allows.
    steps += [(_JUMP_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
