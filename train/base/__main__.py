"""`python -m train.base CONFIG.toml`: make a small base from a folder of pictures."""

from __future__ import annotations

import argparse
import logging
import sys

from osediff_core.errors import OSEDiffError

from ..programs.console import refuse, start_console
from ..programs.tables import read_config
from .run import BaseConfig, train_prior, train_vae


def main() -> int:
    """Parse the command line and train the parts that it names."""
    parser = argparse.ArgumentParser(prog="python -m train.base", description=__doc__)
    parser.add_argument("config", help="a TOML file such as train/configs/demo_base.toml")
    parser.add_argument("--only", choices=("vae", "prior"), help="train one part; the other lies in `out`")
    args = parser.parse_args()
    start_console(logging.INFO, "%(asctime)s %(message)s")
    try:
        config = read_config(BaseConfig, args.config)
        for part, train in (("vae", train_vae), ("prior", train_prior)):
            if args.only in (None, part):
                train(config)
    except OSEDiffError as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
