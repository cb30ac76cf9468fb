"""`python -m train.demo_page`: the demo's tables and picture (`train/demo/page.py`)."""

import sys

from .demo.page import main

if __name__ == "__main__":
    sys.exit(main())
