"""`python -m train CONFIG.toml [--plan] [--section.key VALUE]`: train OSEDiff, or say what would be done."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from osediff_core.commands.console import show
from osediff_core.device.huge_pages import ask_for_huge_pages
from osediff_core.errors import OSEDiffError

from .programs.console import refuse, start_console

if TYPE_CHECKING:
    from .config import TrainConfig

USAGE = "python -m train CONFIG.toml [--plan] [--section.key VALUE ...]"

BOOLEANS = {"true": True, "false": False}
"""As in the configuration's TOML; capital letters, as in Python's, do no harm."""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train; returns the exit status."""
    start_console(logging.INFO)
    ask_for_huge_pages(os.environ)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except OSEDiffError as error:
        return refuse(error)
    except KeyboardInterrupt:  # before the first step; later, the loop ends by itself
        return 130


def _run(arguments: list[str]) -> int:
    from .config import TrainConfig
    from .programs.tables import read_config

    wants_help = not arguments or arguments[0] in ("-h", "--help")
    if not wants_help and arguments[0].startswith("-"):
        raise OSEDiffError(f"the configuration file comes first: {USAGE}")
    default = TrainConfig() if wants_help else read_config(TrainConfig, arguments[0])
    overrides = ["--help"] if wants_help else [a for a in arguments[1:] if a != "--plan"]
    config = _override(default, overrides)
    answer = _plan(config) if "--plan" in arguments else _train(config)
    if os.environ.get("RANK", "0") == "0":  # set by torchrun and accelerate launch
        show(answer)
    return 0


def _override(default: TrainConfig, arguments: list[str]) -> TrainConfig:
    """Change a configuration by arguments. Raises SystemExit, as argparse does, for what they cannot mean."""
    try:
        import tyro
        from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo
    except ImportError as error:
        raise OSEDiffError("training needs the package tyro: install the train extra") from error
    from .config import TrainConfig

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def boolean(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
        """Read true and false where a boolean is wanted, and nowhere else: tyro reads Python's."""
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{true,false}",
            instance_from_str=_boolean,
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value).lower()],
        )

    kind = tyro.conf.configure(tyro.conf.FlagConversionOff)(TrainConfig)
    with registry:
        return tyro.cli(kind, prog="python -m train CONFIG.toml", default=default, args=arguments)


def _boolean(words: list[str]) -> bool:
    value = BOOLEANS.get(words[0].lower())
    if value is None:
        raise ValueError(f"it is true or false, got {words[0]}")
    return value


def _plan(config: TrainConfig) -> str:
    from .engine.dry_run import plan

    return plan(config)


def _train(config: TrainConfig) -> str:
    from .engine.loop import train

    return f"The newest checkpoint is {train(config)}"


if __name__ == "__main__":
    sys.exit(main())
