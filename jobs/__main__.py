"""The command line as `python -m jobs`, for shells in which `jobs` is a builtin."""

import sys

from jobs.cli import main

sys.exit(main())
