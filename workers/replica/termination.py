"""SIGTERM of a replica's process: a node that is shut down in good order ends its processes so.

Ray runs the code of such an actor beside the main thread, and only the main thread may change what a signal does. So
the change is queued for it with `Py_AddPendingCall`, which is CPython's public way to run something there.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from types import FrameType

GRACE_S = 20.0
"""Time that rows inside have after SIGTERM: Kubernetes and clouds send SIGKILL after 30 s."""

_kept: list[object] = []
"""What the interpreter calls later must not be collected before."""


def on_sigterm(told: Callable[[], bool]) -> None:
    """Call `told` on SIGTERM. Where it returns False, and on a second signal, the process ends as it would have."""

    def install(_: object = None) -> int:
        before = signal.getsignal(signal.SIGTERM)

        def heed(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, before)
            if not told():
                signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, heed)
        return 0

    if threading.current_thread() is threading.main_thread():
        install()
        return
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(install)
    _kept.append(call)
    ctypes.pythonapi.Py_AddPendingCall(call, None)
