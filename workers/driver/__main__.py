"""`python -m workers.driver <job uri>`: the entrypoint that Ray starts."""

from __future__ import annotations

import os
import sys

from workers.driver.driver import main

if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    # Ray Data's threads and a cancelled staging must not hold up the end of a finished job.
    os._exit(code)
