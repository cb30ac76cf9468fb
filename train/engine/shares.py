"""Which samples of the run a process trains on: a matter of counting, so that nothing has to be remembered.

Samples are numbered through the whole run. Every optimizer step takes the next `global_batch` of them, in
`accumulation` rounds; in each round the processes take turns of `batch_size`. How many processes share the
work therefore changes who sees a sample, not which samples a step sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The part of process `rank` among `processes`."""

    rank: int
    processes: int
    batch_size: int
    accumulation: int

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step, all processes together."""
        return self.batch_size * self.processes * self.accumulation

    def batches(self, first_step: int, last_step: int) -> BatchNumbers:
        """Give the sample numbers of the steps [first_step, last_step): a batch_sampler for a DataLoader."""
        return BatchNumbers(self, first_step, last_step)


@dataclass(frozen=True)
class BatchNumbers:
    """Lists of sample numbers, `accumulation` of them for each step."""

    share: Share
    first_step: int
    last_step: int

    def __len__(self) -> int:
        """Return the number of lists."""
        return (self.last_step - self.first_step) * self.share.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """Go through the lists in the order of training."""
        share = self.share
        in_a_round = share.batch_size * share.processes
        first_round = self.first_step * share.accumulation
        for number in range(first_round, self.last_step * share.accumulation):
            start = number * in_a_round + share.rank * share.batch_size
            yield list(range(start, start + share.batch_size))
