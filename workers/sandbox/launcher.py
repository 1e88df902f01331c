"""The program inside the sandbox: it limits itself, runs one program, and says how that ended.

It is passed to `python -c` as text, so it uses the standard library alone. Its input is one JSON object on stdin; its
answer is one line on stdout, which begins with the input's token: whatever the program prints goes nowhere.
"""

import json
import os
import resource
import signal
import sys


class _OutOfTime(BaseException):
    """The program has used up its time of the processor."""


def _stop(*_: object) -> None:
    raise _OutOfTime


def main() -> None:
    """Run the program that stdin has."""
    task = json.load(sys.stdin)
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for name, limit in task["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    signal.signal(signal.SIGPROF, _stop)
    outcome, detail = "passed", ""
    try:
        signal.setitimer(signal.ITIMER_PROF, task["cpu_s"])
        try:
            exec(task["program"], {})  # noqa: S102 - what this process is for
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _OutOfTime:
        outcome = "timeout"
    except BaseException as error:  # noqa: BLE001 - a program may end by any exception, SystemExit among them
        outcome, detail = "failed", type(error).__name__
    os.write(answer, (task["token"] + json.dumps({"outcome": outcome, "detail": detail}) + "\n").encode())
    os._exit(0)


if __name__ == "__main__":
    main()
