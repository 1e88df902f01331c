"""SIGTERM of a replica's process: a node that is shut down in good order ends its processes so."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

GRACE_S = 20.0
"""Time that rows inside have after SIGTERM: Kubernetes and clouds send SIGKILL after 30 s."""


def on_sigterm(told: Callable[[], bool]) -> bool:
    """Call `told` on SIGTERM; where it returns False, or on a second signal, the process ends as it would have.

    Returns:
        Whether the signal is caught: only the main thread can do so.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    before = signal.getsignal(signal.SIGTERM)

    def heed(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        if not told():
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, heed)
    return True
