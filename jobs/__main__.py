"""`python -m jobs`: the command line where `jobs` is a shell builtin."""

import sys

from jobs.cli import main

sys.exit(main())
