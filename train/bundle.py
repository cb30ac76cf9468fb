"""`python -m train.bundle`: store a base and a checkpoint for shipping (`train/demo/bundle.py`)."""

import sys

from .demo.bundle import main

if __name__ == "__main__":
    sys.exit(main())
