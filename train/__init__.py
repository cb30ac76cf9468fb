"""Training: degradation, data, objectives and the loop that writes OSEDiff checkpoints."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "adapters": "networks.adapters",
    "agreement": "engine.agreement",
    "averages": "optim.averages",
    "console": "programs.console",
    "curves": "watch.curves",
    "dead_leaves": "pictures.dead_leaves",
    "dice": "randomness.sampling",
    "discriminator": "objectives.discriminator",
    "draws": "objectives.draws",
    "ema": "optim.ema",
    "feed": "engine.feed",
    "guard": "optim.guard",
    "heldout": "demo.heldout",
    "interrupt": "engine.interrupt",
    "loop": "engine.loop",
    "losses": "objectives",
    "metrics": "evaluation.fidelity",
    "more_photographs": "pictures.more_photographs",
    "optimizers": "optim.optimizers",
    "pace": "watch.pace",
    "pages": "programs.pages",
    "perceptual": "objectives.perceptual",
    "plain_encoder": "networks.plain_encoder",
    "plan": "engine.dry_run",
    "prompt_sources": "prompts.prompter",
    "recent": "prompts.recent",
    "recompute": "networks.recompute",
    "report": "watch.report",
    "run_page": "watch.run_page",
    "setup": "engine.setup",
    "shares": "engine.shares",
    "state": "engine.state",
    "steps": "engine.steps",
    "tables": "programs.tables",
    "trackers": "watch.trackers",
    "validation": "engine.validation",
}
"""Where modules went that lay here before: programs that import them go on doing so."""


class _Moved(MetaPathFinder, Loader):
    """Finds a moved module under its old name: the very module, loaded once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if parent == __name__ and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(f"{__name__}.")
        sys.modules[module.__name__] = import_module(f"{__name__}.{MOVED[name]}")


sys.meta_path.append(_Moved())
