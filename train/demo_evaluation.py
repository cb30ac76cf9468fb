"""`python -m train.demo_evaluation`: measure checkpoints on photographs (`train/demo/evaluation.py`)."""

import sys

from .demo.evaluation import main

if __name__ == "__main__":
    sys.exit(main())
