"""`python -m osediff_core IN OUT`, the same as the console script `osediff`."""

from __future__ import annotations

import sys

from .commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
