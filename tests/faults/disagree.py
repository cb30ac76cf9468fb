"""Two processes whose surroundings differ, for `torchrun disagree.py FOLDER`: what each of them hears.

FOLDER holds base (a TOML configuration), `begun` and `fresh` (folders of runs), `pictures` and `others`.
`heard_R.json` gets the sentence, or the step and checksum, of every case.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from osediff_core.errors import OSEDiffError
from train.config import TrainConfig, read_config
from train.engine import loop
from train.engine.agreement import together
from train.engine.loop import _prepared
from train.engine.state import checksum


def changed(config, **sections):
    """The configuration with other settings by section."""
    return replace(config, **{name: replace(getattr(config, name), **new) for name, new in sections.items()})


def main(folder):
    """Go through the cases; the second process is the odd one."""
    folder = Path(folder)
    accelerator = Accelerator(cpu=True)
    odd = accelerator.process_index == 1
    config = read_config(TrainConfig, folder / "base.toml")
    heard = {}

    def case(name, of_first, of_second=None, before=lambda trainer: None):
        sections = of_first if not odd or of_second is None else of_second
        try:
            trainer = together(accelerator, lambda: _prepared(changed(config, **sections), accelerator))
            before(trainer)
            trainer.resume()
            trainer.run()
            heard[name] = [trainer.step, checksum(trainer._trained())]
        except OSEDiffError as error:
            heard[name] = str(error)

    def other_weights(trainer):
        parameters = trainer.backbone.critic_parameters()
        if odd:
            next(iter(parameters.values())).data[0, 0] += 1e-6

    def full(trainer):
        def no_room(*_):
            raise OSError(28, "No space left on device")

        loop.write_state = no_room

    taken_up = {"run": {"out": str(folder / "begun"), "resume": True}}
    case("folders", taken_up, {"run": {"out": str(folder / "fresh"), "resume": True}})
    case("wishes", taken_up, {"run": {"out": str(folder / "begun"), "overwrite": True}})
    new = {"run": {"out": str(folder / "new"), "overwrite": True}}
    case("nothing", new)
    case("rate", new, {**new, "optim": {"learning_rate": 0.5}})
    case("length", new, {"run": {**new["run"], "steps": 7}})
    case("pictures", new, {**new, "data": {"sources": (str(folder / "others"),)}})
    case("missing", new, {**new, "data": {"sources": (str(folder / "nowhere"),)}})
    case("weights", new, before=other_weights)
    case("full", new, before=full)
    (folder / f"heard_{accelerator.process_index}.json").write_text(json.dumps(heard))


if __name__ == "__main__":
    main(*sys.argv[1:])
