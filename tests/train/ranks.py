"""A run as several processes take it, for `torchrun ranks.py CONFIG FOLDER`: each leaves the weights it has.

`together_R.pt` after the run, `apart_R.pt` after one step in which process R averaged with nobody,
`astray_R.pt` after a run in which every process took the pictures of the first.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from train.config import TrainConfig, read_config
from train.data import build_dataset
from train.engine.loop import Trainer
from train.optim.averages import single_process


def main(config, folder):
    """Take all steps together, then one alone, then all on the wrong pictures."""
    config = read_config(TrainConfig, config)
    accelerator = Accelerator(cpu=True)
    dataset = build_dataset(config.data, config.degradation, config.run.seed)

    def leave(trainer, what):
        both = trainer.backbone.generator_parameters(), trainer.backbone.critic_parameters()
        tensors = [{k: p.detach() for k, p in tensors.items()} for tensors in both]
        torch.save(tensors, Path(folder) / f"{what}_{accelerator.process_index}.pt")

    trainer = Trainer(config, dataset, accelerator)
    trainer.run()
    leave(trainer, "together")
    for updater in (trainer.stepper.generator_optimizer, trainer.stepper.opponents["critic"].updater):
        updater.average = single_process
    trainer.stepper.step(next(trainer.feed.rounds(0)))
    leave(trainer, "apart")

    astray = replace(config, run=replace(config.run, out=f"{config.run.out}_astray"))
    trainer = Trainer(astray, dataset, accelerator)
    trainer.feed.share = replace(trainer.share, rank=0)
    trainer.run()
    leave(trainer, "astray")


if __name__ == "__main__":
    main(*sys.argv[1:])
